//! A watch of Consul.

use std::sync::Arc;

use async_trait::async_trait;
use registry_core::{Change, FanoutWatcher, Result, Watcher};

use crate::hub::Feed;

/// Reads from what all watches of its scope share. The last of them to go ends the query.
#[derive(Debug)]
pub(crate) struct ConsulWatcher {
    pub(crate) changes: FanoutWatcher,
    pub(crate) _feed: Arc<Feed>,
}

#[async_trait]
impl Watcher for ConsulWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        self.changes.next().await
    }
}
