//! What this registry wrote, per instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::InstanceKey;
use tokio::sync::OwnedMutexGuard;

use crate::stream::Guard;

/// What is known of the registrations of this registry.
#[derive(Debug, Default)]
pub(crate) struct Records(Arc<Mutex<HashMap<InstanceKey, Arc<Record>>>>);

#[derive(Debug, Default)]
struct Record {
    /// Writes of one instance take effect in the order of the calls.
    turn: Arc<tokio::sync::Mutex<()>>,
    slot: Mutex<Slot>,
}

/// One registration.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The lease that it is published with.
    pub(crate) lease: Option<Lease>,
    /// Leases of calls whose outcome is unknown: the key may be attached to any of them.
    pub(crate) others: Vec<i64>,
    /// A lease that was asked for, and may be there although no answer came.
    pub(crate) pending: Option<Pending>,
    /// The revision of the key as we last knew it, 0 where it was absent.
    pub(crate) revision: i64,
    /// The lease that it was attached to then.
    pub(crate) holder: i64,
    /// Tells when the key is deleted.
    pub(crate) guard: Option<Guard>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// The seconds that were wished for.
    pub(crate) wish: i64,
    pub(crate) granted: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) id: i64,
    /// The seconds that were wished for.
    pub(crate) wish: i64,
}

/// What was found at a key: the revision and the lease, or `None` where there is no key.
pub(crate) type Found = Option<(i64, i64)>;

impl Slot {
    /// The leases that may be there, and that the key may be attached to.
    pub(crate) fn leases(&self) -> impl Iterator<Item = i64> {
        let own = self.lease.as_ref().map(|lease| lease.id);
        let pending = self.pending.as_ref().map(|pending| pending.id);
        let others = self.others.iter().copied();
        own.into_iter().chain(others).chain(pending)
    }

    /// Takes a lease for the next write; the one before may still hold the key.
    pub(crate) fn replace(&mut self, lease: Option<Lease>) {
        let before = std::mem::replace(&mut self.lease, lease);
        self.others.extend(before.map(|lease| lease.id));
        self.pending
            .take_if(|pending| lease.is_some_and(|lease| lease.id == pending.id));
        self.give_up_pending(None);
    }

    /// The lease to ask for: a retry asks for the same one, so that however many answers stay away there is one lease.
    pub(crate) fn ask(&mut self, wish: i64) -> i64 {
        let new = || Pending {
            id: fastrand::i64(1..),
            wish,
        };
        self.pending.get_or_insert_with(new).id
    }

    /// The lease that was asked for, unless with this wish, is not to be asked for again: to be revoked.
    pub(crate) fn give_up_pending(&mut self, wish: Option<i64>) -> Option<i64> {
        let pending = self.pending.take_if(|pending| wish != Some(pending.wish))?;
        self.others.push(pending.id);
        Some(pending.id)
    }

    /// The key is attached to the lease, at this revision.
    pub(crate) fn published(&mut self, revision: i64) {
        self.revision = revision;
        self.holder = self.lease.as_ref().map_or(0, |lease| lease.id);
        self.others.clear();
    }

    /// Takes what was found at the key for known, unless it is somebody else's.
    pub(crate) fn adopt(&mut self, found: Found) -> bool {
        let (revision, holder) = found.unwrap_or_default();
        let ours = found.is_none() || self.leases().any(|lease| lease == holder);
        if ours {
            (self.revision, self.holder) = (revision, holder);
        }
        ours
    }

    fn is_empty(&self) -> bool {
        self.leases().next().is_none()
    }
}

/// One's turn to write an instance. A record of which nothing is left goes with it.
pub(crate) struct Turn {
    key: InstanceKey,
    record: Arc<Record>,
    records: Arc<Mutex<HashMap<InstanceKey, Arc<Record>>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Records {
    /// Waits for one's turn.
    pub(crate) async fn turn(&self, key: &InstanceKey) -> Turn {
        let record = lock(&self.0).entry(key.clone()).or_default().clone();
        self.take(key, record).await
    }

    /// Waits for one's turn, where the instance is known.
    pub(crate) async fn known(&self, key: &InstanceKey) -> Option<Turn> {
        let record = lock(&self.0).get(key).cloned()?;
        Some(self.take(key, record).await)
    }

    async fn take(&self, key: &InstanceKey, record: Arc<Record>) -> Turn {
        let lock = record.turn.clone();
        let mut turn = Turn {
            key: key.clone(),
            record,
            records: self.0.clone(),
            guard: None,
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// Looks at what is known now, without waiting.
    pub(crate) fn look<T>(
        &self,
        key: &InstanceKey,
        look: impl FnOnce(&mut Slot) -> T,
    ) -> Option<T> {
        let record = lock(&self.0).get(key).cloned()?;
        let mut slot = lock(&record.slot);
        Some(look(&mut slot))
    }

    /// Forgets everything, and says which leases there were.
    pub(crate) fn drain(&self) -> Vec<i64> {
        let records: Vec<_> = lock(&self.0).drain().map(|(_, record)| record).collect();
        let mut leases = Vec::new();
        for record in records {
            let slot = std::mem::take(&mut *lock(&record.slot));
            leases.extend(slot.leases());
        }
        leases
    }
}

impl Turn {
    pub(crate) fn slot(&self) -> MutexGuard<'_, Slot> {
        lock(&self.record.slot)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut records = lock(&self.records);
        self.guard = None;
        // Clones are made under this lock alone: two of them are the map's and this one.
        if Arc::strong_count(&self.record) == 2 && lock(&self.record.slot).is_empty() {
            records.remove(&self.key);
        }
    }
}

// A panic elsewhere leaves these whole: every change to them is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> InstanceKey {
        InstanceKey {
            service: "web".try_into().unwrap(),
            id: "a".try_into().unwrap(),
        }
    }

    fn lease(id: i64) -> Option<Lease> {
        Some(Lease {
            id,
            wish: 2,
            granted: Duration::from_secs(2),
        })
    }

    #[tokio::test]
    async fn what_is_empty_is_forgotten_and_what_is_not_stays() {
        let records = Records::default();
        drop(records.turn(&key()).await);
        assert!(records.known(&key()).await.is_none());
        records.turn(&key()).await.slot().replace(lease(1));
        assert!(records.known(&key()).await.is_some());
        assert_eq!(records.drain(), [1]);
        assert!(records.known(&key()).await.is_none());
    }

    #[tokio::test]
    async fn turns_are_taken_one_at_a_time_in_order() {
        let records = Arc::new(Records::default());
        let first = records.turn(&key()).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (records, order) = (records.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = records.turn(&key()).await;
                lock(&order).push(number);
            }));
            tokio::task::yield_now().await;
        }
        waiting.remove(1).abort();
        assert!(lock(&order).is_empty());
        drop(first);
        // Nothing is written yet, and yet whoever comes now comes last.
        let last = records.turn(&key()).await;
        assert_eq!(*lock(&order), [0, 2]);
        drop(last);
        for task in waiting {
            task.await.unwrap();
        }
        assert!(lock(&records.0).is_empty());
    }

    #[test]
    fn every_lease_that_may_hold_the_key_is_known_until_one_does() {
        let mut slot = Slot::default();
        slot.replace(lease(1));
        slot.replace(lease(2));
        assert_eq!(slot.leases().collect::<Vec<_>>(), [2, 1]);
        slot.published(7);
        assert_eq!(slot.leases().collect::<Vec<_>>(), [2]);
        assert_eq!((slot.revision, slot.holder), (7, 2));
        assert!(!slot.adopt(Some((8, 1))) && !slot.adopt(Some((8, 0))));
        assert!(slot.adopt(Some((8, 2))));
        assert_eq!((slot.revision, slot.holder), (8, 2));
        assert!(slot.adopt(None));
        assert_eq!((slot.revision, slot.holder), (0, 0));
    }

    #[test]
    fn a_lease_that_was_asked_for_is_asked_for_again_until_it_is_there_or_given_up() {
        let mut slot = Slot::default();
        let id = slot.ask(2);
        assert_eq!(slot.ask(2), id);
        assert_eq!(slot.give_up_pending(Some(2)), None);
        assert!(!slot.is_empty());
        slot.replace(lease(id));
        assert_eq!(slot.leases().collect::<Vec<_>>(), [id]);
        let next = slot.ask(3);
        assert_ne!(next, id);
        assert_eq!(slot.give_up_pending(Some(2)), Some(next));
        let last = slot.ask(2);
        slot.replace(None);
        assert_eq!(slot.others, [next, id, last]);
        assert!(slot.pending.is_none());
    }
}
