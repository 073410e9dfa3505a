//! Service registry on etcd v3, in go-micro's layout.
//!
//! Every instance is one key, `/micro/registry/<service>/<id>`, with a lease of its own, and its value is the JSON that
//! go-micro's etcd plugin reads and writes, see [`registry_go_micro`]. All that one registry does goes over one
//! connection: all leases are kept alive on one stream, and all watches are on one more.
//!
//! ```
//! use registry_etcd::{Etcd, EtcdConfig};
//!
//! # fn main() -> registry_core::Result<()> {
//! let registry = Etcd::new(EtcdConfig::default().endpoint("10.0.0.1:2379").endpoint("10.0.0.2:2379"))?;
//! # Ok(()) }
//! ```
//!
//! or `etcd://10.0.0.1:2379,10.0.0.2:2379` through the [`DRIVER`].
//!
//! # URL
//!
//! `etcd://[user:password@]host[:port][,host[:port]…][/prefix][?option=value&…]`
//!
//! | Part | Default | Meaning |
//! | --- | --- | --- |
//! | user, password | none | the user to authenticate as |
//! | hosts | `127.0.0.1:2379` | members of one cluster; one is used at a time, the next one when it fails |
//! | prefix | `micro/registry` | the key that all keys are below |
//!
//! | Option | Default | Meaning |
//! | --- | --- | --- |
//! | `ttl` | `15s` | the TTL of a registration that wishes for none |
//! | `timeout` | `2s` | how long one call to one endpoint, or a connection to it, may take |
//! | `tls` | `false` | speak TLS, see [`TlsConfig`](registry_core::TlsConfig) |
//! | `ca` | the system's | a PEM file with the authorities to trust; implies `tls` |
//! | `cert`, `key` | none | PEM files of the client's certificate and its key; imply `tls` |
//!
//! All of them are fields of [`EtcdConfig`].
//!
//! # Limits
//!
//! - A record takes [1.5 MB](MAX_RECORD), since etcd refuses requests over 1.5 MiB where nothing else is configured
//!   (`--max-request-bytes`).
//! - etcd rounds a TTL up to whole seconds and to 1.5 times its election timeout, which is 2 s where nothing else is
//!   configured. A new leader gives every lease its full TTL anew: a dead instance can then be seen for twice its TTL.
//! - An id whose owner was killed is free when the owner's lease has run out; until then it is a `Conflict`.
//! - A user needs the permission to read and write the range of the prefix, or of the services that it works with; to
//!   list services and to watch all of them takes the whole prefix.
//! - Dropping the registry leaves what is registered to lapse with its lease; [`close`](registry_core::Registry::close)
//!   revokes the leases.
//! - A record below the prefix that is no instance, or whose name and id are not those of its key, is skipped, see
//!   [`Etcd::skipped`].

mod client;
mod codec;
mod config;
mod error;
mod keeper;
mod list;
mod records;
mod registry;
mod stream;
mod watcher;

use std::sync::Arc;

use registry_core::{Driver, Registry, RegistryUrl, inventory};

pub use config::EtcdConfig;
pub use registry::{Etcd, MAX_RECORD};

/// The driver behind `etcd://`.
pub const DRIVER: Driver = Driver::new(&["etcd"], |url: RegistryUrl| {
    Box::pin(async move {
        let config = EtcdConfig::try_from(&url)?;
        Ok(Arc::new(Etcd::new(config)?) as Arc<dyn Registry>)
    })
});

inventory::submit! { DRIVER }
