//! Writes of one instance, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Error, ErrorKind, InstanceKey, Result};
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::task::JoinSet;

type Locks = HashMap<InstanceKey, Arc<tokio::sync::Mutex<()>>>;

/// Runs writes to their end, also when the caller gives up: a request that was cut off could still arrive after the
/// next one. Writes of one instance run in the order of the calls. Dropping this ends them all.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    locks: Arc<Mutex<Locks>>,
    running: Mutex<JoinSet<()>>,
}

/// One's turn; it ends with this.
struct Turn {
    key: InstanceKey,
    locks: Arc<Mutex<Locks>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the earlier writes of this instance, and then for this one.
    pub(crate) async fn write<T, F>(&self, key: &InstanceKey, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let lock = guard(&self.locks).entry(key.clone()).or_default().clone();
        let mut turn = Turn {
            key: key.clone(),
            locks: self.locks.clone(),
            held: None,
        };
        turn.held = Some(lock.lock_owned().await);
        let (reply, answer) = oneshot::channel();
        {
            let mut running = guard(&self.running);
            while running.try_join_next().is_some() {}
            running.spawn(async move {
                let result = write.await;
                drop(turn);
                // Nobody waits for it where the caller gave up.
                let _ = reply.send(result);
            });
        }
        answer
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "the registry was closed")))
    }

    /// Ends every write.
    pub(crate) fn close(&self) {
        guard(&self.running).abort_all();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut locks = guard(&self.locks);
        self.held = None;
        // Clones are made under this lock alone, so that a count of one is nobody else's.
        let last = |lock: &Arc<tokio::sync::Mutex<()>>| Arc::strong_count(lock) == 1;
        if locks.get(&self.key).is_some_and(last) {
            locks.remove(&self.key);
        }
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_was_given_up_ends_before_the_next_one_begins() {
        let turns = Turns::default();
        let key = InstanceKey {
            service: "s".try_into().unwrap(),
            id: "i".try_into().unwrap(),
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let write = |name: &'static str| {
            let log = log.clone();
            async move {
                sleep(Duration::from_secs(1)).await;
                guard(&log).push(name);
                Ok(())
            }
        };
        let given_up = timeout(Duration::from_millis(1), turns.write(&key, write("first"))).await;
        assert!(given_up.is_err());
        turns.write(&key, write("second")).await.unwrap();
        assert_eq!(*guard(&log), ["first", "second"]);
        assert!(guard(&turns.locks).is_empty());
    }
}
