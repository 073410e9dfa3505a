//! How a ZooKeeper server is set up.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use registry_core::{Error, ErrorKind, Result};

use super::{CLASSES, MORE_CLASSES, SUPER_DIGEST, ZooKeeper, ask, failed};
use crate::server::directory::Directory;
use crate::server::{Authority, Container, LocalProcess, READY, free_port, tool, until};

/// A server that is not started yet: by default without security, on free ports. Its ticks are of 200 ms, so that a
/// session may be as short as 400 ms, and containers that are empty go within 500 ms.
#[derive(Clone, Debug, Default)]
pub struct ZooKeeperBuilder {
    superuser: bool,
    tls: bool,
    process: bool,
    settings: Vec<String>,
}

impl ZooKeeperBuilder {
    /// Lets the operator do everything, with [`ZooKeeper::superuser`]. Everybody else may do what the nodes allow.
    pub fn superuser(mut self) -> Self {
        self.superuser = true;
        self
    }

    /// Speaks TLS, with certificates of its clients from its own [`Authority`], beside the plain port for the operator.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Makes it a process of this machine, also where containers are asked for: for [`ZooKeeper::restore`].
    pub fn process(mut self) -> Self {
        self.process = true;
        self
    }

    /// Adds a line to its configuration, such as `maxSessionTimeout=10000`.
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn start(self) -> Result<ZooKeeper> {
        let plain = !self.superuser && !self.tls && !self.process && self.settings.is_empty();
        if plain && Container::wanted() {
            let server = Container::start(&Container::file(), "zookeeper", serves).await?;
            return Ok(ZooKeeper {
                server: Box::new(server),
                data: None,
                superuser: false,
                tls: None,
                scratch: scratch()?,
            });
        }
        Member::new(1).start(&[], self).await
    }
}

/// A member of an ensemble that is not started yet.
pub(super) struct Member {
    number: usize,
    client: u16,
    peer: u16,
    election: u16,
}

impl Member {
    /// Numbers begin at 1.
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            client: free_port(),
            peer: free_port(),
            election: free_port(),
        }
    }

    /// What an ensemble is told of it.
    pub(super) fn line(&self) -> String {
        let Self {
            number,
            peer,
            election,
            ..
        } = self;
        format!("server.{number}=127.0.0.1:{peer}:{election}")
    }

    /// `ensemble` has a line for each member, or none for a server that is alone.
    pub(super) async fn start(
        self,
        ensemble: &[String],
        builder: ZooKeeperBuilder,
    ) -> Result<ZooKeeper> {
        let (scratch, number) = (scratch()?, self.number);
        let mut settings = vec![
            "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=60000\nmaxClientCnxns=0"
                .to_owned(),
            format!("clientPortAddress=127.0.0.1\nclientPort={}", self.client),
            // In ticks: starting takes a busy machine long, and who hangs is left after 3 s.
            "initLimit=150\nsyncLimit=15".to_owned(),
        ];
        settings.extend(ensemble.iter().cloned());
        let mut tls = None;
        if builder.tls {
            let authority = Authority::new().await?;
            let address = local(free_port());
            settings.push(secure(&authority, address, &scratch).await?);
            tls = Some((authority, address));
        }
        settings.extend(builder.settings);
        let settings = settings.join("\n");
        let superuser = builder.superuser;
        let command = move |data: &Path| {
            let file = data.with_file_name("zoo.cfg");
            // The server says what is missing.
            let _ = fs::write(&file, format!("dataDir={}\n{settings}\n", data.display()));
            let _ = fs::write(data.join("myid"), number.to_string());
            let mut command = java();
            if superuser {
                let digest = "zookeeper.DigestAuthenticationProvider.superDigest";
                command.arg(format!("-D{digest}={SUPER_DIGEST}"));
            }
            command
                .args(["-cp", &format!("{CLASSES}{MORE_CLASSES}")])
                .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
                .arg(file);
            command
        };
        let address = local(self.client);
        let server = LocalProcess::start_when(address, command, move || serves(address)).await?;
        if let Some((authority, address)) = &tls {
            serves_securely(authority, *address).await?;
        }
        Ok(ZooKeeper {
            data: Some(server.data()),
            server: Box::new(server),
            superuser,
            tls,
            scratch,
        })
    }
}

/// Small, quick to start, without the files of 64 MB that the log begins with, and without waiting for the disk: what
/// dies here is the process, never the machine.
fn java() -> Command {
    let mut command = Command::new("java");
    command.args([
        "-Xmx96m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Dzookeeper.preAllocSize=64",
        "-Dzookeeper.forceSync=no",
        "-Dznode.container.checkIntervalMs=500",
        "-Dzookeeper.admin.enableServer=false",
        "-Dzookeeper.4lw.commands.whitelist=srvr,wchs",
        "-Dzookeeper.maxCnxns=0",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]);
    command
}

/// The settings of a second port, which speaks TLS.
async fn secure(authority: &Authority, address: SocketAddr, scratch: &Directory) -> Result<String> {
    let identity = authority.server("zookeeper").await?;
    // It takes both from one file.
    let both = scratch.join("server.pem");
    let read = |file| fs::read(file).map_err(|error| failed("no certificate", error));
    let pem = [read(identity.certificate)?, read(identity.key)?].concat();
    fs::write(&both, pem).map_err(|error| failed("no file for a certificate", error))?;
    Ok(format!(
        "secureClientPort={}\nserverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
         ssl.keyStore.location={}\nssl.keyStore.type=PEM\n\
         ssl.trustStore.location={}\nssl.trustStore.type=PEM\nssl.clientHostnameVerification=false",
        address.port(),
        both.display(),
        authority.certificate().display(),
    ))
}

/// Waits until the secure port serves: it comes after the plain one, and accepts connections before.
async fn serves_securely(authority: &Authority, address: SocketAddr) -> Result<()> {
    let client = authority.client("operator").await?;
    until(READY, || async {
        let mut openssl = Command::new("openssl");
        openssl
            .args([
                "s_client",
                "-quiet",
                "-connect",
                &address.to_string(),
                "-CAfile",
            ])
            .arg(authority.certificate())
            .arg("-cert")
            .arg(&client.certificate)
            .arg("-key")
            .arg(&client.key);
        mode(&tool(openssl.into(), b"srvr").await?)
    })
    .await
}

/// Whether it serves: it accepts connections before.
async fn serves(address: SocketAddr) -> Result<()> {
    mode(&ask(address, "srvr").await?)
}

fn mode(said: &str) -> Result<()> {
    match said.contains("Mode:") {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Unavailable, "it does not serve yet")),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn scratch() -> Result<Directory> {
    Directory::new().map_err(|error| failed("no directory for what is saved", error))
}
