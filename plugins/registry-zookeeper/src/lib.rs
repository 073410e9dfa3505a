//! ZooKeeper.

mod client;
mod codec;
mod config;
mod error;
mod follow;
mod holdings;
mod layout;
mod pipeline;
mod read;
mod records;
mod registry;
mod session;
mod turns;
mod watcher;

use std::sync::Arc;

use registry_core::{Driver, Registry, RegistryUrl, inventory};

pub use config::{Access, Layout, ZooKeeperConfig};
pub use layout::MAX_RECORD;
pub use registry::ZooKeeper;

/// The driver behind `zookeeper://`.
pub const DRIVER: Driver = Driver::new(&["zookeeper"], |url: RegistryUrl| {
    Box::pin(async move {
        let config = ZooKeeperConfig::try_from(&url)?;
        Ok(Arc::new(ZooKeeper::new(config)?) as Arc<dyn Registry>)
    })
});

inventory::submit! { DRIVER }
