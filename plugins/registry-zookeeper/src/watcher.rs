//! Watches: one recursive watch at the server for each scope, shared by everybody who follows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use registry_core::{Change, Error, Fanout, FanoutWatcher, Result, Scope, Watcher};
use tokio::task::AbortHandle;

use crate::error;
use crate::follow::Follower;
use crate::read::Reader;
use crate::session::Session;

/// The scopes that are followed now.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Arc<Mutex<HashMap<Scope, Weak<Feed>>>>);

/// What follows one scope. Dropping it ends its task, and so the watch at the server.
#[derive(Debug)]
struct Feed {
    fanout: Arc<Fanout>,
    task: AbortHandle,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feeds {
    pub(crate) fn open(
        &self,
        scope: &Scope,
        session: &Arc<Session>,
        reader: &Arc<Reader>,
    ) -> ZooKeeperWatcher {
        let mut feeds = lock(&self.0);
        let feed = feeds.get(scope).and_then(Weak::upgrade).unwrap_or_else(|| {
            let fanout = Arc::new(Fanout::new());
            let ending = Ending {
                feeds: self.0.clone(),
                scope: scope.clone(),
                fanout: fanout.clone(),
                error: None,
            };
            let task = feed(ending, session.clone(), reader.clone());
            let task = tokio::spawn(task).abort_handle();
            Arc::new(Feed { fanout, task })
        });
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(scope.clone(), Arc::downgrade(&feed));
        // Under the lock: a feed that ends takes itself off the map first, and tells all who joined then.
        let changes = feed.fanout.join(scope);
        drop(feeds);
        ZooKeeperWatcher {
            changes,
            _feed: feed,
        }
    }
}

/// The end of a feed, however it comes: also by a panic.
struct Ending {
    feeds: Arc<Mutex<HashMap<Scope, Weak<Feed>>>>,
    scope: Scope,
    fanout: Arc<Fanout>,
    error: Option<Error>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut feeds = lock(&self.feeds);
        let feed = feeds.get(&self.scope).and_then(Weak::upgrade);
        if feed
            .as_ref()
            .is_some_and(|feed| Arc::ptr_eq(&feed.fanout, &self.fanout))
        {
            feeds.remove(&self.scope);
        }
        drop(feeds);
        let error = self.error.take();
        self.fanout
            .fail(&error.unwrap_or_else(|| error::lost("the watch ended")));
    }
}

async fn feed(mut ending: Ending, session: Arc<Session>, reader: Arc<Reader>) {
    let conn = session.conn().await;
    // Whoever drops the registry must not be kept from it by a watch.
    drop(session);
    let error = match conn {
        Ok(conn) => {
            let follower = Follower::new(conn, reader, ending.scope.clone(), ending.fanout.clone());
            follower.run().await
        }
        Err(error) => error,
    };
    ending.error = Some(error);
}

/// A watch of a scope.
#[derive(Debug)]
pub(crate) struct ZooKeeperWatcher {
    changes: FanoutWatcher,
    _feed: Arc<Feed>,
}

#[async_trait]
impl Watcher for ZooKeeperWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        self.changes.next().await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the map whole: every change to it is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
