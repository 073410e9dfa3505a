#![doc = include_str!("../README.md")]

use std::sync::Arc;

#[cfg(feature = "consul")]
pub use registry_consul as consul;
#[doc(inline)]
pub use registry_core::*;
#[cfg(feature = "etcd")]
pub use registry_etcd as etcd;
#[cfg(feature = "eureka")]
pub use registry_eureka as eureka;
#[cfg(feature = "mdns")]
pub use registry_mdns as mdns;
#[cfg(feature = "zookeeper")]
pub use registry_zookeeper as zookeeper;

/// The registry behind a URL, such as `mdns://`. Does no I/O to it yet.
///
/// # Errors
/// `Config` when the URL cannot be read, the backend refuses an option, or no driver serves the scheme; the error
/// then names the [`schemes`] that are compiled in and the feature that would add the missing one.
pub async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    drivers().connect(url).await
}

/// The registry that the environment names: `REGISTRY_URL`; else go-micro's `MICRO_REGISTRY` (a scheme) with
/// `MICRO_REGISTRY_ADDRESS` (hosts, separated by commas); else `mdns://`.
///
/// An empty variable counts as unset.
///
/// # Errors
/// As [`connect`].
pub async fn connect_from_env() -> Result<Arc<dyn Registry>> {
    drivers().connect_from_env("mdns://").await
}

/// The schemes that are compiled in, sorted.
pub fn schemes() -> Vec<&'static str> {
    drivers().schemes()
}

/// The drivers that are compiled in: `memory`, one for each feature, and those that other linked crates submitted
/// with `inventory`. Of two drivers for one scheme, ours is used; to put your own first, build a [`Drivers`].
pub fn drivers() -> Drivers {
    let plugins = ["consul", "etcd", "eureka", "mdns", "zookeeper"];
    let drivers = plugins.into_iter().fold(Drivers::new(), |drivers, name| {
        drivers.hint(
            name,
            format!("enable the feature {name:?} of registry-plugins"),
        )
    });
    #[cfg(feature = "consul")]
    let drivers = drivers.with(consul::DRIVER);
    #[cfg(feature = "etcd")]
    let drivers = drivers.with(etcd::DRIVER);
    #[cfg(feature = "eureka")]
    let drivers = drivers.with(eureka::DRIVER);
    #[cfg(feature = "mdns")]
    let drivers = drivers.with(mdns::DRIVER);
    #[cfg(feature = "zookeeper")]
    let drivers = drivers.with(zookeeper::DRIVER);
    drivers.with_linked()
}
