//! What a plugin's watch yields.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::instance::{Instance, InstanceKey, ServiceName};

/// A stream of changes, with two duties.
///
/// **The first item is a complete snapshot**, alone or as the first change of its batch, even when it is empty.
/// **When the watcher can no longer promise that nothing was missed** (stream cut, history compacted, session lost,
/// index or revision gone back, overflow) **it returns an error and is finished**: no item follows an error. The
/// [`Discovery`](crate::Discovery) then opens a new one and turns its snapshot into the smallest set of changes, so
/// that no plugin has recovery code of its own.
///
/// Dropping a watcher frees what it holds at the server.
#[async_trait]
pub trait Watcher: Send {
    /// The next changes that belong together; never an empty list. Dropping the future loses no change.
    ///
    /// # Behavior
    /// - No event without a change: a record that says the same again is not reported.
    /// - For one instance, never an older state after a newer one; states in between may be left out.
    /// - An instance that turns unhealthy is an `Upsert` with another status, not a `Remove`.
    async fn next(&mut self) -> Result<Vec<Change>>;
}

/// One change of what a registry knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All there is; may come again at any time.
    Snapshot(Vec<Arc<Instance>>),
    /// A new instance, or what an instance says now.
    Upsert(Arc<Instance>),
    /// An instance is gone.
    Remove(InstanceKey),
    /// Nothing changed, and the registry confirmed it just now.
    Current,
}

/// What a watch covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// One service.
    Service(ServiceName),
    /// Every service; see [`Capability::watch_all`](crate::Capability::watch_all).
    All,
}

impl Scope {
    /// Whether the scope covers this service.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::Service(name) => name == service,
            Self::All => true,
        }
    }
}

impl From<ServiceName> for Scope {
    fn from(service: ServiceName) -> Self {
        Self::Service(service)
    }
}
