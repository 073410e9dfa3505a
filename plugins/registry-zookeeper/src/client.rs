//! One connection of the client library, whose task is ours to end.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use asyncs::task::{Spawn, Task, enter};
use registry_core::{Error, ErrorKind, Result};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use zookeeper_client as zk;

use crate::config::ZooKeeperConfig;
use crate::error;

/// How long a call may take, connecting included. The registrar gives an attempt 5 s.
pub(crate) const PATIENCE: Duration = Duration::from_millis(4500);

/// How long a connection may say nothing, or take to be made, before it is given up; for short sessions 3/5 of them,
/// which is the most that the library takes.
const SILENCE: Duration = Duration::from_secs(4);

/// A connection that failed sooner was refused.
const SLOW: Duration = Duration::from_secs(1);

/// A connection within a session. Another one may go on with the same session after it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: zk::Client,
    pub(crate) session: i64,
    /// What the server made of the session timeout.
    pub(crate) ttl: Duration,
    down: watch::Sender<Option<Error>>,
}

impl Conn {
    /// What a call comes to: its answer, or an error when the connection ends or the time is up first.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, zk::Error>> + Send,
    ) -> Result<T> {
        self.attempt(what, call)
            .await?
            .map_err(|error| error::call(what, error))
    }

    /// As [`call`](Self::call), for a caller who understands some of the server's own errors.
    pub(crate) async fn attempt<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, zk::Error>> + Send,
    ) -> Result<Result<T, zk::Error>> {
        tokio::select! {
            biased;
            error = self.ended() => Err(error),
            answer = timeout(PATIENCE, call) => answer.map_err(|_| error::late(what)),
        }
    }

    /// Resolves with the reason when the connection has ended.
    pub(crate) async fn ended(&self) -> Error {
        let mut down = self.down.subscribe();
        // The sender lives in this.
        let ended = down.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|error| error.clone())
            .unwrap_or_else(error::closed)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.borrow().is_some()
    }

    /// Ends every call and watch. Before the library's task ends: its watches panic when that goes first.
    pub(crate) fn end(&self, error: Error) {
        self.down.send_if_modified(|down| {
            let first = down.is_none();
            down.get_or_insert(error);
            first
        });
    }
}

/// The library's task behind a [`Conn`].
#[derive(Debug)]
pub(crate) struct Serving(JoinHandle<()>);

impl Serving {
    /// Waits until it ends by itself, as it does after the last [`Conn`] was dropped and the server said goodbye.
    pub(crate) async fn over(&mut self, limit: Duration) {
        // How it ended does not matter, nor that it did not in time: dropping this ends it.
        let _ = timeout(limit, &mut self.0).await;
    }

    /// Resolves when it has ended, for whatever reason.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects once: goes on with a session, or begins one.
///
/// The library would reconnect by itself, but a server that lost its data refuses it without a word, since it has seen
/// a later state. A connection that is made anew has seen nothing: the server takes the session, or says that it
/// has expired.
pub(crate) async fn connect(
    config: &ZooKeeperConfig,
    session: Option<zk::SessionInfo>,
) -> Result<(Conn, Serving), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut login = Login::After;
    loop {
        let begin = Instant::now();
        match attempt(config, session.clone(), login, deadline).await {
            // A server may demand a login before all else: `enforce.auth.enabled`.
            Err(Failure::Other(error))
                if error.kind() == ErrorKind::Denied && login == Login::After =>
            {
                login = Login::Before;
            }
            // Nobody refused: a server that is slow to answer gets all the time that there is.
            Err(Failure::NoHosts) if begin.elapsed() > SLOW && Instant::now() < deadline => {}
            result => return result,
        }
    }
}

/// When the login is sent.
///
/// Before: with the request for a session. A server that speaks TLS may answer the login first (seen with 3.8.0), which
/// the library takes for a broken connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    After,
    Before,
}

/// Tries every server once.
async fn attempt(
    config: &ZooKeeperConfig,
    session: Option<zk::SessionInfo>,
    login: Login,
    deadline: Instant,
) -> Result<(Conn, Serving), Failure> {
    let mut connector = zk::Client::connector()
        .with_session_timeout(config.session)
        .with_connection_timeout(SILENCE.min(config.session * 3 / 5))
        .with_fail_eagerly();
    if let Some(session) = session {
        connector = connector.with_session(session);
    }
    let credentials = config.credentials();
    if let (Some(credentials), Login::Before) = (&credentials, login) {
        connector = connector.with_auth("digest", credentials.expose_secret().as_bytes());
    }
    if let Some(options) = tls(config).map_err(Failure::Other)? {
        connector = connector.with_tls(options);
    }
    let cluster = config.cluster();
    let connecting = async {
        match config.tls.is_some() {
            true => connector.secure_connect(&cluster).await,
            false => connector.connect(&cluster).await,
        }
    };
    let spawner = Spawner::default();
    let client = timeout_at(deadline, within(&spawner, connecting)).await;
    let serving = spawner
        .0
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let broken = |why| Failure::Other(Error::new(ErrorKind::Protocol, why));
    let client = match client {
        Ok(Some(Ok(client))) => client,
        Ok(Some(Err(zk::Error::SessionExpired))) => return Err(Failure::Expired),
        Ok(Some(Err(zk::Error::NoHosts))) => return Err(Failure::NoHosts),
        Ok(Some(Err(error))) => return Err(Failure::Other(error::call("connecting", error))),
        Ok(None) => {
            return Err(broken(
                "connecting: the client library failed at what the server says",
            ));
        }
        Err(_) => return Err(Failure::Other(error::late("connecting"))),
    };
    let serving = serving.ok_or_else(|| broken("the client library started no task"))?;
    if let (Some(credentials), Login::After) = (&credentials, login) {
        let shown = client.auth("digest", credentials.expose_secret().as_bytes());
        match timeout_at(deadline, shown).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::Other(error::call("logging in", error))),
            Err(_) => return Err(Failure::Other(error::late("logging in"))),
        }
    }
    let conn = Conn {
        session: client.session_id().0,
        ttl: client.session_timeout(),
        down: watch::Sender::new(None),
        client,
    };
    Ok((conn, serving))
}

/// Why there is no connection.
pub(crate) enum Failure {
    /// The server does not know the session.
    Expired,
    /// No server took the connection.
    NoHosts,
    Other(Error),
}

fn tls(config: &ZooKeeperConfig) -> Result<Option<zk::TlsOptions>> {
    let Some(tls) = &config.tls else {
        return Ok(None);
    };
    let refused = |error: zk::Error| {
        Error::new(
            ErrorKind::Config,
            "a certificate or key of the TLS options is refused",
        )
        .because(error)
    };
    let mut options = zk::TlsOptions::new();
    if let Some(ca) = tls.read_ca()? {
        options = options.with_pem_ca(&pem(ca)?).map_err(refused)?;
    }
    if let Some((cert, key)) = tls.read_identity()? {
        options = options
            .with_pem_identity(&pem(cert)?, &pem(key)?)
            .map_err(refused)?;
    }
    Ok(Some(options))
}

fn pem(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| {
        Error::new(
            ErrorKind::Config,
            "a file that the TLS options name is no PEM",
        )
    })
}

/// Takes the task that the library starts, so that it ends with its handle.
#[derive(Default)]
struct Spawner(Mutex<Option<Serving>>);

impl Spawn for Spawner {
    fn spawn(&self, task: Task) {
        let serving = Serving(tokio::spawn(Box::into_pin(task.future)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
    }
}

/// Runs the library with this spawner; `None` when it panicked, as it may on bytes that are no ZooKeeper.
async fn within<T>(spawner: &Spawner, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| {
        let _scope = enter(spawner);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.map_or(std::task::Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}
