//! Writes of one thing, one after the other.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind, Result};
use crate::instance::InstanceKey;

/// Gives each key a queue, for plugins: writes of one instance take effect in the order of the calls, also when an
/// earlier call was dropped.
///
/// Dropping it ends the writes that [`run`](Self::run) started.
pub struct Turns<K = InstanceKey> {
    queues: Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>,
    running: Mutex<JoinSet<()>>,
}

/// One's turn. It ends with this.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Turn {
    _queue: OwnedMutexGuard<()>,
}

impl<K: Clone + Eq + Hash + Send + Sync> Turns<K> {
    /// Nobody waits.
    pub fn new() -> Self {
        Self {
            queues: Mutex::default(),
            running: Mutex::default(),
        }
    }

    /// Waits until those who came before have had their turn.
    pub async fn take(&self, key: &K) -> Turn {
        let queue = {
            let mut queues = lock(&self.queues);
            // Clones are made under this lock alone, so that a count of one is nobody's but the map's.
            queues.retain(|other, queue| other == key || Arc::strong_count(queue) > 1);
            queues.entry(key.clone()).or_default().clone()
        };
        Turn {
            _queue: queue.lock_owned().await,
        }
    }

    /// Waits for one's turn and runs a write to its end, also when the caller gives up meanwhile: a request that was cut
    /// off may still arrive, and must not do so after the next one.
    ///
    /// # Errors
    /// Those of the write; `Closed` after [`close`](Self::close).
    pub async fn run<T: Send + 'static>(
        &self,
        key: &K,
        write: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let turn = self.take(key).await;
        let (reply, answer) = oneshot::channel();
        {
            let mut running = lock(&self.running);
            while running.try_join_next().is_some() {}
            running.spawn(async move {
                let result = write.await;
                drop(turn);
                // Nobody waits for it where the caller gave up.
                let _ = reply.send(result);
            });
        }
        let closed = |_| Err(Error::new(ErrorKind::Closed, "the registry was closed"));
        answer.await.unwrap_or_else(closed)
    }

    /// Ends the writes that run.
    pub fn close(&self) {
        lock(&self.running).abort_all();
    }
}

impl<K: Clone + Eq + Hash + Send + Sync> Default for Turns<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> fmt::Debug for Turns<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

// A panic elsewhere leaves what is behind these locks whole: every change to it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_order_and_nothing_is_kept() {
        let turns = Arc::new(Turns::new());
        let (first, other) = (turns.take(&"a").await, turns.take(&"b").await);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (turns, order) = (turns.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = turns.take(&"a").await;
                lock(&order).push(number);
            }));
            tokio::task::yield_now().await;
        }
        waiting.remove(1).abort();
        assert!(lock(&order).is_empty());
        drop((first, other));
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*lock(&order), [0, 2]);
        drop(turns.take(&"c").await);
        assert_eq!(lock(&turns.queues).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_was_given_up_ends_before_the_next_one_begins() {
        let turns = Turns::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let write = |name: &'static str| {
            let log = log.clone();
            async move {
                sleep(Duration::from_secs(1)).await;
                lock(&log).push(name);
                Ok(())
            }
        };
        let given_up = timeout(Duration::from_millis(1), turns.run(&"a", write("first"))).await;
        assert!(given_up.is_err());
        turns.run(&"a", write("second")).await.unwrap();
        assert_eq!(*lock(&log), ["first", "second"]);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_what_runs() {
        let turns = Arc::new(Turns::new());
        let writing = {
            let turns = turns.clone();
            let forever = std::future::pending::<Result<()>>();
            tokio::spawn(async move { turns.run(&"a", forever).await })
        };
        tokio::task::yield_now().await;
        turns.close();
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}
