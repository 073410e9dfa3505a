//! What this registry has registered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use zookeeper_client as zk;

use crate::client::Conn;

/// The paths that we want to be ours, each with a watch of its node, so that a loss is known at once.
#[derive(Debug)]
pub(crate) struct Holdings {
    root: String,
    wanted: Mutex<HashMap<String, Wanted>>,
    losses: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Wanted {
    guard: Option<Guard>,
    /// The server's count (zxid) at our last write, or 0.
    written: i64,
}

/// The task that waits for the end of a node. It ends with this.
#[derive(Debug)]
struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Holdings {
    pub(crate) fn new(root: String) -> Self {
        Self {
            root,
            wanted: Mutex::default(),
            losses: watch::Sender::new(0),
        }
    }

    pub(crate) fn want(&self, path: &str) {
        self.lock().entry(path.to_owned()).or_default();
    }

    pub(crate) fn unwant(&self, path: &str) {
        self.lock().remove(path);
    }

    pub(crate) fn holds(&self, path: &str) -> bool {
        self.lock().contains_key(path)
    }

    /// Whether the end of this node would be noticed.
    pub(crate) fn is_guarded(&self, path: &str) -> bool {
        let wanted = self.lock();
        let guard = wanted.get(path).and_then(|wanted| wanted.guard.as_ref());
        guard.is_some_and(|guard| !guard.0.is_finished())
    }

    /// Whether this is still what we wrote: a server that went back in time has an older state.
    pub(crate) fn is_current(&self, path: &str, stat: &zk::Stat) -> bool {
        let wanted = self.lock();
        wanted
            .get(path)
            .is_some_and(|wanted| wanted.written <= stat.mzxid)
    }

    pub(crate) fn wrote(&self, path: &str, stat: &zk::Stat) {
        if let Some(wanted) = self.lock().get_mut(path) {
            wanted.written = stat.mzxid;
        }
    }

    /// Has the end of this node noticed from now on, if it is wanted.
    pub(crate) fn guard(
        self: &Arc<Self>,
        path: &str,
        conn: &Arc<Conn>,
        watcher: zk::OneshotWatcher,
    ) {
        if let Some(wanted) = self.lock().get_mut(path) {
            let task = follow(self.clone(), path.to_owned(), conn.clone(), watcher);
            wanted.guard = Some(Guard(tokio::spawn(task).abort_handle()));
        }
    }

    /// Something of ours may be lost.
    pub(crate) fn lose(&self) {
        self.losses.send_modify(|losses| *losses += 1);
    }

    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Deletes what this session has and nobody wants: a server that went back in time has it again.
    pub(crate) async fn sweep(&self, conn: &Conn) {
        let what = "listing the nodes of the session";
        let found = conn
            .call(what, conn.client.list_ephemerals(&self.root))
            .await;
        for path in found.unwrap_or_default() {
            if !self.holds(&path) {
                tracing::debug!(path, "a node that nobody wants is deleted");
                // Not a thing to fail for: it goes with the session.
                let _ = conn.call("deleting", conn.client.delete(&path, None)).await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Wanted>> {
        // A panic elsewhere leaves the map whole: every change to it is one call.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the node is no longer what it was when `watcher` was made.
async fn follow(
    holdings: Arc<Holdings>,
    path: String,
    conn: Arc<Conn>,
    mut watcher: zk::OneshotWatcher,
) {
    loop {
        let event = tokio::select! {
            biased;
            // The keeper of the session tells of that.
            _ = conn.ended() => return,
            event = watcher.changed() => event,
        };
        if event.event_type == zk::EventType::Session {
            return;
        }
        let again = conn.client.check_and_watch_stat(&path);
        match conn.call("watching our own node", again).await {
            Ok((Some(stat), next)) if stat.ephemeral_owner == conn.session => watcher = next,
            Err(error) if conn.is_down() => {
                tracing::debug!(%error, path, "the connection ended");
                return;
            }
            _ => return holdings.lose(),
        }
    }
}
