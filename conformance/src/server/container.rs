//! A server as a container.

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use registry_core::{Error, ErrorKind, Result, async_trait};

use super::directory::Directory;
use super::{Probe, READY, Server, free_port, last_lines, probe, tool, until};

/// Says that servers are to be containers where they can be.
const VARIABLE: &str = "REGISTRY_TEST_COMPOSE";

/// A [`Server`] that is a service of a Compose file, in a project of its own.
///
/// The file publishes it as `"127.0.0.1:${<SERVICE>_PORT}:<its port>"`. The port is chosen here and not by the engine,
/// which would take another one at each start.
pub struct Container {
    service: &'static str,
    compose: Vec<OsString>,
    port: u16,
    ready: Probe,
    /// Holds what ends the container if this program dies.
    directory: Directory,
}

impl Container {
    /// Whether the environment asks for containers and an engine answers.
    pub fn wanted() -> bool {
        static WANTED: OnceLock<bool> = OnceLock::new();
        *WANTED.get_or_init(|| {
            std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
                && succeeds("docker", &["info"])
        })
    }

    /// The Compose file of this crate, which has `etcd`, `consul`, `zookeeper` and `eureka`.
    pub fn file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml")
    }

    /// Starts a service of a Compose file and waits until `ready`, which gets its address, is `Ok`.
    ///
    /// # Errors
    /// As [`restart`](Server::restart).
    pub async fn start<F>(
        file: &Path,
        service: &'static str,
        ready: impl Fn(SocketAddr) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let directory = Directory::new().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no directory for a container").because(error)
        })?;
        let port = free_port();
        let container = Self {
            service,
            compose: compose(file, &format!("registry-conformance-{service}-{port}")),
            port,
            ready: probe(move || ready(SocketAddr::from(([127, 0, 0, 1], port)))),
            directory,
        };
        let end = container.down().join(" ");
        let end = container.directory.set_end(&end);
        end.map_err(|error| {
            container
                .failed("its end cannot be prepared")
                .because(error)
        })?;
        container.restart().await?;
        Ok(container)
    }

    /// What ends it and removes what it left, quoted for a shell.
    fn down(&self) -> Vec<String> {
        let arguments = self.compose.iter().map(|word| word.to_string_lossy());
        let quoted = arguments.map(|word| format!("'{}'", word.replace('\'', r"'\''")));
        let down = ["down", "--volumes", "--timeout", "0"].map(str::to_owned);
        quoted.chain(down).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.compose[0]);
        command.args(&self.compose[1..]).args(arguments).env(
            format!("{}_PORT", self.service.to_uppercase()),
            self.port.to_string(),
        );
        command
    }

    async fn compose(&self, arguments: &[&str]) -> Result<String> {
        tool(self.command(arguments).into(), b"")
            .await
            .map_err(|error| self.failed("a command fails").because(error))
    }

    async fn up(&self) -> Result<()> {
        self.compose(&["up", "--detach", "--no-recreate", self.service])
            .await?;
        until(READY, || (self.ready)())
            .await
            .map_err(|error| self.failed("it is not ready").because(error))
    }

    fn failed(&self, why: &str) -> Error {
        let message = format!("the container does not run: {why}\n{}", self.log());
        Error::new(ErrorKind::Unavailable, message).with("service", self.service)
    }
}

/// The command that speaks to a project, and its first arguments: the engine's own, or the program of Debian's package.
fn compose(file: &Path, project: &str) -> Vec<OsString> {
    let program: &[&str] = match succeeds("docker", &["compose", "version"]) {
        true => &["docker", "compose"],
        false => &["docker-compose"],
    };
    let mut compose: Vec<_> = program.iter().map(OsString::from).collect();
    compose.extend([
        "--file".into(),
        file.into(),
        "--project-name".into(),
        project.into(),
    ]);
    compose
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

#[async_trait]
impl Server for Container {
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    async fn runs(&self) -> bool {
        let services = self.compose(&["ps", "--services", "--filter", "status=running"]);
        let paused = self.compose(&["ps", "--services", "--filter", "status=paused"]);
        for listed in [services.await, paused.await] {
            if listed.is_ok_and(|listed| listed.lines().any(|line| line == self.service)) {
                return true;
            }
        }
        false
    }

    async fn kill(&self) -> Result<()> {
        self.compose(&["kill", self.service]).await.map(drop)
    }

    async fn terminate(&self) -> Result<()> {
        self.compose(&["stop", "--timeout", "10", self.service])
            .await
            .map(drop)
    }

    async fn restart(&self) -> Result<()> {
        // It fails where nothing runs.
        let _ = self.kill().await;
        self.up().await
    }

    async fn pause(&self) -> Result<()> {
        self.compose(&["pause", self.service]).await.map(drop)
    }

    async fn resume(&self) -> Result<()> {
        self.compose(&["unpause", self.service]).await.map(drop)
    }

    async fn wipe(&self) -> Result<()> {
        self.compose(&["rm", "--force", "--stop", "-v", self.service])
            .await?;
        self.up().await
    }

    fn log(&self) -> String {
        let output = self
            .command(&["logs", "--no-color", "--tail", "12"])
            .output();
        let output = output.map(|output| output.stdout).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&output))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // A failure leaves it to the watchdog, which tries once more.
        let ended = self
            .command(&["down", "--volumes", "--timeout", "0"])
            .stdin(Stdio::null())
            .output();
        if ended.is_ok_and(|output| output.status.success()) {
            self.directory.clear_end();
        }
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("service", &self.service)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
