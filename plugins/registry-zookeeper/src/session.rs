//! The one session of a registry, and the task that keeps it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::{Error, Result};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use zookeeper_client as zk;

use crate::client::{Conn, PATIENCE, Serving};
use crate::config::ZooKeeperConfig;
use crate::connector::{Connector, Failure};
use crate::error;
use crate::holdings::Holdings;

/// Wait before the second try to reconnect; it doubles up to the longest, or up to a quarter of the session timeout: when
/// a server is back it counts the timeout anew, and several tries must fit into it.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A connection that ends sooner is no end of the trouble.
const SHORT_LIVED: Duration = Duration::from_secs(1);
/// How long the goodbye to the server may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The session: connected when it is first used, and kept until it is closed or dropped.
///
/// ZooKeeper ends a session that is not connected in time, so keeping it connected is part of holding a registration,
/// as renewing is elsewhere. Nothing is repeated but the connecting.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: ZooKeeperConfig,
    holdings: Arc<Holdings>,
    phase: watch::Sender<Phase>,
    /// Somebody waits for a connection.
    wanted: Notify,
    /// Sessions of ours that are over; their nodes may outlive them for a while.
    past: Mutex<HashSet<i64>>,
}

#[derive(Clone, Debug)]
struct Phase {
    conn: Option<Arc<Conn>>,
    /// How many tries to connect have failed, and how the last one did.
    failures: u64,
    error: Option<Error>,
    closed: bool,
}

impl Session {
    pub(crate) fn new(config: ZooKeeperConfig, holdings: Arc<Holdings>) -> Self {
        let phase = Phase {
            conn: None,
            failures: 0,
            error: None,
            closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                config,
                holdings,
                phase: watch::Sender::new(phase),
                wanted: Notify::new(),
                past: Mutex::default(),
            }),
            closing: watch::Sender::new(false),
            keeper: Mutex::default(),
        }
    }

    /// The connection, or why the try that was on its way or came next failed.
    pub(crate) async fn conn(&self) -> Result<Arc<Conn>> {
        self.check_open()?;
        let mut phase = self.shared.phase.subscribe();
        self.keep();
        self.shared.wanted.notify_one();
        let before = phase.borrow_and_update().failures;
        let settled = |phase: &Phase| {
            phase.closed
                || phase.failures > before
                || phase.conn.as_ref().is_some_and(|conn| !conn.is_down())
        };
        let deadline = Instant::now() + PATIENCE;
        let settled = match timeout_at(deadline, phase.wait_for(settled)).await {
            Ok(Ok(phase)) => phase.clone(),
            _ => {
                let last = self.shared.phase.borrow().error.clone();
                return Err(last.unwrap_or_else(|| error::late("connecting")));
            }
        };
        match settled {
            Phase { closed: true, .. } => Err(error::closed()),
            Phase {
                conn: Some(conn), ..
            } if !conn.is_down() => Ok(conn),
            Phase { error, .. } => Err(error.unwrap_or_else(|| error::late("connecting"))),
        }
    }

    /// Whether a node of this owner is left of a session of ours that is over.
    pub(crate) fn was_ours(&self, owner: i64) -> bool {
        lock(&self.shared.past).contains(&owner)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match *self.closing.borrow() {
            true => Err(error::closed()),
            false => Ok(()),
        }
    }

    /// Says goodbye to the server, or gives up after 2 s.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        let keeps = lock(&self.keeper).is_some();
        if keeps {
            let mut phase = self.shared.phase.subscribe();
            // Its task says so in time; where its runtime has ended, nothing is left to wait for.
            let closed = phase.wait_for(|phase| phase.closed);
            let _ = timeout_at(Instant::now() + GOODBYE * 2, closed).await;
        }
    }

    /// Starts the task, also after the runtime that it ran in has ended.
    fn keep(&self) {
        let mut keeper = lock(&self.keeper);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            // What the last task lent went with its runtime.
            self.shared.phase.send_if_modified(|phase| {
                let stale = phase.conn.take();
                stale
                    .iter()
                    .for_each(|conn| conn.end(error::late("connecting")));
                stale.is_some()
            });
            let task = Keeper {
                shared: self.shared.clone(),
                closing: self.closing.subscribe(),
                lent: None,
            };
            *keeper = Some(tokio::spawn(task.run()));
        }
    }
}

/// The task that connects. It ends when the sender of `closing` is gone.
struct Keeper {
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    /// What is lent to everybody now; kept here, so that a goodbye finds it.
    lent: Option<(Arc<Conn>, Serving)>,
}

impl Keeper {
    async fn run(mut self) {
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            // An error: the registry was dropped.
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.keep() => {}
        }
        self.shared.phase.send_modify(|phase| phase.conn = None);
        if let Some((conn, mut serving)) = self.lent.take() {
            conn.end(error::closed());
            drop(conn);
            serving.over(GOODBYE).await;
        }
        self.shared.phase.send_modify(|phase| phase.closed = true);
    }

    async fn keep(&mut self) {
        let mut session: Option<zk::SessionInfo> = None;
        let mut wait = Duration::ZERO;
        let mut connector = Connector::new(self.shared.config.clone());
        loop {
            sleep(wait.mul_f64(1.0 - fastrand::f64() / 4.0)).await;
            match connector.connect(session.as_ref()).await {
                Ok((conn, serving)) => {
                    let begin = Instant::now();
                    let again = session.is_some() || !lock(&self.shared.past).is_empty();
                    let resumed = session
                        .as_ref()
                        .is_some_and(|old| old.id().0 == conn.session);
                    if let Some(old) = session.filter(|_| !resumed) {
                        // A server may begin a new session without saying that the old one is over.
                        self.forget(&old);
                    }
                    session = Some(conn.client.session().clone());
                    let conn = Arc::new(conn);
                    self.lent = Some((conn.clone(), serving));
                    if resumed {
                        self.shared.holdings.sweep(&conn).await;
                    }
                    self.shared.phase.send_modify(|phase| {
                        phase.error = None;
                        phase.conn = Some(conn.clone());
                    });
                    if again {
                        // The watches of our own nodes went with the last connection, and perhaps so did the nodes.
                        self.shared.holdings.lose();
                    }
                    if self.serve(&conn).await == zk::SessionState::Expired {
                        session.take().iter().for_each(|old| self.forget(old));
                    }
                    wait = match begin.elapsed() < SHORT_LIVED {
                        true => self.longer(wait),
                        false => Duration::ZERO,
                    };
                }
                Err(Failure::Expired) if session.is_some() => {
                    session.take().iter().for_each(|old| self.forget(old));
                }
                Err(failure) => {
                    let error = match failure {
                        Failure::Other(error) => error,
                        Failure::Expired => error::call("connecting", zk::Error::SessionExpired),
                    };
                    let temporary = error.is_temporary();
                    tracing::debug!(%error, "no connection to ZooKeeper");
                    self.shared.phase.send_modify(|phase| {
                        phase.failures += 1;
                        phase.error = Some(error);
                    });
                    wait = self.longer(wait);
                    if !temporary {
                        // Somebody has to mend it: it is tried again when somebody asks again.
                        self.shared.wanted.notified().await;
                    }
                }
            }
        }
    }

    /// Waits until the connection ends, takes it back, and says how it ended.
    async fn serve(&mut self, conn: &Conn) -> zk::SessionState {
        tracing::debug!(
            session = format_args!("{:#x}", conn.session),
            "connected to ZooKeeper"
        );
        let mut state = conn.client.state_watcher();
        let mut now = conn.client.state();
        while now == zk::SessionState::SyncConnected {
            let Some((_, serving)) = &mut self.lent else {
                break;
            };
            now = tokio::select! {
                () = serving.ended() => zk::SessionState::Closed,
                _ = conn.ended() => zk::SessionState::Disconnected,
                now = state.changed() => now,
            };
        }
        self.shared.phase.send_modify(|phase| phase.conn = None);
        conn.end(error::call(
            "the connection ended",
            zk::Error::ConnectionLoss,
        ));
        self.lent = None;
        now
    }

    fn longer(&self, wait: Duration) -> Duration {
        let longest = LONGEST_WAIT.min(self.shared.config.session / 4);
        (wait * 2).max(FIRST_WAIT).min(longest)
    }

    fn forget(&self, session: &zk::SessionInfo) {
        lock(&self.shared.past).insert(session.id().0);
    }
}

// A panic elsewhere leaves what is behind these locks whole: every change to it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_tries_to_reconnect_fit_into_the_timeout() {
        for (session, longest) in [(1000, 250), (2000, 500), (60_000, 2000)] {
            let session = Duration::from_millis(session);
            let config = ZooKeeperConfig::default().session(session);
            let holdings = Arc::new(Holdings::new(config.root()));
            let session = Session::new(config, holdings);
            let keeper = Keeper {
                shared: session.shared.clone(),
                closing: session.closing.subscribe(),
                lent: None,
            };
            let first = keeper.longer(Duration::ZERO);
            assert_eq!(first, Duration::from_millis(200));
            let second = keeper.longer(first);
            assert_eq!(second, Duration::from_millis(longest.min(400)));
            let last = (0..9).fold(second, |wait, _| keeper.longer(wait));
            assert_eq!(last, Duration::from_millis(longest));
        }
    }
}
