//! Connects to one of the servers.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use asyncs::task::{Spawn, Task, enter};
use registry_core::{Error, ErrorKind, Result};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use zookeeper_client as zk;

use crate::client::{Conn, PATIENCE, Serving};
use crate::config::ZooKeeperConfig;
use crate::error;

/// How long a connection may say nothing, or take to be made, before it is given up; for short sessions 3/5 of them,
/// which is the most that the library takes.
const SILENCE: Duration = Duration::from_secs(4);

/// Who failed sooner refused.
const SLOW: Duration = Duration::from_secs(1);

/// The servers in turn. A server that hangs takes a connection all the same, and after an election the session lives on
/// only if one that answers is found within its timeout.
#[derive(Debug)]
pub(crate) struct Connector {
    config: ZooKeeperConfig,
    /// In the order in which they are tried: the last one that was tried comes last.
    servers: VecDeque<String>,
    /// How long each one may take: longer each time that none was quick enough.
    limit: Duration,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server does not know the session.
    Expired,
    Other(Error),
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

impl Connector {
    pub(crate) fn new(config: ZooKeeperConfig) -> Self {
        let mut servers = config.servers();
        fastrand::shuffle(&mut servers);
        let mut this = Self {
            servers: servers.into(),
            limit: Duration::ZERO,
            config,
        };
        this.limit = this.first_limit();
        this
    }

    /// Connects once: goes on with a session, or begins one.
    ///
    /// The library would reconnect by itself, but a server that lost its data refuses it without a word, since it has
    /// seen a later state. A connection that is made anew has seen nothing: the server takes the session, or says that
    /// it has expired.
    pub(crate) async fn connect(
        &mut self,
        session: Option<&zk::SessionInfo>,
    ) -> Result<(Conn, Serving), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let begin = Instant::now();
            let mut failure = None;
            for _ in 0..self.servers.len() {
                match self.ask_next(session, deadline).await {
                    Err(Failure::Other(error)) if error.is_temporary() => failure = Some(error),
                    Err(failure) => return Err(failure),
                    Ok(connected) => {
                        self.limit = self.first_limit();
                        return Ok(connected);
                    }
                }
            }
            // Where not all refused, a server that is slow to answer gets all the time that there is.
            let slow = begin.elapsed() >= self.limit.min(SLOW);
            if slow {
                self.limit = (self.limit * 2).min(self.silence());
            }
            if !slow || deadline <= Instant::now() {
                let failure = failure.unwrap_or_else(|| error::late("connecting"));
                return Err(Failure::Other(failure));
            }
        }
    }

    /// Tries the next server.
    async fn ask_next(
        &mut self,
        session: Option<&zk::SessionInfo>,
        deadline: Instant,
    ) -> Result<(Conn, Serving), Failure> {
        self.servers.rotate_left(1);
        let server = self.servers.back().map_or("", String::as_str);
        let deadline = deadline.min(Instant::now() + self.limit);
        let answer = match self.ask(server, session, Login::After, deadline).await {
            // A server may demand a login before all else: `enforce.auth.enabled`.
            Err(Failure::Other(error)) if error.kind() == ErrorKind::Denied => {
                self.ask(server, session, Login::Before, deadline).await
            }
            answer => answer,
        };
        answer.map_err(|failure| match failure {
            Failure::Other(error) => Failure::Other(error.with("server", server)),
            Failure::Expired => Failure::Expired,
        })
    }

    async fn ask(
        &self,
        server: &str,
        session: Option<&zk::SessionInfo>,
        login: Login,
        deadline: Instant,
    ) -> Result<(Conn, Serving), Failure> {
        let config = &self.config;
        let mut connector = zk::Client::connector()
            .with_session_timeout(config.session)
            .with_connection_timeout(self.silence())
            .with_fail_eagerly();
        if let Some(session) = session {
            connector = connector.with_session(session.clone());
        }
        let credentials = config.credentials();
        if let (Some(credentials), Login::Before) = (&credentials, login) {
            connector = connector.with_auth("digest", credentials.expose_secret().as_bytes());
        }
        if let Some(options) = tls(config).map_err(Failure::Other)? {
            connector = connector.with_tls(options);
        }
        let connecting = async {
            match config.tls.is_some() {
                true => connector.secure_connect(server).await,
                false => connector.connect(server).await,
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
        Ok((Conn::new(client), serving))
    }

    fn silence(&self) -> Duration {
        SILENCE.min(self.config.session * 3 / 5)
    }

    /// Half of the time where there is another server to go on to.
    fn first_limit(&self) -> Duration {
        match self.servers.len() {
            0 | 1 => self.silence(),
            _ => self.silence() / 2,
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that takes connections and says nothing, and how many it took.
    async fn silent() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                open.push(listener.accept().await.unwrap());
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        (port, count)
    }

    /// A server that gives whoever asks a session.
    async fn welcoming() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            // Protocol, timeout, session, length of the password, password, read-only.
            let mut session = [0; 37];
            session[4..8].copy_from_slice(&1000_i32.to_be_bytes());
            session[8..16].copy_from_slice(&7_i64.to_be_bytes());
            session[16..20].copy_from_slice(&16_i32.to_be_bytes());
            // The number of a ping, the server's count, no error.
            let mut pong = [0; 16];
            pong[..4].copy_from_slice(&(-2_i32).to_be_bytes());
            let mut answer = &session[..];
            while let Ok(length) = client.read_i32().await {
                let mut request = vec![0; length as usize];
                client.read_exact(&mut request).await.unwrap();
                client.write_i32(answer.len() as i32).await.unwrap();
                client.write_all(answer).await.unwrap();
                answer = &pong;
            }
        });
        port
    }

    fn connector(ports: &[u16], session: Duration) -> Connector {
        let hosts = ports.iter().map(|port| ("127.0.0.1", *port));
        let config = ZooKeeperConfig::default().hosts(hosts);
        Connector::new(config.session(session))
    }

    #[tokio::test]
    async fn who_hangs_is_left_for_the_others_and_gets_more_time_in_the_end() {
        let ((one, first), (two, second)) = (silent().await, silent().await);
        let mut connector = connector(&[one, two], Duration::from_secs(1));
        let silence = connector.silence();
        assert_eq!(connector.limit, silence / 2);
        let begin = Instant::now();
        let failure = connector.connect(None).await.unwrap_err();
        assert!(matches!(failure, Failure::Other(error) if error.is_temporary()));
        assert!(begin.elapsed() < PATIENCE + Duration::from_secs(1));
        assert_eq!(connector.limit, silence);
        let counts = [first, second].map(|count| count.load(Ordering::Relaxed));
        assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
        assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
    }

    #[tokio::test]
    async fn who_hangs_gets_his_share_of_the_time_and_no_more_than_is_left() {
        let (port, _) = silent().await;
        let mut connector = connector(&[port, port], Duration::from_secs(4));
        let share = connector.limit;
        for (left, least, most) in [
            (PATIENCE, share, connector.silence()),
            (Duration::ZERO, Duration::ZERO, share),
        ] {
            let begin = Instant::now();
            let late = connector.ask_next(None, begin + left).await;
            let took = begin.elapsed();
            assert!(late.is_err() && least <= took && took < most, "{took:?}");
        }
    }

    #[tokio::test]
    async fn who_answers_is_found_and_the_next_search_is_quick_again() {
        let ((hung, asked), good) = (silent().await, welcoming().await);
        let mut connector = connector(&[hung, good], Duration::from_secs(1));
        if connector.servers[0].ends_with(&good.to_string()) {
            connector.servers.rotate_left(1);
        }
        connector.limit = connector.silence();
        connector.connect(None).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(connector.limit, connector.silence() / 2);
    }

    #[tokio::test]
    async fn who_was_tried_last_comes_last() {
        let mut connector = connector(&[1, 2, 3], Duration::from_secs(1));
        let first = connector.servers[0].clone();
        let begin = Instant::now();
        let refused = connector.connect(None).await;
        assert!(refused.is_err());
        assert!(begin.elapsed() < SLOW, "who refuses is not asked again");
        assert_eq!(connector.servers[0], first, "a round");
        let deadline = Instant::now() + PATIENCE;
        let refused = connector.ask_next(None, deadline).await.unwrap_err();
        let Failure::Other(error) = refused else {
            panic!("{refused:?}")
        };
        assert!(error.to_string().contains(&first), "{error}");
        assert_eq!(connector.servers[2], first);
    }
}
