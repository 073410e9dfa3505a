//! Writes of one instance, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Error, ErrorKind, InstanceKey, Result};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// Gives each instance a queue of writes. A write that began runs to its end, also when its caller is gone: a request
/// that was cut off may still arrive, and must not do so after the next one. Dropping this ends them all.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queues: Mutex<HashMap<InstanceKey, Queue>>,
    running: Mutex<JoinSet<()>>,
}

impl Turns {
    /// Runs a write after the earlier ones of this instance.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        key: &InstanceKey,
        write: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let queue = {
            let mut queues = lock(&self.queues);
            // Clones are made under this lock alone, so that a count of one is nobody's but the map's.
            queues.retain(|other, queue| other == key || Arc::strong_count(queue) > 1);
            queues.entry(key.clone()).or_default().clone()
        };
        let turn = queue.lock_owned().await;
        let (reply, answer) = oneshot::channel();
        {
            let mut running = lock(&self.running);
            while running.try_join_next().is_some() {}
            running.spawn(async move {
                let result = write.await;
                drop(turn);
                // Nobody waits for it where the caller is gone.
                let _ = reply.send(result);
            });
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Ends every write.
    pub(crate) fn close(&self) {
        lock(&self.running).abort_all();
    }
}

/// What is said after `close`.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

/// A panic elsewhere leaves what these locks guard whole: every change is one call.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    fn key(id: &str) -> InstanceKey {
        InstanceKey {
            service: "s".try_into().unwrap(),
            id: id.try_into().unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_was_given_up_ends_before_the_next_one_begins() {
        let turns = Turns::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        let write = |name: &'static str| {
            let log = log.clone();
            async move {
                sleep(Duration::from_secs(1)).await;
                lock(&log).push(name);
                Ok(())
            }
        };
        let a = key("a");
        let first = turns.write(&a, write("first"));
        assert!(timeout(Duration::from_millis(1), first).await.is_err());
        turns.write(&key("a"), write("second")).await.unwrap();
        assert_eq!(*lock(&log), ["first", "second"]);
        turns.write(&key("b"), write("other")).await.unwrap();
        assert_eq!(lock(&turns.queues).len(), 1, "queues that nobody uses go");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_what_runs() {
        let turns = Arc::new(Turns::default());
        let writing = {
            let turns = turns.clone();
            let forever = std::future::pending::<Result<()>>();
            tokio::spawn(async move { turns.write(&key("a"), forever).await })
        };
        tokio::task::yield_now().await;
        turns.close();
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}
