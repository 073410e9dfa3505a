//! Service registry on Eureka.
mod client;
mod codec;
mod config;
mod escape;
mod json;
mod registry;
mod store;
mod turns;
mod watcher;

use std::sync::Arc;

use registry_core::{Driver, Registry, RegistryUrl, inventory};

pub use config::{EurekaConfig, ServerConfig};
pub use registry::Eureka;

/// The driver behind `eureka://`.
pub const DRIVER: Driver = Driver::new(&["eureka"], |url: RegistryUrl| {
    Box::pin(async move {
        let config = EurekaConfig::try_from(&url)?;
        Ok(Arc::new(Eureka::new(config)?) as Arc<dyn Registry>)
    })
});

inventory::submit! { DRIVER }
