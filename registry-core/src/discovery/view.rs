//! What a program sees of a service.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::diff;
use super::feed::Feed;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Instance, ServiceName};
use crate::watcher::Change;

/// The instances of a service, kept up to date while this is held. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    pub(crate) feed: Arc<Feed>,
}

/// The instances of a service at one time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The instances in the order of their ids, whatever their status.
    pub instances: Arc<[Arc<Instance>]>,
    /// Grows with every change of the instances; 0 before the first answer.
    pub generation: u64,
    /// Whether the registry still stands behind it.
    pub freshness: Freshness,
    /// How many of the instances are gone from the registry and served only because that is doubted, see
    /// [`GuardPolicy`](crate::GuardPolicy).
    pub held: usize,
}

/// Whether a registry stands behind a [`Snapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Freshness {
    /// It does.
    Fresh,
    /// It could not be asked, or its answer is doubted: this is the last good set.
    Stale {
        /// Since when.
        since: Instant,
        /// Why.
        reason: Error,
    },
}

impl Freshness {
    /// Whether the registry stands behind it.
    pub const fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh)
    }
}

impl View {
    pub(super) const fn new(feed: Arc<Feed>) -> Self {
        Self { feed }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.feed.service
    }

    /// The instances now. One atomic load; no I/O.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.feed.published.current.load_full()
    }

    /// Follows the instances: first a snapshot, then what changes.
    pub fn subscribe(&self) -> Changes {
        Changes {
            moved: self.moved(),
            view: self.clone(),
            seen: None,
        }
    }

    /// Notices every new [`snapshot`](Self::snapshot), a change of its freshness alone included.
    pub fn moved(&self) -> watch::Receiver<()> {
        self.feed.published.moved.subscribe()
    }

    /// Waits for the first answer.
    ///
    /// # Errors
    /// What will not pass by itself.
    pub(super) async fn ready(&self) -> Result<()> {
        let mut moved = self.moved();
        loop {
            let snapshot = self.snapshot();
            match &snapshot.freshness {
                _ if snapshot.generation > 0 => return Ok(()),
                Freshness::Stale { reason, .. } if !reason.is_temporary() => {
                    return Err(reason.clone());
                }
                _ => {}
            }
            // The sender lives in the feed, which this view holds.
            let _ = moved.changed().await;
        }
    }
}

/// The changes of a service's instances.
///
/// They are computed from what this reader saw last, so that a slow one misses states in between, never the
/// latest one, and costs nothing.
#[derive(Debug)]
pub struct Changes {
    view: View,
    moved: watch::Receiver<()>,
    seen: Option<Arc<Snapshot>>,
}

impl Changes {
    /// The next changes; never an empty list. The first is a [`Change::Snapshot`]. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Closed` once the registry was closed. No other: while the registry is away nothing changes.
    pub async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            let now = self.view.snapshot();
            if let Some(changes) = self.since_seen(&now) {
                self.seen = Some(now);
                return Ok(changes);
            }
            if let Freshness::Stale { reason, .. } = &now.freshness
                && reason.kind() == ErrorKind::Closed
            {
                return Err(reason.clone());
            }
            let _ = self.moved.changed().await;
        }
    }

    fn since_seen(&self, now: &Snapshot) -> Option<Vec<Change>> {
        match &self.seen {
            _ if now.generation == 0 => None,
            None => Some(vec![Change::Snapshot(now.instances.to_vec())]),
            Some(seen) if seen.generation == now.generation => None,
            Some(seen) => {
                let changes = diff::changes(&seen.instances, &now.instances);
                (!changes.is_empty()).then_some(changes)
            }
        }
    }
}
