//! Somebody who follows a watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::{Change, Error, Instance, InstanceKey, ReadOptions, Registry, Scope, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::case::{Failure, Outcome};

/// The instances that a watch has told so far, by identity.
pub(crate) type View = BTreeMap<InstanceKey, Arc<Instance>>;

/// Follows a watch in a task of its own until it is dropped.
pub(crate) struct Observer {
    state: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Notify,
}

/// What came so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The snapshot and the changes, folded.
    pub(crate) view: View,
    /// Every change but [`Change::Current`].
    pub(crate) changes: Vec<Change>,
    /// How many times `next` returned changes.
    pub(crate) batches: usize,
    /// How many snapshots came.
    pub(crate) snapshots: usize,
    /// The error that ended the watch.
    pub(crate) ended: Option<Error>,
}

impl Observer {
    /// Follows one watch to its end.
    pub(crate) fn of(mut watcher: Box<dyn Watcher>) -> Self {
        Self::spawn(|state| async move { state.drain(&mut *watcher).await })
    }

    /// Opens a watch, and another one whenever it ends, as the discovery does.
    pub(crate) fn following(registry: Arc<dyn Registry>, scope: Scope) -> Self {
        Self::spawn(|state| async move {
            loop {
                match registry.watch(&scope, &ReadOptions::default()).await {
                    Ok(mut watcher) => state.drain(&mut *watcher).await,
                    Err(error) => state.update(|seen| seen.ended = Some(error)),
                }
                sleep(Duration::from_millis(100)).await;
            }
        })
    }

    fn spawn<F>(follow: impl FnOnce(Arc<Shared>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let state = Arc::new(Shared::default());
        let task = tokio::spawn(follow(state.clone()));
        Self { state, task }
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Seen {
        self.state.lock().clone()
    }

    /// The instances now.
    pub(crate) fn view(&self) -> View {
        self.state.lock().view.clone()
    }

    /// Waits until what came fulfils the condition; the message of the failure ends with what it says is missing.
    pub(crate) async fn until(
        &self,
        window: Duration,
        what: &str,
        condition: impl Fn(&Seen) -> bool + Send + Sync,
    ) -> Outcome<Seen> {
        let deadline = Instant::now() + window;
        loop {
            let changed = self.state.changed.notified();
            {
                let seen = self.state.lock();
                if condition(&seen) {
                    return Ok(seen.clone());
                }
            }
            if timeout_at(deadline, changed).await.is_err() {
                let seen = self.seen();
                let view: Vec<_> = seen.view.keys().take(8).collect();
                let ended = seen
                    .ended
                    .map_or(String::new(), |error| format!(", ended: {error}"));
                return Err(Failure::new(format!(
                    "waited {window:?} for {what}; the watch has {} snapshots, {} changes, {} instances {view:?}{ended}",
                    seen.snapshots,
                    seen.changes.len(),
                    seen.view.len(),
                )));
            }
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    async fn drain(&self, watcher: &mut dyn Watcher) {
        loop {
            match watcher.next().await {
                Ok(changes) => self.update(|seen| seen.fold(changes)),
                Err(error) => return self.update(|seen| seen.ended = Some(error)),
            }
        }
    }
}

impl Seen {
    pub(crate) fn fold(&mut self, changes: Vec<Change>) {
        self.ended = None;
        self.batches += 1;
        for change in changes {
            match &change {
                Change::Snapshot(all) => {
                    self.snapshots += 1;
                    self.view = all.iter().map(|i| (i.key(), i.clone())).collect();
                }
                Change::Upsert(instance) => {
                    self.view.insert(instance.key(), instance.clone());
                }
                Change::Remove(key) => {
                    self.view.remove(key);
                }
                Change::Current => continue,
            }
            self.changes.push(change);
        }
    }
}
