//! How a URL becomes a registry.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::registry::Registry;
use crate::target::RegistryUrl;

/// What [`Driver`]'s function returns.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Arc<dyn Registry>>> + Send>>;

/// A backend that can be named in a URL.
///
/// A plugin crate exports one as a constant and submits it too:
///
/// ```
/// # use registry_core::{Driver, RegistryUrl, Error, ErrorKind};
/// /// The backend behind `example://`.
/// pub const DRIVER: Driver = Driver::new(&["example"], |url: RegistryUrl| {
///     Box::pin(async move { Err(Error::new(ErrorKind::Unsupported, format!("no server behind {url}"))) })
/// });
/// # use registry_core::inventory;
/// inventory::submit! { DRIVER }
/// # assert!(registry_core::Drivers::linked().schemes().contains(&"example"));
/// ```
#[derive(Clone, Copy)]
pub struct Driver {
    schemes: &'static [&'static str],
    connect: fn(RegistryUrl) -> Connecting,
}

impl Driver {
    /// A driver for these schemes, in lower case. `connect` reads the configuration and does no I/O: a server
    /// that is away now may be back when it is needed.
    pub const fn new(
        schemes: &'static [&'static str],
        connect: fn(RegistryUrl) -> Connecting,
    ) -> Self {
        Self { schemes, connect }
    }

    /// The schemes that it serves.
    pub const fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("schemes", &self.schemes)
            .finish_non_exhaustive()
    }
}

inventory::collect!(Driver);

/// A set of drivers to connect through. `memory` is always in it.
#[derive(Clone, Debug)]
pub struct Drivers {
    drivers: Vec<Driver>,
    hints: Vec<(&'static str, String)>,
}

impl Drivers {
    /// Only `memory`: for whoever names every driver, without link-time magic.
    pub fn new() -> Self {
        Self {
            drivers: vec![crate::memory::DRIVER],
            hints: Vec::new(),
        }
    }

    /// `memory` and every driver that was submitted with `inventory` by a crate that is linked in.
    pub fn linked() -> Self {
        Self::new().with_linked()
    }

    /// Adds every driver that was submitted with `inventory` by a crate that is linked in.
    pub fn with_linked(mut self) -> Self {
        self.drivers.extend(inventory::iter::<Driver>);
        self
    }

    /// Adds a driver. Of two drivers for one scheme the first one added is used.
    pub fn with(mut self, driver: Driver) -> Self {
        self.drivers.push(driver);
        self
    }

    /// Says what adds a scheme that may be missing, for the error.
    pub fn hint(mut self, scheme: &'static str, remedy: impl Into<String>) -> Self {
        self.hints.push((scheme, remedy.into()));
        self
    }

    /// The schemes that can be connected to, sorted.
    pub fn schemes(&self) -> Vec<&'static str> {
        let mut schemes: Vec<_> = self
            .drivers
            .iter()
            .flat_map(|driver| driver.schemes)
            .copied()
            .collect();
        schemes.sort_unstable();
        schemes.dedup();
        schemes
    }

    /// The registry behind a URL. Does no I/O to it yet.
    ///
    /// # Errors
    /// `Config` when the URL cannot be read, its scheme is not among [`schemes`](Self::schemes) (the error names
    /// them) or the backend refuses an option.
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        let url: RegistryUrl = url.parse()?;
        let driver = self
            .drivers
            .iter()
            .find(|driver| driver.schemes.contains(&url.scheme()));
        match driver {
            Some(driver) => (driver.connect)(url).await,
            None => Err(self.unknown(url.scheme())),
        }
    }

    /// The registry that the environment names: `REGISTRY_URL`; else go-micro's `MICRO_REGISTRY` (a scheme) with
    /// `MICRO_REGISTRY_ADDRESS` (hosts, separated by commas); else `default`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_from_env(&self, default: &str) -> Result<Arc<dyn Registry>> {
        let url = url_from(|name| std::env::var(name).ok()).unwrap_or_else(|| default.to_owned());
        self.connect(&url).await
    }

    fn unknown(&self, scheme: &str) -> Error {
        let schemes = self.schemes().join(", ");
        let remedy = self
            .hints
            .iter()
            .find(|(known, _)| *known == scheme)
            .map_or_else(
                || "link a plugin that serves it".to_owned(),
                |(_, remedy)| remedy.clone(),
            );
        Error::new(
            ErrorKind::Config,
            format!("no driver for {scheme}:// is compiled in (there are: {schemes}); {remedy}"),
        )
    }
}

impl Default for Drivers {
    fn default() -> Self {
        Self::new()
    }
}

fn url_from(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    set("REGISTRY_URL").or_else(|| {
        let address = set("MICRO_REGISTRY_ADDRESS").unwrap_or_default();
        set("MICRO_REGISTRY").map(|scheme| format!("{scheme}://{address}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: Driver = Driver::new(&["test"], |_| {
        Box::pin(async { Ok(Arc::new(crate::Memory::new()) as _) })
    });

    #[tokio::test]
    async fn a_scheme_is_found_whatever_its_case() {
        let drivers = Drivers::new().with(TEST);
        assert_eq!(drivers.schemes(), ["memory", "test"]);
        drivers.connect("TEST://anywhere").await.unwrap();
    }

    #[tokio::test]
    async fn an_unknown_scheme_names_the_known_ones_and_the_remedy() {
        let drivers = Drivers::new().hint("consul", "enable the feature \"consul\"");
        let error = drivers.connect("consul://h").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error
                .to_string()
                .contains("(there are: memory); enable the feature \"consul\""),
            "{error}"
        );
        assert!(
            drivers
                .connect("nope://h")
                .await
                .unwrap_err()
                .to_string()
                .contains("link a plugin")
        );
    }

    #[test]
    fn the_environment_is_read_in_order() {
        let from = |pairs: &[(&str, &str)]| {
            url_from(|name| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(from(&[]), None);
        assert_eq!(from(&[("REGISTRY_URL", "")]), None);
        assert_eq!(
            from(&[("MICRO_REGISTRY", "mdns")]).as_deref(),
            Some("mdns://")
        );
        let micro = [
            ("MICRO_REGISTRY", "etcd"),
            ("MICRO_REGISTRY_ADDRESS", "a:1,b:2"),
        ];
        assert_eq!(from(&micro).as_deref(), Some("etcd://a:1,b:2"));
        let both = [("REGISTRY_URL", "memory://x"), ("MICRO_REGISTRY", "etcd")];
        assert_eq!(from(&both).as_deref(), Some("memory://x"));
    }
}
