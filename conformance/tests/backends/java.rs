//! Turns of the cases whose servers are Java's: each takes a processor for its start.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::block_in_place;

/// How many servers run side by side.
const AT_ONCE: usize = 4;

/// Where the cases of a backend wait for their servers.
#[derive(Debug)]
pub(crate) struct Machines(Arc<Semaphore>);

/// So many servers may run until it is dropped.
pub(crate) type Turn = OwnedSemaphorePermit;

impl Default for Machines {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Machines {
    /// Waits until so many servers may run.
    pub(crate) fn turn(&self, servers: u32) -> Turn {
        let turn = self.0.clone().acquire_many_owned(servers);
        // The limit of a case counts from before this, and others may take long.
        let turn = block_in_place(|| Handle::current().block_on(turn));
        turn.expect("it is never closed")
    }
}
