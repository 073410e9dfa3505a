//! Service registry on the [HTTP API](https://developer.hashicorp.com/consul/api-docs) of a Consul agent.
//!
//! Instances are native services of Consul, so that its UI, its DNS and every other client can use them, and what other
//! programs register is read as instances.
//!
//! ```
//! use registry_consul::{Consul, ConsulConfig};
//!
//! # fn main() -> registry_core::Result<()> {
//! let registry = Consul::new(ConsulConfig::default().agents(["10.0.0.7:8500"]))?;
//! # Ok(()) }
//! ```
//!
//! or `consul://10.0.0.7:8500` through the [`DRIVER`].
//!
//! # URL
//!
//! `consul://host:port,…`; without a host it is `127.0.0.1:8500`. It takes no path and no user. The agents are alternatives
//! for reads. Registrations belong to the first one alone, for that is what checks them. Options, all of them fields of
//! [`ConsulConfig`]:
//!
//! | Option | Default | Meaning |
//! | --- | --- | --- |
//! | `token` | none | the ACL token, sent in the header `X-Consul-Token` and nowhere else |
//! | `datacenter` | the agent's | the data centre to read from; registrations go to the agent's |
//! | `near` | none | sorts lookups by the distance from this node, `_agent` for the agent's own |
//! | `stale` | `false` | servers that do not lead may answer reads, also while nobody leads |
//! | `tag` | none | tags for every registration, separated by commas |
//! | `format` | `plain` | `go-micro` writes the tags of go-micro too; both forms are always read |
//! | `timeout` | `8s` | how long an answer may take; Consul holds a request for 7 s while it has no leader |
//! | `connections` | 48 | the most connections, over 16; an agent takes 200 from one address by default |
//! | `tls`, `ca`, `cert`, `key` | none | [`TlsConfig`](registry_core::TlsConfig) |
//!
//! # What is written
//!
//! | Field | In Consul |
//! | --- | --- |
//! | service | `Name` |
//! | id | `Meta` key `registry-id`; `ID` is `service:id`, everything but lower-case letters, digits and `-._~:@+` percent-encoded: Consul's ids are unique per agent and have no case |
//! | address | `Address` and `Port` |
//! | weight | `Weights`, the same for passing and warning; 0, which Consul refuses, is 1 there and 0 in `Meta` key `registry-weight` |
//! | metadata | `Meta`, the first 60 pairs that it can hold: keys of letters, digits, `-` and `_`, not beginning with `consul-` or `registry-`, values of 512 bytes; the other pairs are tags `meta.KEY=VALUE` |
//! | version, zone | tags `version=…`, `zone=…` |
//! | alternates | a tag `alternate=host:port` each |
//! | endpoints | a tag `endpoint={"name":…}` each, in the JSON of go-micro |
//! | status | a tag `status=…` for all but `Up`, and a check `ID:status` that shows it to other clients: `Warning` is warning, everything else critical |
//!
//! `Meta` also has `registry-owner`, which tells the process, and `registry-revision`, which counts what it published.
//! `format=go-micro` puts the tags `t-`, `e-` and `v-` before these. A record may have 2 MiB in all. Consul's DNS does not find
//! names with a dot. The name `consul` is refused with `Invalid`: its servers have it, and [`services`] and a watch of all leave it
//! out.
//!
//! [`services`]: registry_core::Registry::services
//!
//! # Life and checks
//!
//! Every registration has a TTL check `ID:ttl`, by default of 15 s and at least of 1 s, which [`renew`] passes: one request for
//! each, over at most 12 connections, and one look at the catalog for all, since an agent takes heartbeats also of what the
//! servers have lost. A hundred registrations of 15 s cost 1212 requests a minute, most of them answered by the agent alone. A
//! process that dies turns critical after the TTL, which is [`Status::Down`], and the agent removes it 60 to 90 s later.
//!
//! [`HealthCheck`]s are checks of Consul beside it, `ID:http:0` and so on, passing until they have run for the first time.
//! Their intervals are at least 1 s, and `remove_after` is at least a minute. A command needs `enable_script_checks` at the
//! agent, and is `Unsupported` without it. Whoever may register there may then run programs there.
//!
//! An instance is [`Maintenance`] while an operator has it or its node in maintenance, which nothing here clears; `Down` while
//! any other check of it or of its node is critical; else what its registrant says; else `Warning` while a check warns.
//!
//! Two live processes with one id on one agent are told apart, and the later one gets a `Conflict`. On two agents they are not:
//! the one that is not down is shown, and of two the one that changed last.
//!
//! [`renew`]: registry_core::Registry::renew
//! [`HealthCheck`]: registry_core::HealthCheck
//! [`Status::Down`]: registry_core::Status::Down
//! [`Maintenance`]: registry_core::Status::Maintenance
//!
//! # What others wrote
//!
//! A service with tags of go-micro is an instance whose id is the service's id. Any other one has the id `ID@node`, since ids
//! are unique per agent only; what an instance id cannot hold is percent-encoded, and one that is too long ends with a hash. Its
//! tags `version=` and `zone=` are its version and zone; `Meta`, other tags `KEY=VALUE` and plain tags are its metadata. One
//! without a port is skipped, see [`Consul::skipped`].
//!
//! # Reads
//!
//! Reads are [consistent](https://developer.hashicorp.com/consul/api-docs/features/consistency): the leader asks a majority of
//! the servers first, one round trip among them. A server that starts again is leader before it has read all of its log, and
//! by default answers with that older state. With `stale` every server answers at once with what it has, which may be old.
//! An answer of more than 128 MiB is refused.
//!
//! # Watches
//!
//! Watches of one service share a blocking query. Over plain HTTP each takes a connection, so that services beyond
//! [`connections`](ConsulConfig::connections), and a watch of all services, share two queries on the whole catalog and read what
//! changed. Where another program changes a record beside all checks while other records change, that is read up to 5 s late.
//! Over TLS 192 services have a query of their own, all on one connection. Every 5 s all watches together ask for the leader, since
//! an agent answers them from memory when every server is dead: a server that is silent or without a leader is noticed
//! within 10 s. A catalog that was set back is noticed by the next change of it, or within 22 s.
//!
//! An agent keeps its own state locked while it brings a change to its servers. When the one that leads hangs then, without
//! being dead, heartbeats through that agent wait too, for 37 s as measured with 1.14, and instances with a shorter TTL are
//! `Down` until it is over.
//!
//! # ACLs
//!
//! Registrations need `service:write`; reads need `service:read` and `node:read`. Consul answers a read without a right with an
//! empty list: here that is `Denied`. A registrant without `node:read` cannot look whether the catalog has it, and relies on
//! the agent.

mod checks;
mod client;
mod codec;
mod config;
mod http;
mod hub;
mod micro;
mod reader;
mod registry;
mod reply;
mod sweep;
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
