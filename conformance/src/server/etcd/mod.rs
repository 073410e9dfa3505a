//! etcd, started from its own programs.

mod builder;
mod cluster;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use registry_core::{Error, ErrorKind, Result};

use super::directory::Directory;
use super::{Authority, Identity, Server, cannot_run, http, tool};

pub use builder::EtcdBuilder;
pub use cluster::EtcdCluster;

/// The user of [`EtcdBuilder::auth`] that may do everything, and its password.
const ROOT: (&str, &str) = ("root", "conformance-root");

/// One etcd server and what its operator can do. All of it needs `etcdctl`.
#[derive(Debug)]
pub struct Etcd {
    server: Box<dyn Server>,
    local: Option<Local>,
    /// Where health and metrics are told without security.
    metrics: SocketAddr,
    access: Access,
    scratch: Directory,
}

/// What is known of a server that is a process.
#[derive(Debug)]
struct Local {
    /// What the server does not let exist before it is restored.
    data: PathBuf,
    /// The arguments that its membership is made from.
    membership: Vec<String>,
}

/// How a tool reaches the server.
#[derive(Debug, Default)]
struct Access {
    auth: bool,
    tls: Option<(Authority, Identity)>,
}

impl Etcd {
    /// Why none can be started here, if so: the programs of etcd are needed beside a container too.
    pub fn missing() -> Option<String> {
        let server = cannot_run("etcd".as_ref(), "--version");
        server.or_else(|| cannot_run("etcdctl".as_ref(), "version"))
    }

    /// Starts one without security.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        EtcdBuilder::default().start().await
    }

    /// One with other settings.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// The server, to be made to fail.
    pub fn server(&self) -> &dyn Server {
        &*self.server
    }

    /// The authority that its clients must trust and be certified by, with [`EtcdBuilder::tls`].
    pub fn authority(&self) -> Option<&Authority> {
        self.access.tls.as_ref().map(|(authority, _)| authority)
    }

    /// The user who may do everything, and the password, with [`EtcdBuilder::auth`].
    pub fn root(&self) -> Option<(&str, &str)> {
        self.access.auth.then_some(ROOT)
    }

    /// Runs `etcdctl` with these arguments, as the user `root` and with a certificate where that is needed, and
    /// returns what it writes.
    ///
    /// # Errors
    /// `Unavailable` with what it says when it fails.
    pub async fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        self.etcdctl_with(arguments, b"").await
    }

    async fn etcdctl_with(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        // Flags and not the environment, which etcdctl does not let the caller's flags overrule.
        let scheme = self.access.scheme();
        let mut flags = vec![format!("--endpoints={scheme}://{}", self.server.address())];
        if let Some((user, password)) = self.root() {
            flags.push(format!("--user={user}:{password}"));
        }
        if let Some((authority, client)) = &self.access.tls {
            flags.extend([
                format!("--cacert={}", authority.certificate().display()),
                format!("--cert={}", client.certificate.display()),
                format!("--key={}", client.key.display()),
            ]);
        }
        let mut command = etcdctl();
        command.args(flags).args(arguments);
        tool(command.into(), input).await
    }

    /// Writes this value, which need not be text.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let put: &[&str] = match value {
            // An empty input is none.
            [] => &["put", "--", key, ""],
            _ => &["put", "--", key],
        };
        self.etcdctl_with(put, value).await.map(drop)
    }

    /// Writes these keys in one revision, under a lease of this many seconds of their own that nobody renews.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl); for more than 128 keys, which is the limit of the server.
    pub async fn put_all(&self, entries: &[(&str, &str)], ttl: u32) -> Result<()> {
        let granted = self.etcdctl(&["lease", "grant", &ttl.to_string()]).await?;
        let lease = granted.split(' ').nth(1).unwrap_or_default();
        // No comparisons, then what is done, then what would be done otherwise.
        let mut transaction = String::from("\n");
        for (key, value) in entries {
            let put = format!("put --lease={lease} -- {} {}\n", quote(key), quote(value));
            transaction.push_str(&put);
        }
        transaction.push_str("\n\n");
        self.etcdctl_with(&["txn"], transaction.as_bytes())
            .await
            .map(drop)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.etcdctl(&["del", "--", key]).await.map(drop)
    }

    /// Revokes the lease of a key, which deletes all the keys of the lease.
    ///
    /// # Errors
    /// `Invalid` when the key has none; else as [`etcdctl`](Self::etcdctl).
    pub async fn revoke_lease_of(&self, key: &str) -> Result<()> {
        let said = self
            .etcdctl(&["get", "--write-out", "fields", "--", key])
            .await?;
        match field(&said, "Lease") {
            Some(lease) if lease != 0 => {
                self.etcdctl(&["lease", "revoke", &format!("{lease:x}")])
                    .await?;
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Invalid, "the key has no lease").with("key", key)),
        }
    }

    /// The revision of its store.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn revision(&self) -> Result<u64> {
        let said = self
            .etcdctl(&["endpoint", "status", "--write-out", "fields"])
            .await?;
        field(&said, "Revision")
            .ok_or_else(|| Error::new(ErrorKind::Protocol, format!("no revision in: {said}")))
    }

    /// Forgets the history before the current revision, physically too.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn compact(&self) -> Result<()> {
        let revision = self.revision().await?.to_string();
        self.etcdctl(&["compact", "--physical", &revision])
            .await
            .map(drop)
    }

    /// Creates a user who may read and write the keys with this prefix, on a server with [`EtcdBuilder::auth`].
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn add_user(&self, name: &str, password: &str, prefix: &str) -> Result<()> {
        self.etcdctl(&["role", "add", name]).await?;
        let grant = [
            "role",
            "grant-permission",
            "--prefix",
            name,
            "readwrite",
            prefix,
        ];
        self.etcdctl(&grant).await?;
        self.etcdctl(&["user", "add", name, "--new-user-password", password])
            .await?;
        self.etcdctl(&["user", "grant-role", name, name])
            .await
            .map(drop)
    }

    /// Removes a user of [`add_user`](Self::add_user), who is refused from now on. A watch that is open goes on.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn remove_user(&self, name: &str) -> Result<()> {
        self.etcdctl(&["user", "delete", name]).await?;
        self.etcdctl(&["role", "delete", name]).await.map(drop)
    }

    /// Creates the user `root` and demands users from now on. A wipe loses that, as all data.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn enable_auth(&mut self) -> Result<()> {
        self.access.auth = false;
        self.etcdctl(&["user", "add", ROOT.0, "--new-user-password", ROOT.1])
            .await?;
        self.etcdctl(&["user", "grant-role", ROOT.0, "root"])
            .await?;
        self.etcdctl(&["auth", "enable"]).await?;
        self.access.auth = true;
        Ok(())
    }

    /// How many watches it has open.
    ///
    /// # Errors
    /// `Unavailable` when it does not tell.
    pub async fn open_watches(&self) -> Result<usize> {
        let watches = self.metric("etcd_debugging_mvcc_watcher_total").await?;
        Ok(watches as usize)
    }

    /// The sum of the lines of its metrics that begin so, such as
    /// `grpc_server_started_total{grpc_method="LeaseKeepAlive"`.
    ///
    /// # Errors
    /// `Unavailable` when it does not tell; `Protocol` when there is no such line.
    pub async fn metric(&self, begin: &str) -> Result<u64> {
        let metrics = http::get(self.metrics, "/metrics").await?;
        let lines = metrics.lines().filter(|line| line.starts_with(begin));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let values: Vec<_> = values.collect();
        match values.is_empty() {
            false => Ok(values.iter().sum::<f64>() as u64),
            true => Err(Error::new(
                ErrorKind::Protocol,
                format!("there is no metric {begin}"),
            )),
        }
    }

    /// Saves its data, and returns the file. It lives as long as this value.
    ///
    /// # Errors
    /// As [`etcdctl`](Self::etcdctl).
    pub async fn save(&self) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = self.scratch.join(format!("snapshot-{number}"));
        self.etcdctl(&["snapshot", "save", &file.to_string_lossy()])
            .await?;
        Ok(file)
    }

    /// Kills it, replaces its data by those that were saved, and starts it again at the same address.
    ///
    /// # Errors
    /// `Unsupported` for a container; else as [`etcdctl`](Self::etcdctl) and [`Server::restart`].
    pub async fn restore(&self, saved: &std::path::Path) -> Result<()> {
        let Some(Local { data, membership }) = &self.local else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the data of a container are not restored; run without containers",
            ));
        };
        self.server.kill().await?;
        fs::remove_dir_all(data).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "its data cannot be removed").because(error)
        })?;
        let mut command = etcdctl();
        command.args(["snapshot", "restore"]).arg(saved);
        command.args(membership).arg("--data-dir").arg(data);
        tool(command.into(), b"").await?;
        self.server.restart().await
    }
}

impl Access {
    fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

fn scratch() -> Result<Directory> {
    Directory::new().map_err(|error| {
        Error::new(ErrorKind::Unavailable, "no directory for snapshots").because(error)
    })
}

fn etcdctl() -> Command {
    let mut command = Command::new("etcdctl");
    // Settings of whoever runs the test are not for its servers.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    command.env("ETCDCTL_API", "3");
    command
}

/// A word of a transaction, as etcdctl reads it: a string of Go.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            byte => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// The number in the line `"<name>" : <number>`.
fn field(said: &str, name: &str) -> Option<u64> {
    let start = format!("\"{name}\" : ");
    let value = said.lines().find_map(|line| line.strip_prefix(&start))?;
    value.parse().ok()
}
