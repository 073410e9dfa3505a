//! Service registry on Eureka, as Spring Cloud Netflix and Netflix serve it.
//!
//! Every instance is an entry that the dashboard, Spring's and Netflix' clients read, and theirs are read here;
//! go-micro's too. The plugin speaks JSON over HTTP; one poll serves all watches of a process, and asks for changes
//! only.
//!
//! ```
//! use registry_eureka::{Eureka, EurekaConfig};
//!
//! # fn main() -> registry_core::Result<()> {
//! let config = EurekaConfig::default().servers(["eureka-1:8761", "eureka-2:8761"]);
//! let registry = Eureka::new(config.login("reader", "secret"))?;
//! # Ok(()) }
//! ```
//!
//! or `eureka://reader:secret@eureka-1:8761,eureka-2:8761` through the [`DRIVER`].
//!
//! # URL
//!
//! `eureka://[user:password@]host[:8761][,host…][/path][?option=value…]`. The path is the one under which `/apps` is,
//! `eureka` where none is given, and `eureka/v2` on Netflix' own server. The first server is used until it fails, so
//! that the nearest is best named first. The options, all of them fields of [`EurekaConfig`]:
//!
//! | Option | Default | Meaning |
//! | --- | --- | --- |
//! | `poll` | `30s` | how often watches ask for changes, less up to a tenth at random; at most `120s` |
//! | `ttl` | `90s` | the lease of a registration that wishes for none; whole seconds |
//! | `timeout` | `4s` | how long a server may take to answer; twice as long for everything |
//! | `delta` | `true` | ask for changes; `false` asks for everything each time |
//! | `regions` | none | remote regions to read too, separated by commas; lookups then read everything |
//! | `tls`, `ca`, `cert`, `key` | | as in [`TlsConfig`](registry_core::TlsConfig) |
//! | `cache` | `30s` | the server's `response-cache-update-interval-ms`; `off` where it has `use-read-only-response-cache=false` |
//! | `eviction` | `60s` | the server's `eviction-interval-timer-in-ms` |
//! | `self-preservation` | `true` | the server's `enable-self-preservation` |
//!
//! The last three change nothing but the windows that are declared, since the server does not tell them.
//!
//! # Windows
//!
//! Eureka is slow by design. A change is seen after the server's cache and the poll: at the defaults within 61 s. Who
//! dies is removed after twice his TTL (the server adds the lease once too often; to one that never was renewed it does
//! not), the eviction, the cache and the poll: at the defaults 301 s. With self-preservation, which is Eureka's
//! default, nobody is removed while many are silent, and in a registry of less than 13 nobody ever: no crash window is
//! declared then. In one run the server removes at most 15 % of all instances, unless its `renewal-percent-threshold`
//! is 0.
//!
//! [`lookup`](registry_core::Registry::lookup) passes by our own copy and not by the server's cache, which keeps that a
//! service is unknown, too. An answer that the server makes while something changes may lack the change, and is kept
//! until the next change of anything, or for its `response-cache-auto-expiration-in-seconds`, which is 180.
//!
//! # Limits
//!
//! - Of two owners of one id the server takes the one with the later timestamp and tells neither. What the other one
//!   then deregisters is gone for both, until the owner's next renewal.
//! - A server that restarts has what its peers have, and nothing where there are none: everybody is gone until his next
//!   renewal. That may pass unseen between two polls, so that the guard of the discovery is always armed.
//! - The server lets no registrant go from `UP` to `OUT_OF_SERVICE` or back. What an instance of ours says beside up
//!   and starting is therefore `DOWN` to other programs.
//! - A TTL has whole seconds, and at most 2,147,483 of them.
//! - Text with U+FFFE or U+FFFF is refused, but in metadata: it would make the registry unreadable for whoever reads
//!   XML.
//! - A call that timed out may still be done by a server that was suspended.
//! - An answer of more than 128 MiB is refused.
//!
//! # What is written
//!
//! The application is the name of the service in upper case, `vipAddress` and `secureVipAddress` are the name itself.
//! `instanceId` is `service:id`, since status overrides of the server go by the id alone; in the id, all but ASCII
//! letters, digits, `.`, `_`, `:` and `-` is `~` and two hexadecimal digits for each byte. `hostName` and `ipAddr` are
//! the host of the address, the first one in brackets where it is IPv6; `port` is its port. The status is `UP`,
//! `STARTING` or `DOWN`.
//!
//! | Key of metadata | Value | Left out |
//! | --- | --- | --- |
//! | `registry.service` | the name of the service; marks a record as ours | never |
//! | `version`, `zone` | as they are | where there is none |
//! | `weight` | 0 to 65535 | at 1 |
//! | `registry.status` | the word of [`Status`](registry_core::Status) | where `UP`, `STARTING` or `DOWN` says it all |
//! | `registry.alternates` | the other addresses, separated by commas | where there is none |
//! | `endpoints` | JSON as go-micro writes it | where there is none |
//! | `registry.pairs` | a JSON object of the pairs whose keys have a meaning above or cannot be in XML, or whose values cannot | where there is none |
//! | other keys | metadata as it is, such as Spring's `management.port` | |
//!
//! # What is read
//!
//! A record of another program keeps its id, which is the host's name where it has none. Its service is `vipAddress`
//! where that is the application's name but for the case, else that name in lower case. The address is `hostName` with
//! the plain port if that is in use, else with the secure one; `ipAddr` is a further address. `zone`, `version`,
//! `weight` and `endpoints` are read as above, the zone also from Amazon's metadata. `OUT_OF_SERVICE` is `Maintenance`,
//! unknown words are `Unknown`. What an operator overrides goes before what the registrant says, and is never cleared
//! by us. Of several records of one instance the latest counts. A record that cannot be read is skipped, see
//! [`Eureka::skipped`].

mod client;
mod codec;
mod config;
mod escape;
mod json;
mod registry;
mod store;
mod watcher;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Driver, Error, ErrorKind, Registry, RegistryUrl, inventory};

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

/// What is said after `close`.
fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

/// A panic elsewhere leaves what these locks guard whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
