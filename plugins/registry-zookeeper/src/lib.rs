//! Service registry on Apache ZooKeeper, in go-micro's layout or in that of Curator and Spring Cloud.
//!
//! Every instance is one ephemeral node that lives as long as the session of the program that registered it. All
//! registrations, reads and watches of a registry share one session and one connection.
//!
//! ```
//! use registry_zookeeper::{ZooKeeper, ZooKeeperConfig};
//!
//! # fn main() -> registry_core::Result<()> {
//! let registry = ZooKeeper::new(ZooKeeperConfig::default().hosts([("10.0.0.1", 2181), ("10.0.0.2", 2181)]))?;
//! # Ok(()) }
//! ```
//!
//! or `zookeeper://10.0.0.1,10.0.0.2` through the [`DRIVER`].
//!
//! # URL
//!
//! `zookeeper://user:password@host:port,host:port/base?option=value`; every part but the scheme may be left out. All
//! of it are fields of [`ZooKeeperConfig`]:
//!
//! | Part | Default | Meaning |
//! | --- | --- | --- |
//! | user, password | nobody | a login of the scheme `digest` |
//! | hosts | `localhost:2181` | the servers of one ensemble |
//! | base | the layout's: `micro-registry` or `services` | the path above the services; it is made where it is missing |
//! | `session` | `10s` | the session timeout to ask for; the server moves it into its own limits, and [`Registered::ttl`] says what it made of it |
//! | `layout` | `go-micro` | the form of paths and records: `go-micro` or `curator` |
//! | `acl` | `world` | who may read and change what is created: everybody, or with `creator` only those with the same login |
//! | `ca` | none | a PEM file with the authorities to trust; speaks TLS |
//! | `cert`, `key` | none | the PEM files of the client's certificate and key |
//!
//! # How it behaves
//!
//! - The session timeout is the TTL of all registrations. A program that ends without a goodbye is seen for that long and
//!   up to a tick of the server (2 s unless it was changed).
//! - After a disconnect the same session is taken up again, however long that takes: a server that was down does not let
//!   sessions expire. Every watch ends then, because ZooKeeper does not tell what happened meanwhile. A server that does
//!   not know the session, such as one that lost its data, says so at once, and a new one begins.
//! - A node of ours that is deleted, and every new connection, make [`Registry::lost`] resolve.
//! - An id that another session has is a `Conflict`, until that session is over: that of a program that was killed and
//!   started again lapses, for which the registrar waits. What another program registered for ever, as go-micro does,
//!   stays one.
//! - Nodes above a record are containers, which the server removes some time after they are empty. A server before 3.5.3
//!   gets persistent ones. A path without a record is no service.
//! - Reads ask the leader for its latest state first.
//! - A record that cannot be read, or may not be, is skipped and counted, see [`ZooKeeper::skipped`].
//!
//! # Limits
//!
//! - Watches need ZooKeeper 3.6 or later (persistent recursive watches); elsewhere they are `Unsupported`.
//! - A record has at most [`MAX_RECORD`] bytes, since a server with the default `jute.maxbuffer` of 1 MiB cuts the
//!   connection of whoever sends more. A server that allows less does so too.
//! - The client library knows no system authorities: TLS needs `ca`. It verifies host names, and reads the files anew for
//!   each connection.
//! - SASL is not spoken. A wrong password of `digest` shows only where a node is protected, as `Denied`.
//! - With `acl=creator` all programs share one login, since the path above the services is protected too; for several,
//!   make the paths beforehand with the ACL that you want.
//!
//! # What is written
//!
//! A record stands at `/base/service/id`. In the id, `%` and what a path cannot hold (beyond U+FFFF, private use) are
//! percent-encoded; the record has the true one.
//!
//! With `layout=go-micro` it is the JSON of [`registry_go_micro`]. go-micro's programs read ephemeral nodes like their own.
//!
//! With `layout=curator` it is what Curator's `ServiceDiscovery` writes with Spring Cloud's payload:
//!
//! | Field of the instance | In the record |
//! | --- | --- |
//! | service, id | `name`, `id` |
//! | address | `address` and `port`; when read, `sslPort` where there is no `port` |
//! | metadata | `payload.metadata` |
//! | status | `micro.status`, and for Spring `payload.metadata.instance_status`: `UP` for `Up` and `Warning`, else `OUT_OF_SERVICE` |
//! | zone | `micro.zone`, and for Spring `payload.metadata.zone` |
//! | version, weight, alternates, endpoints | `micro` |
//!
//! The object `micro` is ours, and Curator 5 and Spring pass over it. Where a record has none, `enabled: false` and
//! `OUT_OF_SERVICE` are read as `Maintenance`. The identity of an instance is the `id` in its record, so that sequential
//! nodes are read too.
//!
//! [`Registered::ttl`]: registry_core::Registered::ttl
//! [`Registry::lost`]: registry_core::Registry::lost

mod client;
mod codec;
mod config;
mod connector;
mod error;
mod follow;
mod holdings;
mod layout;
mod pipeline;
mod read;
mod records;
mod registry;
mod session;
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
