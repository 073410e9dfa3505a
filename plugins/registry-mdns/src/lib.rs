//! Service registry on multicast DNS and DNS-SD (RFC 6762, RFC 6763): nothing to install, nothing to run.
//!
//! Every instance is one DNS-SD service instance of the type `_micro._tcp.local.`, so that avahi, Bonjour and every
//! other browser can read it and be read: the port is in the SRV record, the addresses are in A and AAAA records, and
//! everything else is in the TXT record, see [the keys](#what-is-written).
//!
//! ```
//! use registry_mdns::{Mdns, MdnsConfig};
//!
//! # fn main() -> registry_core::Result<()> {
//! let registry = Mdns::new(MdnsConfig::default().loopback(true))?;
//! # Ok(()) }
//! ```
//!
//! or `mdns://?loopback=true` through the [`DRIVER`].
//!
//! # URL
//!
//! `mdns://` takes no host, no path and no user. Its options, all of them fields of [`MdnsConfig`]:
//!
//! | Option | Default | Meaning |
//! | --- | --- | --- |
//! | `interface` | all | the interfaces to speak on: names or addresses, separated by commas |
//! | `loopback` | `false` | speak to this machine alone, over 127.0.0.1 |
//! | `port` | 5353 | the UDP port; another one makes a bus of its own, unseen by other software |
//! | `probe` | `true` | ask for other owners of an instance's name before announcing it, which takes 0.75 to 1 s |
//!
//! # Limits
//!
//! - It reaches one link: multicast DNS does not pass routers, and many clouds and container networks drop multicast
//!   between machines. Processes on one machine always see each other.
//! - An address that is announced is an IP address within a network of this machine, never `::1`; all addresses of an
//!   instance share its port. 127.0.0.1 is announced to this machine alone.
//! - The TXT record takes [1200 bytes](MAX_RECORD), so that an instance fits one packet, and 255 bytes for one pair.
//!   Keys of metadata that differ by case alone are refused, since TXT keys have no case.
//! - Some hundreds of instances on a link are what it is made for. Where there are more than 400, the first snapshot
//!   takes 3.25 s in place of 1.25 s; beyond about 1000, answers overflow sockets and instances are found late.
//! - An instance whose process dies without a goodbye is seen for 120 s; [`recheck`] asks for it and makes it go
//!   in 2 s.
//! - A client keeps 10,000 records of others and skips the ones beyond, see [`Mdns::skipped`]; one that was skipped is
//!   read when it changes or is announced anew.
//! - Nothing is encrypted or signed: who is on the link can announce, change and withdraw what he likes.
//!
//! [`recheck`]: registry_core::Registry::recheck
//!
//! # What is written
//!
//! The instance label is `id@service` where that has at most 57 bytes and neither upper case nor `.` nor `\`; else its
//! readable beginning and a hash of it. The host name is random and the instance's own, so that hosts never conflict.
//!
//! | TXT key | Value | Left out |
//! | --- | --- | --- |
//! | `txtvers` | `1` | by others |
//! | `service` | the name of the service | never: without it a record is skipped |
//! | `id` | the id of the instance | by others: the label is the id |
//! | `rev` | counts what one process published | by others |
//! | `version`, `zone` | as they are | where there is none |
//! | `weight` | 0 to 65535 | at 1 |
//! | `status` | the word of [`Status`](registry_core::Status) | at `up` |
//! | `addr` | the addresses in their order, separated by commas | where there is one; else: loopback first, link-local last |
//! | `m.KEY` | one pair of metadata | |
//! | `e0`, `e1`, … | the name of an endpoint | |
//! | `e0.KEY` | one pair of its metadata | |
//!
//! To announce a program that knows nothing of this crate:
//! `avahi-publish -s my-printer _micro._tcp 8080 service=printer m.color=true`.

mod bare;
mod browse;
mod codec;
mod config;
mod daemon;
mod label;
mod link;
mod networks;
mod publish;
mod records;
mod registry;
mod txt;

use std::sync::Arc;

use registry_core::{Driver, Registry, RegistryUrl, inventory};

pub use config::{Interface, MdnsConfig};
pub use registry::Mdns;
pub use txt::MAX_RECORD;

/// The driver behind `mdns://`.
pub const DRIVER: Driver = Driver::new(&["mdns"], |url: RegistryUrl| {
    Box::pin(async move {
        let config = MdnsConfig::try_from(&url)?;
        Ok(Arc::new(Mdns::new(config)?) as Arc<dyn Registry>)
    })
});

inventory::submit! { DRIVER }

/// The service type of every instance.
const SERVICE_TYPE: &str = "_micro._tcp.local.";
