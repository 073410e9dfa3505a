//! One source of changes, many watchers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Instance, InstanceKey};
use crate::watcher::{Change, Scope, Watcher};

/// What a plugin feeds from its one browse, poll or stream, and what its watchers read from.
///
/// It holds the current instances and, for each watcher, which of them changed since it last looked and what it saw
/// then. A slow watcher therefore costs one entry per instance, however many changes it misses, and never hears of a
/// change that was undone meanwhile.
#[derive(Debug, Default)]
pub struct Fanout {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    instances: BTreeMap<InstanceKey, Arc<Instance>>,
    /// Whether `instances` is everything there is: only then a watcher may get its snapshot.
    complete: bool,
    closed: bool,
    subscribers: Vec<Weak<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    scope: Scope,
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    started: bool,
    /// The instances that changed, with what the watcher last saw of them.
    before: BTreeMap<InstanceKey, Option<Arc<Instance>>>,
    current: bool,
    end: Option<Error>,
}

impl Fanout {
    /// An empty fan-out that is not complete yet: watchers wait for [`replace`](Self::replace) or
    /// [`complete`](Self::complete).
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a watch.
    pub fn join(&self, scope: &Scope) -> FanoutWatcher {
        let subscriber = Arc::new(Subscriber {
            scope: scope.clone(),
            pending: Mutex::default(),
            wake: Notify::new(),
        });
        let mut state = lock(&self.state);
        if state.closed {
            lock(&subscriber.pending).end = Some(closed());
        }
        state
            .subscribers
            .retain(|subscriber| subscriber.strong_count() > 0);
        state.subscribers.push(Arc::downgrade(&subscriber));
        drop(state);
        FanoutWatcher {
            state: self.state.clone(),
            subscriber,
        }
    }

    /// A new instance, or what an instance says now. Says whether that was a change.
    pub fn upsert(&self, instance: Arc<Instance>) -> bool {
        self.write(|state| state.set(instance.key(), Some(instance)))
    }

    /// An instance is gone. Says whether it was there.
    pub fn remove(&self, key: &InstanceKey) -> bool {
        self.write(|state| state.set(key.clone(), None))
    }

    /// What these instances say now, or `None` for one that is gone. Watchers hear the differences as one batch.
    pub fn apply(&self, changes: impl IntoIterator<Item = (InstanceKey, Option<Arc<Instance>>)>) {
        self.write(|state| {
            for (key, now) in changes {
                state.set(key, now);
            }
        });
    }

    /// This is everything there is. Watchers hear the difference, as one batch.
    pub fn replace(&self, instances: Vec<Arc<Instance>>) {
        self.write(|state| {
            let mut next: BTreeMap<_, _> = instances
                .into_iter()
                .map(|instance| (instance.key(), instance))
                .collect();
            let gone: Vec<_> = state
                .instances
                .keys()
                .filter(|key| !next.contains_key(*key))
                .cloned()
                .collect();
            for key in gone {
                state.set(key, None);
            }
            while let Some((key, instance)) = next.pop_first() {
                state.set(key, Some(instance));
            }
            state.complete();
        });
    }

    /// What was fed so far is everything there is.
    pub fn complete(&self) {
        self.write(State::complete);
    }

    /// The source confirmed that nothing changed.
    pub fn confirm(&self) {
        self.write(|state| {
            state.each(|_, pending| {
                pending.current = true;
                true
            });
        });
    }

    /// The source can no longer promise that nothing was missed. Ends every watcher and forgets the instances, so
    /// that no new watcher takes them for a snapshot.
    pub fn fail(&self, error: &Error) {
        self.write(|state| {
            state.end(error);
            state.instances.clear();
            state.complete = false;
        });
    }

    /// Ends every watcher, now and later, with `Closed`.
    pub fn close(&self) {
        self.write(|state| {
            state.closed = true;
            state.end(&closed());
        });
    }

    /// The instances in this scope now, or `None` while they are not complete.
    pub fn instances(&self, scope: &Scope) -> Option<Vec<Arc<Instance>>> {
        let state = lock(&self.state);
        state.complete.then(|| state.within(scope))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }
}

impl State {
    fn set(&mut self, key: InstanceKey, now: Option<Arc<Instance>>) -> bool {
        let before = self.instances.get(&key).cloned();
        if before == now {
            return false;
        }
        self.each(|scope, pending| {
            let concerned = pending.started && scope.covers(&key.service);
            if concerned {
                let entry = pending.before.entry(key.clone());
                entry.or_insert_with(|| before.clone());
            }
            concerned
        });
        match now {
            Some(instance) => self.instances.insert(key, instance),
            None => self.instances.remove(&key),
        };
        true
    }

    fn complete(&mut self) {
        if !std::mem::replace(&mut self.complete, true) {
            self.each(|_, _| true);
        }
    }

    fn end(&mut self, error: &Error) {
        self.each(|_, pending| {
            pending.end = Some(error.clone());
            true
        });
    }

    /// Tells every subscriber, and wakes those that it concerns.
    fn each(&self, tell: impl Fn(&Scope, &mut Pending) -> bool) {
        for subscriber in self.subscribers.iter().filter_map(Weak::upgrade) {
            if tell(&subscriber.scope, &mut lock(&subscriber.pending)) {
                subscriber.wake.notify_one();
            }
        }
    }

    fn within(&self, scope: &Scope) -> Vec<Arc<Instance>> {
        self.instances
            .values()
            .filter(|instance| scope.covers(&instance.service))
            .cloned()
            .collect()
    }
}

/// A watcher of a [`Fanout`].
#[derive(Debug)]
pub struct FanoutWatcher {
    state: Arc<Mutex<State>>,
    subscriber: Arc<Subscriber>,
}

impl FanoutWatcher {
    fn poll(&self) -> Option<Result<Vec<Change>>> {
        let state = lock(&self.state);
        let mut pending = lock(&self.subscriber.pending);
        if let Some(error) = &pending.end {
            return Some(Err(error.clone()));
        }
        if !state.complete {
            return None;
        }
        if !pending.started {
            pending.started = true;
            return Some(Ok(vec![Change::Snapshot(
                state.within(&self.subscriber.scope),
            )]));
        }
        let mut changes: Vec<_> = std::mem::take(&mut pending.before)
            .into_iter()
            .filter_map(|(key, before)| match state.instances.get(&key) {
                now if now == before.as_ref() => None,
                Some(now) => Some(Change::Upsert(now.clone())),
                None => Some(Change::Remove(key)),
            })
            .collect();
        if changes.is_empty() && std::mem::take(&mut pending.current) {
            changes.push(Change::Current);
        }
        (!changes.is_empty()).then_some(Ok(changes))
    }
}

#[async_trait]
impl Watcher for FanoutWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            if let Some(changes) = self.poll() {
                return changes;
            }
            self.subscriber.wake.notified().await;
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

// A panic elsewhere leaves these maps whole: every change to them is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, weight: u16) -> Arc<Instance> {
        Arc::new(
            Instance::new("s", "10.0.0.1:80")
                .id(id)
                .weight(weight)
                .build()
                .unwrap(),
        )
    }

    fn ready() -> Fanout {
        let fanout = Fanout::new();
        fanout.replace(Vec::new());
        fanout
    }

    #[tokio::test]
    async fn a_watcher_waits_for_a_complete_snapshot() {
        let fanout = Fanout::new();
        let mut watcher = fanout.join(&Scope::All);
        fanout.upsert(instance("a", 1));
        assert!(watcher.poll().is_none());
        fanout.complete();
        assert_eq!(
            watcher.next().await.unwrap(),
            [Change::Snapshot(vec![instance("a", 1)])]
        );
    }

    #[tokio::test]
    async fn changes_coalesce_per_instance_and_undone_ones_are_not_told() {
        let fanout = ready();
        let mut watcher = fanout.join(&Scope::All);
        watcher.next().await.unwrap();
        for weight in 1..100 {
            fanout.upsert(instance("a", weight));
        }
        fanout.upsert(instance("b", 1));
        fanout.remove(&instance("b", 1).key());
        assert_eq!(
            watcher.next().await.unwrap(),
            [Change::Upsert(instance("a", 99))]
        );
        assert!(!fanout.upsert(instance("a", 99)));
        assert!(watcher.poll().is_none());
        fanout.confirm();
        assert_eq!(watcher.next().await.unwrap(), [Change::Current]);
    }

    #[tokio::test]
    async fn what_is_applied_together_is_told_together() {
        let fanout = ready();
        let mut watcher = fanout.join(&Scope::All);
        watcher.next().await.unwrap();
        let (a, b) = (instance("a", 1), instance("b", 1));
        fanout.apply([
            (a.key(), Some(a.clone())),
            (b.key(), Some(b.clone())),
            (a.key(), None),
        ]);
        assert_eq!(watcher.next().await.unwrap(), [Change::Upsert(b)]);
        assert!(watcher.poll().is_none());
    }

    #[tokio::test]
    async fn a_failure_ends_watchers_and_the_cache() {
        let fanout = ready();
        fanout.upsert(instance("a", 1));
        let mut watcher = fanout.join(&Scope::All);
        watcher.next().await.unwrap();
        fanout.fail(&Error::new(ErrorKind::Lost, "cut"));
        assert_eq!(watcher.next().await.unwrap_err().kind(), ErrorKind::Lost);
        assert_eq!(watcher.next().await.unwrap_err().kind(), ErrorKind::Lost);
        assert!(fanout.instances(&Scope::All).is_none());
        assert!(fanout.join(&Scope::All).poll().is_none());
        fanout.close();
        assert_eq!(
            fanout.join(&Scope::All).next().await.unwrap_err().kind(),
            ErrorKind::Closed
        );
    }

    #[tokio::test]
    async fn a_replacement_is_one_batch_of_differences() {
        let fanout = ready();
        fanout.replace(vec![instance("a", 1), instance("b", 1)]);
        let mut watcher = fanout.join(&Scope::All);
        watcher.next().await.unwrap();
        fanout.replace(vec![instance("b", 1), instance("c", 1)]);
        let changes = watcher.next().await.unwrap();
        assert_eq!(
            changes,
            [
                Change::Remove(instance("a", 1).key()),
                Change::Upsert(instance("c", 1))
            ]
        );
    }
}
