//! A watch with something wrong in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use registry_core::{
    Change, Error, Instance, InstanceKey, ReadOptions, Registry, Result, Scope, Status, Watcher,
    async_trait,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::registry::{Shared, Wrong};

pub(crate) struct MutantWatcher {
    wrong: Wrong,
    inner: Box<dyn Watcher>,
    registry: Arc<dyn Registry>,
    scope: Scope,
    shared: Arc<Shared>,
    number: u64,
    read: Arc<AtomicU64>,
    /// What was told of each instance last.
    last: HashMap<InstanceKey, Arc<Instance>>,
    pending: VecDeque<Vec<Change>>,
    ended: Option<Error>,
}

impl MutantWatcher {
    pub(crate) async fn new(
        wrong: Wrong,
        mut inner: Box<dyn Watcher>,
        registry: Arc<dyn Registry>,
        scope: &Scope,
        shared: Arc<Shared>,
        read: Arc<AtomicU64>,
    ) -> Result<Self> {
        let mut pending = VecDeque::new();
        match wrong {
            Wrong::OpensLate => {
                // Reads first and watches then; what happens in between it never hears of.
                pending.push_back(inner.next().await?);
                sleep(Duration::from_millis(2)).await;
                inner = registry.watch(scope, &ReadOptions::default()).await?;
                inner.next().await?;
            }
            Wrong::BuffersWithoutBound => inner = Box::new(Buffer::of(inner)),
            Wrong::LeavesATask => drop(tokio::spawn(std::future::pending::<()>())),
            _ => {}
        }
        let mut watches = shared.watches.lock().unwrap();
        let number = watches.entry(scope.clone()).or_default();
        *number += 1;
        let number = *number;
        drop(watches);
        Ok(Self {
            wrong,
            inner,
            registry,
            scope: scope.clone(),
            shared,
            number,
            read,
            last: HashMap::new(),
            pending,
            ended: None,
        })
    }

    async fn changes(&mut self) -> Result<Vec<Change>> {
        if let Some(changes) = self.pending.pop_front() {
            return Ok(changes);
        }
        match self.wrong {
            Wrong::TellsHeartbeats => loop {
                if let Ok(next) = timeout(Duration::from_millis(500), self.inner.next()).await {
                    return next;
                }
                if let Some(instance) = self.last.values().next() {
                    return Ok(vec![Change::Upsert(instance.clone())]);
                }
            },
            Wrong::LosesWhatIsDropped => {
                let next = self.inner.next().await;
                sleep(Duration::from_millis(5)).await;
                next
            }
            _ => self.inner.next().await,
        }
    }

    async fn failed(&mut self, error: Error) -> Result<Vec<Change>> {
        let first = self.ended.replace(error.clone()).is_none();
        match self.wrong {
            Wrong::OutlivesClose => std::future::pending().await,
            Wrong::GoesOnAfterAnError if !first => Ok(vec![Change::Snapshot(Vec::new())]),
            Wrong::OutageIsEmpty if first => Ok(vec![Change::Snapshot(Vec::new())]),
            Wrong::OutageIsEmpty => std::future::pending().await,
            Wrong::ResumesAfterAGap => loop {
                let options = ReadOptions::default();
                if let Ok(mut again) = self.registry.watch(&self.scope, &options).await {
                    // The snapshot would tell what it missed.
                    let _ = again.next().await;
                    self.inner = again;
                    break self.inner.next().await;
                }
                sleep(Duration::from_millis(50)).await;
            },
            _ => Err(error),
        }
    }

    fn alter(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let prefix = match &self.scope {
            Scope::Service(service) => service.as_str().to_owned(),
            _ => String::new(),
        };
        let ours = |instance: &Arc<Instance>| instance.service.as_str().starts_with(&prefix);
        let mut altered = Vec::new();
        for change in changes {
            match (self.wrong, change) {
                (Wrong::SkipsTheSnapshot, Change::Snapshot(all)) => {
                    altered.extend(all.into_iter().map(Change::Upsert));
                }
                (Wrong::DropsRemovals, Change::Remove(_)) => {}
                (Wrong::MatchesPrefixes, Change::Snapshot(mut all)) => {
                    all.retain(ours);
                    altered.push(Change::Snapshot(all));
                }
                (Wrong::MatchesPrefixes, Change::Upsert(instance)) if !ours(&instance) => {}
                (Wrong::MatchesPrefixes, Change::Remove(key))
                    if !key.service.as_str().starts_with(&prefix) => {}
                (Wrong::HidesTheUnhealthy, Change::Upsert(instance))
                    if instance.status != Status::Up =>
                {
                    altered.push(Change::Remove(instance.key()));
                }
                (Wrong::Repeats, Change::Upsert(instance)) => {
                    altered.extend([Change::Upsert(instance.clone()), Change::Upsert(instance)]);
                }
                (Wrong::ReplacesByRemoval, Change::Upsert(instance)) => {
                    altered.extend([Change::Remove(instance.key()), Change::Upsert(instance)]);
                }
                (Wrong::GoesBack, Change::Upsert(instance)) => {
                    if let Some(old) = self.last.get(&instance.key()) {
                        let late = [
                            Change::Upsert(old.clone()),
                            Change::Upsert(instance.clone()),
                        ];
                        self.pending.extend(late.map(|change| vec![change]));
                    }
                    altered.push(Change::Upsert(instance));
                }
                (_, other) => altered.push(other),
            }
        }
        altered
    }

    fn note(&mut self, changes: &[Change]) {
        self.read.fetch_add(1, Ordering::Relaxed);
        for change in changes {
            match change {
                Change::Snapshot(all) => {
                    self.last = all.iter().map(|i| (i.key(), i.clone())).collect();
                }
                Change::Upsert(instance) => {
                    self.last.insert(instance.key(), instance.clone());
                }
                Change::Remove(key) => {
                    self.last.remove(key);
                }
                Change::Current => {}
            }
        }
    }
}

#[async_trait]
impl Watcher for MutantWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            let repeated = !self.pending.is_empty();
            let changes = match (self.ended.clone(), self.wrong) {
                (Some(error), Wrong::GoesOnAfterAnError | Wrong::OutageIsEmpty) => {
                    self.failed(error).await?
                }
                _ => match self.changes().await {
                    Ok(changes) if repeated => changes,
                    Ok(changes) => self.alter(changes),
                    Err(error) => self.failed(error).await?,
                },
            };
            if self.wrong == Wrong::OneWatchPerService {
                let current = self.shared.watches.lock().unwrap()[&self.scope];
                if current != self.number {
                    continue;
                }
            }
            self.note(&changes);
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}

/// Keeps everything for a reader that may never come.
struct Buffer {
    kept: mpsc::UnboundedReceiver<Result<Vec<Change>>>,
    task: AbortHandle,
}

impl Buffer {
    fn of(mut inner: Box<dyn Watcher>) -> Self {
        let (keep, kept) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let next = inner.next().await;
                let last = next.is_err();
                if keep.send(next).is_err() || last {
                    break;
                }
            }
        });
        let task = task.abort_handle();
        Self { kept, task }
    }
}

#[async_trait]
impl Watcher for Buffer {
    async fn next(&mut self) -> Result<Vec<Change>> {
        match self.kept.recv().await {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
