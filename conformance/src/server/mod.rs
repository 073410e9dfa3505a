//! Real servers, to be started, made to fail and ended by a test.
//!
//! A [`Server`] is a child process ([`LocalProcess`]) or a container of a Compose file ([`Container`]). [`Etcd`],
//! [`Consul`], [`ZooKeeper`] and [`Eureka`] are such servers together with what an operator can do to them;
//! [`EtcdCluster`], [`ConsulCluster`], [`ZooKeeperEnsemble`] and [`EurekaPeers`] are several that replicate. A single
//! server without security is a container when the environment has `REGISTRY_TEST_COMPOSE=1` and an engine answers; all
//! others are processes of this machine.
//!
//! Dropping a server ends it and removes its data, also while a case panics. When the program of the test is killed, a
//! small shell process that outlives it does the same.

mod cluster;
mod consul;
mod container;
mod directory;
mod etcd;
mod eureka;
mod http;
mod process;
mod tls;
mod zookeeper;

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::task::Poll;
use std::time::Duration;

use registry_core::{Error, ErrorKind, Result, async_trait};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::fixture::Fault;

pub use cluster::{Cluster, Member};
pub use consul::{Consul, ConsulBuilder, ConsulCluster};
pub use container::Container;
pub use etcd::{Etcd, EtcdBuilder, EtcdCluster};
pub use eureka::{Eureka, EurekaBuilder, EurekaPeers};
pub(crate) use process::kill;
pub use process::{LocalProcess, free_port};
pub use tls::{Authority, Identity};
pub use zookeeper::{ZooKeeper, ZooKeeperBuilder, ZooKeeperEnsemble};

/// How long a server may take until it is ready.
const READY: Duration = Duration::from_secs(60);

/// How long a tool of an operator may take.
const TOOL: Duration = Duration::from_secs(30);

/// One server that can be made to fail. Dropping it ends it and removes its data.
#[async_trait]
pub trait Server: fmt::Debug + Send + Sync {
    /// Where its clients connect, and where a [`Proxy`](crate::Proxy) does. It stays the same as long as the server.
    fn address(&self) -> SocketAddr;

    /// Whether it runs; a paused one does.
    async fn runs(&self) -> bool;

    /// Kills it at once; its data stays.
    async fn kill(&self) -> Result<()>;

    /// Asks it to end with SIGTERM, and kills it when it has not within 10 s; its data stays.
    async fn terminate(&self) -> Result<()>;

    /// Kills it if it runs, starts it with the data that it has, and waits until it is ready.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be started, ends, or is not ready within 60 s; with the end of its log.
    async fn restart(&self) -> Result<()>;

    /// Suspends it: connections stay open and nothing is answered.
    ///
    /// # Errors
    /// `Unavailable` when it does not run.
    async fn pause(&self) -> Result<()>;

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    async fn resume(&self) -> Result<()>;

    /// Kills it, removes its data, starts it again and waits until it is ready.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    async fn wipe(&self) -> Result<()>;

    /// The last lines that it wrote.
    fn log(&self) -> String;

    /// Makes a fault that every server can make: those from [`Fault::Stop`] to [`Fault::Wipe`].
    ///
    /// # Errors
    /// `Unsupported` for another fault; else as the method that makes it.
    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Stop => self.kill().await,
            Fault::Start => self.restart().await,
            Fault::Pause => self.pause().await,
            Fault::Resume => self.resume().await,
            Fault::Wipe => self.wipe().await,
            other => Err(other.unsupported()),
        }
    }
}

/// Asks a server whether it is ready.
pub(crate) type Probe =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// Boxes a probe.
pub(crate) fn probe<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Probe
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    Box::new(move || Box::pin(ask()))
}

/// Asks until the answer is `Ok`. Returns the last error when it is not within `window`.
pub(crate) async fn until<T, F>(window: Duration, mut ask: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
    T: Send,
{
    let deadline = Instant::now() + window;
    loop {
        let answer = timeout(Duration::from_secs(5), ask()).await;
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorKind::Unavailable, "no answer within 5 s"),
        };
        if Instant::now() > deadline {
            return Err(error);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for all of them side by side, or for the first error: members of a cluster are ready only together.
pub(crate) async fn at_once<T, F>(futures: impl IntoIterator<Item = F>) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    let mut running: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    poll_fn(|context| {
        for (future, done) in &mut running {
            if done.is_none()
                && let Poll::Ready(result) = future.as_mut().poll(context)
            {
                *done = Some(result?);
            }
        }
        match running.iter().all(|(_, done)| done.is_some()) {
            true => Poll::Ready(Ok::<_, Error>(())),
            false => Poll::Pending,
        }
    })
    .await?;
    Ok(running.into_iter().filter_map(|(_, done)| done).collect())
}

/// Makes these servers whole: those that are paused go on, and those that do not run start with the data that they have.
pub(crate) async fn heal(servers: &[&dyn Server]) -> Result<()> {
    let mut dead = Vec::new();
    for server in servers {
        match server.runs().await {
            true => server.resume().await?,
            false => dead.push(server.restart()),
        }
    }
    at_once(dead).await.map(drop)
}

/// Kills these servers, removes their data and starts them again.
pub(crate) async fn wipe(servers: &[&dyn Server]) -> Result<()> {
    // All are dead before one is empty: the others would give it their data.
    for server in servers {
        server.kill().await?;
    }
    at_once(servers.iter().map(|server| server.wipe()))
        .await
        .map(drop)
}

/// Runs a tool to its end, with `input`, and returns what it wrote.
pub(crate) async fn tool(mut command: Command, input: &[u8]) -> Result<String> {
    let name = command.as_std().get_program().to_owned();
    let failed = |kind, why: &str| Error::new(kind, format!("{}: {why}", name.display()));
    let work = async {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that does not want it closes its end.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(TOOL, work)
        .await
        .map_err(|_| failed(ErrorKind::Unavailable, &format!("no end within {TOOL:?}")))?
        .map_err(|error| failed(ErrorKind::Config, "it cannot be run").because(error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let why = format!("{}: {}", output.status, said.trim());
    Err(failed(ErrorKind::Unavailable, &why))
}

/// Why a tool cannot be used, if it cannot: asked for its version.
pub(crate) fn cannot_run(program: &std::ffi::OsStr, version: &str) -> Option<String> {
    let found = std::process::Command::new(program)
        .arg(version)
        .stdin(Stdio::null())
        .output();
    let error = found.err()?;
    Some(format!("{}: {error}", program.display()))
}

/// The last lines of a log, indented.
pub(crate) fn last_lines(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<_> = log.lines().map(|line| format!("    {line}")).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
