//! Service registry on the agent of Consul.

mod checks;
mod client;
mod codec;
mod config;
mod hub;
mod micro;
mod reader;
mod registry;
mod sweep;
mod turns;
mod watcher;
mod writer;

use std::sync::Arc;

use registry_core::{Driver, Registry, RegistryUrl, inventory};

pub use config::{ConsulConfig, Format};
pub use registry::Consul;

/// The driver behind `consul://`.
pub const DRIVER: Driver = Driver::new(&["consul"], |url: RegistryUrl| {
    Box::pin(async move {
        let config = ConsulConfig::try_from(&url)?;
        Ok(Arc::new(Consul::new(config)?) as Arc<dyn Registry>)
    })
});

inventory::submit! { DRIVER }
