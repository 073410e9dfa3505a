//! The daemon of one client: started when it is needed, shared by all that it announces and looks for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mdns_sd::{DaemonEvent, Receiver};
use registry_core::{Error, ErrorKind, Result};

use crate::config::MdnsConfig;
use crate::daemon::Daemon;
use crate::label;
use crate::networks::Networks;
use crate::records::Records;

/// A client's way to the link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: MdnsConfig,
    pub(crate) records: Arc<Records>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Idle,
    Running(Arc<Daemon>),
    Closed,
}

impl Link {
    pub(crate) fn new(config: MdnsConfig) -> Self {
        Self {
            config,
            records: Arc::default(),
            state: Mutex::new(State::Idle),
        }
    }

    /// Refuses everything after `close`.
    pub(crate) fn check_open(&self) -> Result<()> {
        match *self.lock() {
            State::Closed => Err(closed()),
            _ => Ok(()),
        }
    }

    /// The daemon, running.
    pub(crate) fn daemon(&self) -> Result<Arc<Daemon>> {
        let mut state = self.lock();
        match &*state {
            State::Closed => return Err(closed()),
            State::Running(daemon) if daemon.is_running() => return Ok(daemon.clone()),
            // Its reports are followed no more, as when their runtime is gone.
            State::Running(daemon) => daemon.end(),
            State::Idle => {}
        }
        let daemon = self.start(false)?;
        *state = State::Running(daemon.clone());
        Ok(daemon)
    }

    /// A daemon apart, for a name that the shared one gave away. It ends with the last who holds it.
    pub(crate) fn daemon_apart(&self) -> Result<Arc<Daemon>> {
        let state = self.lock();
        if matches!(*state, State::Closed) {
            return Err(closed());
        }
        self.start(true)
    }

    /// Fences everything off; gives the daemon for the last words, the first time.
    pub(crate) fn close(&self) -> Option<Arc<Daemon>> {
        match std::mem::replace(&mut *self.lock(), State::Closed) {
            State::Running(daemon) => Some(daemon),
            State::Idle | State::Closed => None,
        }
    }

    fn start(&self, apart: bool) -> Result<Arc<Daemon>> {
        let (mut daemon, reports) = Daemon::start(&self.config)?;
        daemon.apart = apart;
        let daemon = Arc::new(daemon);
        let follower = Follower {
            config: self.config.clone(),
            records: self.records.clone(),
            daemon: Arc::downgrade(&daemon),
        };
        // It ends with the daemon, or with the runtime.
        tokio::spawn(follower.run(reports));
        Ok(daemon)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows what a daemon reports.
struct Follower {
    config: MdnsConfig,
    records: Arc<Records>,
    daemon: Weak<Daemon>,
}

impl Follower {
    async fn run(self, reports: Receiver<DaemonEvent>) {
        while let Ok(report) = reports.recv_async().await {
            match report {
                DaemonEvent::Announce(full_name, _) => match label::renamed_from(&full_name) {
                    None => self.records.announced(&full_name, &self.daemon),
                    // The report of the change itself may be lost, or yet to come.
                    Some(original) => self.records.renamed(&original, &self.daemon),
                },
                DaemonEvent::NameChange(change) => {
                    self.records.renamed(&change.original, &self.daemon)
                }
                DaemonEvent::IpAdd(_) | DaemonEvent::IpDel(_) => self.networks_changed(),
                DaemonEvent::Error(error) => {
                    tracing::warn!(%error, "the mDNS daemon reports an error")
                }
                _ => {}
            }
        }
    }

    fn networks_changed(&self) {
        let Some(daemon) = self.daemon.upgrade() else {
            return;
        };
        let Ok(networks) = Networks::now(&self.config) else {
            return;
        };
        self.records.moved(&daemon, &networks);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.upgrade() {
            self.records.ended(&daemon);
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}
