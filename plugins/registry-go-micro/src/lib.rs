//! The records that go-micro programs write to etcd, ZooKeeper and Consul, read and written.
//!
//! On etcd and ZooKeeper go-micro keeps one key for each node of a service, and its value is the service in JSON with
//! exactly that node. [`encode`] writes such a value for an [`Instance`], and [`decode`] reads it, whether we or a Go
//! program wrote it (v1 to v6). Consul's tags hold the endpoints alone: [`encode_endpoint`] and [`decode_endpoint`].
//!
//! ```
//! use registry_core::Instance;
//!
//! # fn main() -> registry_core::Result<()> {
//! let greeter = Instance::new("greeter", "10.0.0.1:8080").id("greeter-1").build()?;
//! let json = registry_go_micro::encode(&greeter);
//! assert_eq!(
//!     json,
//!     r#"{"name":"greeter","version":"","metadata":null,"endpoints":null,"#.to_owned()
//!         + r#""nodes":[{"metadata":null,"id":"greeter-1","address":"10.0.0.1:8080"}]}"#,
//! );
//! assert_eq!(registry_go_micro::decode(json.as_bytes())?, greeter);
//! # Ok(()) }
//! ```
//!
//! # What stands where
//!
//! | Field of the instance | In the record | Left out |
//! | --- | --- | --- |
//! | service, version | `name`, `version` | an absent version is `""` |
//! | id, address | `id`, `address` of the node | |
//! | metadata | `metadata` of the node | `null` where there is none |
//! | endpoints | `endpoints`, each with `name` and `metadata` | `null` where there is none |
//! | zone | `zone` of the node | where there is none |
//! | weight | `weight` of the node, 0 to 65535 | at 1 |
//! | status | `status` of the node, the word of [`Status`](registry_core::Status) | at `up` |
//! | alternates | `alternates` of the node, a list of `host:port` | where there is none |
//!
//! The last four are ours: go-micro does not know them, and its decoder passes over them. A Go client therefore calls
//! an instance whatever its status and weight are.
//!
//! # What is read beyond that
//!
//! - A field that is missing or `null` is as good as empty; one that is not known is passed over.
//! - A `/` in a name or an id is read as `-`: go-micro puts both under the same key.
//! - The metadata of the service is added to the node's, which wins.
//! - go-micro up to v1.7 wrote the node's `port` beside an `address` without one.
//! - What [`Metadata`](registry_core::Metadata) cannot hold is left out, as are an endpoint's `request` and `response`,
//!   which describe Go types: a node that can be called is worth more than a perfect copy of its record.

mod decode;
mod encode;

use std::borrow::Cow;

pub use decode::{decode, decode_endpoint};
pub use encode::{encode, encode_endpoint};

#[cfg(doc)]
use registry_core::Instance;

/// A name or an id as a part of go-micro's keys and paths, where `/` becomes `-`.
pub fn segment(text: &str) -> Cow<'_, str> {
    if text.contains('/') {
        text.replace('/', "-").into()
    } else {
        text.into()
    }
}
