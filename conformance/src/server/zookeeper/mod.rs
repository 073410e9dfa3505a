//! ZooKeeper, as Debian packages it.

mod builder;
mod cluster;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::directory::Directory;
use super::{Authority, Server, cannot_run};

pub use builder::ZooKeeperBuilder;
pub use cluster::ZooKeeperEnsemble;

/// Where Debian's `libzookeeper-java` puts it; its manifest names the other libraries, but for [`MORE_CLASSES`].
const CLASSES: &str = "/usr/share/java/zookeeper.jar";

/// What Netty needs for TLS, and what writes the log.
const MORE_CLASSES: &str = ":/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar\
    :/usr/share/java/netty-transport-native-unix-common.jar:/usr/share/java/slf4j-simple.jar";

/// The login of [`ZooKeeperBuilder::superuser`], and what the server knows of it: SHA-1 of both, in Base64.
const SUPERUSER: (&str, &str) = ("super", "conformance-super");
const SUPER_DIGEST: &str = "super:vwF3b39JxzrgKUNiFet8/1LxKxY=";

/// No answer to a word of four letters takes longer.
const LIMIT: Duration = Duration::from_secs(5);

/// One ZooKeeper server and what its operator can do. Nodes are written by a client: a tool of ZooKeeper would start a
/// Java machine for each.
#[derive(Debug)]
pub struct ZooKeeper {
    server: Box<dyn Server>,
    /// The data of a server that is a process.
    data: Option<PathBuf>,
    superuser: bool,
    tls: Option<(Authority, SocketAddr)>,
    scratch: Directory,
}

impl ZooKeeper {
    /// Why none can be started here, if so: the package is needed beside a container too.
    pub fn missing() -> Option<String> {
        if !Path::new(CLASSES).exists() {
            return Some(format!("{CLASSES}: install the package libzookeeper-java"));
        }
        cannot_run("java".as_ref(), "-version")
    }

    /// Starts one without security.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        ZooKeeperBuilder::default().start().await
    }

    /// One with other settings.
    pub fn builder() -> ZooKeeperBuilder {
        ZooKeeperBuilder::default()
    }

    /// The server, to be made to fail. Its address is that without TLS.
    pub fn server(&self) -> &dyn Server {
        &*self.server
    }

    /// Where it speaks TLS, with [`ZooKeeperBuilder::tls`].
    pub fn secure(&self) -> Option<SocketAddr> {
        self.tls.as_ref().map(|(_, address)| *address)
    }

    /// The authority that its clients must trust and be certified by, with [`ZooKeeperBuilder::tls`]. To the server the
    /// subject of a certificate is a user of the scheme `x509`.
    pub fn authority(&self) -> Option<&Authority> {
        self.tls.as_ref().map(|(authority, _)| authority)
    }

    /// The login of the scheme `digest` that may do everything, with [`ZooKeeperBuilder::superuser`].
    pub fn superuser(&self) -> Option<(&str, &str)> {
        self.superuser.then_some(SUPERUSER)
    }

    /// What it says to a word of four letters: `srvr` or `wchs`.
    ///
    /// # Errors
    /// `Unavailable` without an answer within 5 s.
    pub async fn ask(&self, word: &str) -> Result<String> {
        ask(self.server.address(), word).await
    }

    /// How many watches it has open.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `Protocol` when it says something else.
    pub async fn open_watches(&self) -> Result<usize> {
        let said = self.ask("wchs").await?;
        // `Total watches:7`
        let count = said.rsplit_once(':').map(|(_, count)| count.trim().parse());
        match count {
            Some(Ok(count)) => Ok(count),
            _ => Err(Error::new(
                ErrorKind::Protocol,
                format!("no number of watches in: {said}"),
            )),
        }
    }

    /// Copies its data, and returns the directory. It lives as long as this value.
    ///
    /// # Errors
    /// `Unsupported` for a container; `Unavailable` when they cannot be copied.
    pub async fn save(&self) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let saved = self.scratch.join(format!("saved-{number}"));
        copy(self.data()?, &saved).map_err(|error| failed("its data cannot be copied", error))?;
        Ok(saved)
    }

    /// Kills it, replaces its data by those that were saved, and starts it again at the same address.
    ///
    /// # Errors
    /// As [`save`](Self::save) and [`Server::restart`].
    pub async fn restore(&self, saved: &Path) -> Result<()> {
        let data = self.data()?;
        self.server.kill().await?;
        let replaced = fs::remove_dir_all(data).and_then(|()| copy(saved, data));
        replaced.map_err(|error| failed("its data cannot be replaced", error))?;
        self.server.restart().await
    }

    fn data(&self) -> Result<&Path> {
        self.data.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the data of a container are not copied; run without containers",
            )
        })
    }
}

async fn ask(server: SocketAddr, word: &str) -> Result<String> {
    let said = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    };
    let late = io::Error::from(io::ErrorKind::TimedOut);
    let said = timeout(LIMIT, said).await.unwrap_or(Err(late));
    said.map_err(|error| failed(&format!("{word} at {server}: no answer"), error))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, what.to_owned()).because(error)
}
