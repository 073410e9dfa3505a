//! One poll for all watches.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use registry_core::{Change, ErrorKind, Fanout, FanoutWatcher, Result, Scope, Watcher};
use reqwest::StatusCode;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Client, DELTA, Reply, Request, part};
use crate::config::LONGEST_POLL;
use crate::store::{Answer, Origin, Store};
use crate::{closed, lock};

/// Follows the registry for as long as somebody watches it.
#[derive(Debug)]
pub(crate) struct Poller {
    client: Arc<Client>,
    current: Mutex<Current>,
    skipped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Current {
    poll: Weak<Poll>,
    closed: bool,
}

/// A poll that runs. It belongs to the watchers of it, and ends with the last one.
#[derive(Debug)]
struct Poll {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    fanout: Fanout,
    /// It failed, and nobody can join it any more.
    failed: Mutex<bool>,
    now: Notify,
}

impl Poller {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            current: Mutex::default(),
            skipped: Arc::default(),
        }
    }

    /// How many records were skipped.
    pub(crate) fn skipped(&self) -> &Arc<AtomicU64> {
        &self.skipped
    }

    /// Opens a watch; the first one begins to poll.
    pub(crate) fn open(&self, scope: &Scope) -> Result<EurekaWatcher> {
        let mut current = lock(&self.current);
        if current.closed {
            return Err(closed());
        }
        if let Some(poll) = current.poll.upgrade()
            && let Some(watcher) = poll.join(scope)
        {
            return Ok(watcher);
        }
        let shared = Arc::new(Shared::default());
        let task = Task {
            client: self.client.clone(),
            shared: shared.clone(),
            skipped: self.skipped.clone(),
            store: Store::default(),
            source: None,
        };
        let changes = shared.fanout.join(scope);
        let task = tokio::spawn(task.run()).abort_handle();
        let poll = Arc::new(Poll { shared, task });
        current.poll = Arc::downgrade(&poll);
        Ok(EurekaWatcher {
            changes,
            _poll: poll,
        })
    }

    /// Asks for changes now.
    pub(crate) fn hurry(&self) -> Result<()> {
        let current = lock(&self.current);
        if current.closed {
            return Err(closed());
        }
        if let Some(poll) = current.poll.upgrade() {
            poll.shared.now.notify_one();
        }
        Ok(())
    }

    /// Ends every watch, now and later, with `Closed`.
    pub(crate) fn close(&self) {
        let mut current = lock(&self.current);
        current.closed = true;
        if let Some(poll) = current.poll.upgrade() {
            poll.shared.fanout.close();
            poll.task.abort();
        }
    }
}

impl Poll {
    fn join(self: Arc<Self>, scope: &Scope) -> Option<EurekaWatcher> {
        let failed = lock(&self.shared.failed);
        let changes = (!*failed).then(|| self.shared.fanout.join(scope))?;
        drop(failed);
        Some(EurekaWatcher {
            changes,
            _poll: self,
        })
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A watch of a scope.
#[derive(Debug)]
pub(crate) struct EurekaWatcher {
    changes: FanoutWatcher,
    /// Ends with the last watch.
    _poll: Arc<Poll>,
}

#[async_trait]
impl Watcher for EurekaWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        self.changes.next().await
    }
}

struct Task {
    client: Arc<Client>,
    shared: Arc<Shared>,
    skipped: Arc<AtomicU64>,
    store: Store,
    /// The server that the last answer came from, and when. The clock of the machine runs on while it sleeps.
    source: Option<(usize, SystemTime)>,
}

impl Task {
    async fn run(mut self) {
        let period = self.client.config().poll;
        // However often somebody is in a hurry.
        let pause = period.min(Duration::from_secs(1));
        loop {
            if let Err(error) = self.poll().await {
                tracing::debug!(%error, "the poll ended");
                let mut failed = lock(&self.shared.failed);
                *failed = true;
                self.shared.fanout.fail(&error);
                return;
            }
            let wait = period.mul_f64(1.0 - fastrand::f64() / 10.0);
            sleep(pause.min(wait)).await;
            // Its end is as good as being in a hurry.
            let _ = timeout(wait.saturating_sub(pause), self.shared.now.notified()).await;
        }
    }

    /// Asks for what changed, or for everything where that is not enough.
    async fn poll(&mut self) -> Result<()> {
        let config = self.client.config();
        let recent = |(_, at): &(usize, SystemTime)| {
            let age = SystemTime::now().duration_since(*at);
            age.is_ok_and(|age| age < LONGEST_POLL + Duration::from_secs(30))
        };
        if config.delta && self.source.as_ref().is_some_and(recent) && self.delta().await? {
            return Ok(());
        }
        self.full().await
    }

    /// Takes what changed lately. Says whether we then know everything.
    async fn delta(&mut self) -> Result<bool> {
        let reply = self.client.send(&list(&self.client, DELTA)).await?;
        let same = self
            .source
            .is_some_and(|(source, _)| source == reply.server);
        let disabled = matches!(reply.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
        // Where one record cannot be written, the server tells no changes for minutes, and everything again sooner.
        if !same || disabled || (reply.status == StatusCode::OK && reply.body.is_empty()) {
            return Ok(false);
        }
        let answer = self.read(&reply)?;
        let hash = answer.hash();
        let changes = self.store.update(answer);
        let agrees = self.store.agrees(hash.as_deref());
        let unchanged = changes.is_empty();
        self.shared.fanout.apply(changes);
        if agrees {
            self.source = Some((reply.server, SystemTime::now()));
            if unchanged {
                self.shared.fanout.confirm();
            }
        }
        Ok(agrees)
    }

    async fn full(&mut self) -> Result<()> {
        let reply = self.client.send(&list(&self.client, "/apps")).await?;
        let answer = self.read(&reply)?;
        let origin = match self.source {
            Some((source, _)) if source != reply.server => Origin::Other,
            _ => Origin::Same,
        };
        self.store.replace(answer, origin);
        self.shared.fanout.replace(self.store.instances());
        self.shared.fanout.confirm();
        self.source = Some((reply.server, SystemTime::now()));
        Ok(())
    }

    fn read(&self, reply: &Reply) -> Result<Answer> {
        read(&self.client, reply, &self.store, &self.skipped)
    }
}

/// The request for a list of all services, or of what changed in them.
pub(crate) fn list(client: &Client, path: &str) -> Request {
    let regions = &client.config().regions;
    if regions.is_empty() {
        return Request::get(path.to_owned()).large();
    }
    let regions: Vec<_> = regions
        .iter()
        .map(|region| part(region).to_string())
        .collect();
    Request::get(format!("{path}?regions={}", regions.join(","))).large()
}

/// Reads a list.
pub(crate) fn read(
    client: &Client,
    reply: &Reply,
    store: &Store,
    skipped: &AtomicU64,
) -> Result<Answer> {
    let body = client.list(reply)?;
    let why = "the server's answer is not one of Eureka; is the path right?";
    let unreadable = || client.error(ErrorKind::Protocol, reply.server, why);
    let answer = Answer::read(body, store, skipped)
        .map_err(|error: serde_json::Error| unreadable().because(error))?;
    let answer = answer.ok_or_else(unreadable)?;
    client.prove(reply.server);
    Ok(answer)
}
