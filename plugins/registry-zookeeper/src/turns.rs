//! Taking turns, per path.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// One fair lock for each path that somebody writes to: writes of one record begin in the order of the calls.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for one's turn, which ends when the guard is dropped.
    pub(crate) async fn take(&self, path: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let lock = locks.get(path).cloned().unwrap_or_default();
            // Whoever holds or awaits a lock has a clone of it, made under this lock.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.insert(path.to_owned(), lock.clone());
            lock
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_order_and_nothing_is_kept() {
        let turns = Arc::new(Turns::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (first, other) = (turns.take("a").await, turns.take("b").await);
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (turns, order) = (turns.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = turns.take("a").await;
                order.lock().unwrap().push(number);
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
        drop(turns.take("c").await);
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
