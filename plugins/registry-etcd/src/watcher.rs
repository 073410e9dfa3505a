//! What a watch yields.

use async_trait::async_trait;
use registry_core::{Change, FanoutWatcher, Result, Watcher};
use tokio::sync::watch;

use crate::error;
use crate::stream::Handle;

/// One watch: a snapshot, and what the stream told since.
pub(crate) struct EtcdWatcher {
    pub(crate) changes: FanoutWatcher,
    pub(crate) closed: watch::Receiver<bool>,
    /// Cancels the watch at the server.
    pub(crate) _handle: Handle,
}

#[async_trait]
impl Watcher for EtcdWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        tokio::select! {
            biased;
            // A registry that was dropped is closed too.
            _ = self.closed.wait_for(|closed| *closed) => Err(error::closed()),
            changes = self.changes.next() => changes,
        }
    }
}
