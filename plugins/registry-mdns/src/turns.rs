//! Taking turns, per name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// One lock for each name that somebody uses: writes of one record take effect in the order of the calls, also when
/// an earlier call was dropped.
#[derive(Debug, Default)]
pub(crate) struct Turns(Locks);

/// One's turn; it ends with this.
#[derive(Debug)]
pub(crate) struct Turn {
    name: String,
    locks: Locks,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for one's turn.
    pub(crate) async fn take(&self, name: &str) -> Turn {
        let lock = self.lock(name);
        let mut turn = Turn {
            name: name.to_owned(),
            locks: self.0.clone(),
            guard: None,
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(name.to_owned()).or_default().clone()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Clones are made under this lock alone, so that a count of one is nobody else's.
        if locks
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_order_and_nothing_is_left() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        let other = turns.take("b").await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for i in 0..3 {
            let (turns, order) = (turns.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = turns.take("a").await;
                order.lock().unwrap().push(i);
            }));
            tokio::task::yield_now().await;
        }
        waiting.remove(1).abort();
        assert!(order.lock().unwrap().is_empty());
        drop((first, other));
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 2]);
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
