//! What a plugin implements.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::capability::Capability;
use crate::error::Result;
use crate::instance::{Instance, InstanceKey, Label, ServiceName};
use crate::registration::{Held, Registered, Registration, Renewal};
use crate::watcher::{Scope, Watcher};

/// A registry, spoken to in one dialect.
///
/// A plugin makes **one attempt of one operation** and maps the answer. Retries, backoff, caching, registering
/// again, opening watches again and doubting empty answers are done once, in the [`Registrar`](crate::Registrar) and
/// the [`Discovery`](crate::Discovery). A plugin may rotate between its own endpoints.
///
/// Every method may be called from many tasks at once. Writes of one instance take effect in the order of the
/// calls, also when an earlier call was dropped before it ended. What an option or a registration asks and the
/// backend cannot honour is refused before any I/O, see [`Capability::admit`].
#[async_trait]
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// What this backend can, cannot, and how fast.
    fn capability(&self) -> Capability;

    /// Publishes a registration.
    ///
    /// # Behavior
    /// - Creates the record or replaces our own; the same record twice is no change.
    /// - Returns when the registry has taken it; others see it within [`Windows::visible`](crate::Windows).
    /// - Where [`Capability::conflicts`] holds and somebody else who is alive owns the id: `Conflict`.
    async fn register(&self, registration: &Registration) -> Result<Registered>;

    /// Tells the registry that these are alive, and asks which of them it still knows as ours.
    ///
    /// # Behavior
    /// - One answer for each, in the order given.
    /// - Never creates a record: what the registry does not know, or what now belongs to somebody else, is
    ///   [`Renewal::Unknown`].
    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>>;

    /// Resolves when some of what was registered should be renewed now, because the plugin learned that it may
    /// be lost. Otherwise it stays pending for ever. Dropping the future loses no news.
    async fn lost(&self);

    /// Removes a registration of ours.
    ///
    /// # Behavior
    /// - An unknown key is `Ok`.
    /// - When it returns, the removal is final at the registry; others see it within [`Windows::gone`](crate::Windows).
    async fn deregister(&self, key: &InstanceKey) -> Result<()>;

    /// The instances of a service now, each with its status, past every cache of a watch.
    ///
    /// # Behavior
    /// - An unknown service is `Ok` and empty; a failure is never an empty list.
    /// - Exactly this service: `web` is not `web2`.
    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>>;

    /// The names of the services that have an instance, sorted.
    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>>;

    /// Opens a watch. Many watches share what can be shared: one connection, one browse, one poll.
    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>>;

    /// A call to this instance failed: look again now, where [`Capability::recheck`] says that it helps. What is
    /// found arrives through the watches.
    async fn recheck(&self, key: &InstanceKey) -> Result<()>;

    /// Ends the connection: open watches end with `Closed`, and so does every later call but another `close`. What is
    /// still registered goes now or lapses as after a crash. Dropping the registry does the same without waiting.
    async fn close(&self) -> Result<()>;
}

/// What a read asks beyond the service's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Read from this data centre in place of the registry's own; see [`Capability::datacenters`].
    pub datacenter: Option<Label>,
}

impl ReadOptions {
    /// Sets the data centre to read from.
    pub fn datacenter(mut self, datacenter: Label) -> Self {
        self.datacenter = Some(datacenter);
        self
    }
}
