//! Follows services: one watch per service however many ask, opened again whenever it ends, and doubted when most of
//! a service vanishes at once.

mod diff;
mod feed;
mod guard;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::timeout_at;

pub use guard::GuardPolicy;
pub use view::{Changes, Freshness, Snapshot, View};

use crate::backoff::Gate;
use crate::error::{Error, Result};
use crate::instance::{InstanceKey, Label, ServiceName};
use crate::registry::{ReadOptions, Registry};
use crate::selector::Caller;
use crate::time::{after, within};
use feed::Feed;

/// Follows services of one registry. Cheap to clone; clones share their watches.
///
/// With `tracing`, reading all of a service is a span of level `DEBUG`, `resync` with the field `service`. With the feature
/// `metrics`, the counter `registry_resyncs_total`, by `service`, says how often that was done again after a watch had
/// ended.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

/// How a [`Discovery`] works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiscoveryConfig {
    /// How long the caller of [`Discovery::service`] waits for the first snapshot. Default 5 s.
    pub first_snapshot: Duration,
    /// How long opening a watch may take until its first snapshot, beyond what the backend needs to settle. Default 5 s.
    pub attempt_timeout: Duration,
    /// When an empty answer is doubted.
    pub guard: GuardPolicy,
    /// What every read asks.
    pub read: ReadOptions,
    /// Who reads, for selectors that place the caller among others.
    pub caller: Caller,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            first_snapshot: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(5),
            guard: GuardPolicy::default(),
            read: ReadOptions::default(),
            caller: Caller::default(),
        }
    }
}

impl DiscoveryConfig {
    /// Sets how long to wait for the first snapshot.
    pub const fn first_snapshot(mut self, wait: Duration) -> Self {
        self.first_snapshot = wait;
        self
    }

    /// Sets how long opening a watch may take.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets when an empty answer is doubted.
    pub const fn guard(mut self, guard: GuardPolicy) -> Self {
        self.guard = guard;
        self
    }

    /// Sets what every read asks.
    pub fn read(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }

    /// Says who reads.
    pub fn caller(mut self, key: Option<InstanceKey>, zone: Option<Label>) -> Self {
        self.caller = Caller { key, zone };
        self
    }
}

/// What the feeds of one discovery share.
pub(crate) struct Shared {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) config: DiscoveryConfig,
    gate: Arc<Gate>,
    feeds: Mutex<HashMap<ServiceName, Weak<Feed>>>,
}

impl Discovery {
    /// Follows services of this registry with the default configuration. Does nothing until it is asked for one.
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        Self::with_config(registry, DiscoveryConfig::default())
    }

    /// Follows services of this registry.
    pub fn with_config(registry: Arc<dyn Registry>, config: DiscoveryConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry,
                config,
                gate: Arc::default(),
                feeds: Mutex::default(),
            }),
        }
    }

    /// The instances of a service, kept up to date while the view is held.
    ///
    /// Returns with the first snapshot, or after [`DiscoveryConfig::first_snapshot`] without one: the view is then empty
    /// and stale, and fills when the registry answers.
    ///
    /// # Errors
    /// `Invalid` for the name; what the registry refuses for good, such as `Denied` or `Unsupported`; `Closed`.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn service<S>(&self, service: S) -> Result<View>
    where
        S: TryInto<ServiceName>,
        Error: From<S::Error>,
    {
        let view = View::new(self.feed(&service.try_into()?));
        match timeout_at(after(self.shared.config.first_snapshot), view.ready()).await {
            Ok(result) => result.map(|()| view),
            Err(_) => Ok(view),
        }
    }

    /// The names of the services that have an instance now, sorted. Asks the registry.
    ///
    /// # Errors
    /// What the registry answers.
    pub async fn services(&self) -> Result<Vec<ServiceName>> {
        let Shared {
            registry, config, ..
        } = &*self.shared;
        within(config.attempt_timeout, registry.services(&config.read)).await
    }

    fn feed(&self, service: &ServiceName) -> Arc<Feed> {
        let mut feeds = self
            .shared
            .feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds
            .get(service)
            .and_then(Weak::upgrade)
            .filter(|feed| !feed.has_ended())
        {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed::start(self.shared.clone(), service.clone()));
        feeds.insert(service.clone(), Arc::downgrade(&feed));
        feed
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("registry", &self.shared.registry)
            .finish_non_exhaustive()
    }
}
