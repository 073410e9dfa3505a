//! The one watch of a service, and the task that keeps it open.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

use super::guard::Guard;
use super::view::{Freshness, Snapshot};
use super::{Shared, diff};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Instance, InstanceId, InstanceKey, ServiceName};
use crate::telemetry;
use crate::time::{NEVER, caught, within};
use crate::watcher::{Change, Scope, Watcher};

/// A watch that ends with `Lost` sooner than this after its snapshot is opened again only after a pause.
const SHORT_LIVED: Duration = Duration::from_secs(1);
/// One instance is rechecked at most this often.
const RECHECK_PAUSE: Duration = Duration::from_secs(5);

/// The instances of one service, followed by a task that ends with this.
pub(crate) struct Feed {
    pub(super) service: ServiceName,
    pub(super) published: Arc<Published>,
    pub(crate) shared: Arc<Shared>,
    task: AbortHandle,
    rechecked: Mutex<HashMap<InstanceKey, Instant>>,
}

/// What the task writes and everybody reads.
pub(super) struct Published {
    pub(super) current: ArcSwap<Snapshot>,
    pub(super) moved: watch::Sender<()>,
}

impl Feed {
    pub(super) fn start(shared: Arc<Shared>, service: ServiceName) -> Self {
        let reason = Error::new(ErrorKind::Unavailable, "the registry has not answered yet")
            .with("service", &service);
        let published = Arc::new(Published {
            current: ArcSwap::from_pointee(Snapshot {
                instances: Arc::default(),
                generation: 0,
                freshness: Freshness::Stale {
                    since: Instant::now(),
                    reason,
                },
                held: 0,
            }),
            moved: watch::Sender::new(()),
        });
        let task = Task {
            guard: Guard::new(shared.config.guard, &shared.registry.capability()),
            shared: shared.clone(),
            service: service.clone(),
            published: published.clone(),
            instances: Vec::new(),
            generation: 0,
            fault: None,
        };
        let task = tokio::spawn(task.run()).abort_handle();
        Self {
            service,
            published,
            shared,
            task,
            rechecked: Mutex::default(),
        }
    }

    /// Whether the registry was closed, so that only a new feed could ever say anything else.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// A call to this instance failed: has the registry look again, where that helps and if it did not just do so.
    pub(crate) async fn recheck(&self, key: InstanceKey) {
        if !self.shared.registry.capability().recheck || !self.may_recheck(&key) {
            return;
        }
        let call = self.shared.registry.recheck(&key);
        if let Err(error) = within(self.shared.config.attempt_timeout, call).await {
            tracing::debug!(instance = %key, %error, "recheck failed");
        }
    }

    fn may_recheck(&self, key: &InstanceKey) -> bool {
        let mut rechecked = self
            .rechecked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rechecked.retain(|_, at| at.elapsed() < RECHECK_PAUSE);
        let may = !rechecked.contains_key(key);
        if may {
            rechecked.insert(key.clone(), Instant::now());
        }
        may
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

struct Task {
    shared: Arc<Shared>,
    service: ServiceName,
    published: Arc<Published>,
    guard: Guard,
    /// What is served, in the order of the ids: what the registry told, and what the guard holds.
    instances: Vec<Arc<Instance>>,
    generation: u64,
    fault: Option<(Instant, Error)>,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let mut had_its_time = false;
            let error = match self.open().await {
                Ok((watcher, first)) => {
                    let opened = Instant::now();
                    self.fault = None;
                    self.apply(first);
                    let error = self.follow(watcher).await;
                    had_its_time = opened.elapsed() >= SHORT_LIVED;
                    self.note_away(&error);
                    error
                }
                Err(error) => error,
            };
            self.fail(&error);
            if had_its_time {
                backoff.reset();
            }
            match error.kind() {
                ErrorKind::Closed => return,
                // It had its time: it is opened again at once, or as soon as the gate lets it.
                ErrorKind::Lost | ErrorKind::Unavailable | ErrorKind::Throttled if had_its_time => {
                }
                _ => sleep(backoff.after(&error, NEVER)).await,
            }
        }
    }

    /// Opens a watch up to its first changes.
    async fn open(&self) -> Result<(Box<dyn Watcher>, Vec<Change>)> {
        let pass = self.shared.gate.pass().await;
        let settle = self.shared.registry.capability().windows.settle;
        let limit = settle.saturating_add(self.shared.config.attempt_timeout);
        let opening = async {
            let scope = Scope::Service(self.service.clone());
            let mut watcher = self
                .shared
                .registry
                .watch(&scope, &self.shared.config.read)
                .await?;
            let first = watcher.next().await?;
            match first.first() {
                Some(Change::Snapshot(_)) => Ok((watcher, first)),
                _ => Err(Error::new(
                    ErrorKind::Protocol,
                    "the plugin's watch did not begin with a snapshot",
                )),
            }
        };
        let span = tracing::debug_span!("resync", service = %self.service);
        let opened = within(limit, opening.instrument(span)).await;
        pass.settle(&opened);
        if opened.is_ok() && self.generation > 0 {
            telemetry::resync(&self.service);
        }
        opened.map_err(|error| error.with("service", &self.service))
    }

    /// Follows a watch until it ends, and says why it did.
    async fn follow(&mut self, mut watcher: Box<dyn Watcher>) -> Error {
        loop {
            let release = self.guard.next_release();
            let released = async {
                match release {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changes = caught(watcher.next()) => match changes {
                    Ok(changes) => {
                        self.apply(changes);
                        // A watcher that is always ready must not keep the thread to itself.
                        consume_budget().await;
                    }
                    Err(error) => return error,
                },
                () = released => self.release(),
            }
        }
    }

    /// A watch that ends because the registry is away closes the gate for all of them.
    fn note_away(&self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Throttled) {
            self.shared
                .gate
                .pass_anyway()
                .settle::<()>(&Err(error.clone()));
        }
    }

    fn fail(&mut self, error: &Error) {
        tracing::debug!(service = %self.service, %error, "the watch ended");
        if self.fault.is_none() {
            self.guard.fault(self.instances.len());
        }
        let since = self
            .fault
            .take()
            .map_or_else(Instant::now, |(since, _)| since);
        self.fault = Some((since, error.clone()));
        self.publish(false);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let mut changed = false;
        let mut gone = Vec::new();
        for change in changes {
            match change {
                Change::Snapshot(instances) => {
                    gone.clear();
                    changed |= self.replace(instances);
                }
                Change::Upsert(instance) => {
                    gone.retain(|id| *id != instance.id);
                    changed |= self.upsert(instance);
                }
                Change::Remove(key) if key.service == self.service => gone.push(key.id),
                Change::Remove(_) | Change::Current => {}
            }
        }
        if !gone.is_empty() {
            changed |= self.remove(gone);
        }
        // The first snapshot is news even when it is empty.
        self.publish(changed || self.generation == 0);
    }

    fn replace(&mut self, mut now: Vec<Arc<Instance>>) -> bool {
        now.retain(|instance| instance.service == self.service);
        now.sort_by(|a, b| a.id.cmp(&b.id));
        now.dedup_by(|a, b| a.id == b.id);
        for instance in &now {
            self.guard.seen(&instance.id);
        }
        let gone: Vec<_> = self
            .instances
            .iter()
            .filter(|old| diff::find(&now, &old.id).is_err())
            .cloned()
            .collect();
        let ids = gone.iter().map(|instance| instance.id.clone()).collect();
        let believed = self.believe(ids, true);
        if believed.len() < gone.len() {
            now.extend(
                gone.into_iter()
                    .filter(|instance| !believed.contains(&instance.id)),
            );
            now.sort_by(|a, b| a.id.cmp(&b.id));
        }
        let changed = diff::adopt(&self.instances, &mut now);
        self.instances = now;
        changed
    }

    fn upsert(&mut self, instance: Arc<Instance>) -> bool {
        if instance.service != self.service {
            return false;
        }
        self.guard.seen(&instance.id);
        match diff::find(&self.instances, &instance.id) {
            Ok(at) if self.instances[at] == instance => return false,
            Ok(at) => self.instances[at] = instance,
            Err(at) => self.instances.insert(at, instance),
        }
        true
    }

    fn remove(&mut self, mut gone: Vec<InstanceId>) -> bool {
        gone.retain(|id| diff::find(&self.instances, id).is_ok());
        let believed = self.believe(gone, false);
        self.drop_ids(believed)
    }

    /// Those of the gone that are believed to be; the guard holds the others.
    fn believe(&mut self, gone: Vec<InstanceId>, resync: bool) -> Vec<InstanceId> {
        let (count, served) = (gone.len(), self.instances.len());
        let believed = self.guard.believe(gone, served, resync, Instant::now());
        if believed.len() < count {
            tracing::warn!(
                service = %self.service, gone = count, served,
                "most instances vanished after a fault of the registry; they are served until that is certain"
            );
        }
        believed
    }

    fn release(&mut self) {
        let due = self.guard.release(Instant::now());
        let changed = self.drop_ids(due);
        self.publish(changed);
    }

    fn drop_ids(&mut self, mut ids: Vec<InstanceId>) -> bool {
        ids.sort_unstable();
        self.instances
            .retain(|instance| ids.binary_search(&instance.id).is_err());
        !ids.is_empty()
    }

    /// Shows readers what is served, if that or its freshness changed.
    fn publish(&mut self, changed: bool) {
        let held = self.guard.held();
        let freshness = match &self.fault {
            Some((since, reason)) => Freshness::Stale { since: *since, reason: reason.clone() },
            None if held > 0 => Freshness::Stale {
                since: self.published.stale_since().unwrap_or_else(Instant::now),
                reason: Error::new(
                    ErrorKind::Lost,
                    format!("{held} instances vanished after a fault and are served until that is certain"),
                )
                .with("service", &self.service),
            },
            None => Freshness::Fresh,
        };
        let before = self.published.current.load();
        if !changed && before.freshness.is_fresh() && freshness.is_fresh() {
            return;
        }
        self.generation += u64::from(changed);
        let instances = if changed {
            self.instances.as_slice().into()
        } else {
            before.instances.clone()
        };
        self.published.current.store(Arc::new(Snapshot {
            instances,
            generation: self.generation,
            freshness,
            held,
        }));
        self.published.moved.send_replace(());
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // What nobody follows any more must not look fresh.
        if !matches!(&self.fault, Some((_, error)) if error.kind() == ErrorKind::Closed) {
            self.fail(&Error::new(
                ErrorKind::Closed,
                "the runtime that followed the service ended",
            ));
        }
    }
}

impl Published {
    fn stale_since(&self) -> Option<Instant> {
        match self.current.load().freshness {
            Freshness::Fresh => None,
            Freshness::Stale { since, .. } => Some(since),
        }
    }
}
