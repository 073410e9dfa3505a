//! The networks of this machine that are spoken on.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use if_addrs::{IfAddr, Interface as Found};
use registry_core::{Error, ErrorKind, Result};

use crate::config::{Interface, MdnsConfig};

/// What mdns-sd speaks on for a configuration, as the machine is now. Told apart as there, since it announces an
/// address only on an interface whose network has it, and says nothing where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks(BTreeSet<Network>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    interface: String,
    ip: IpAddr,
    prefix: u8,
}

impl Networks {
    /// The networks now.
    pub(crate) fn now(config: &MdnsConfig) -> Result<Self> {
        let found = if_addrs::get_if_addrs().map_err(|error| {
            let message = "the network interfaces cannot be listed";
            Error::new(ErrorKind::Unavailable, message).because(error)
        })?;
        let spoken_on = found.iter().filter(|each| {
            each.is_oper_up() && !each.is_p2p() && is_selected(config, each, &found)
        });
        let networks = spoken_on.map(|found| Network {
            interface: found.name.clone(),
            ip: found.ip(),
            prefix: match &found.addr {
                IfAddr::V4(v4) => v4.prefixlen,
                IfAddr::V6(v6) => v6.prefixlen,
            },
        });
        Ok(Self(networks.collect()))
    }

    /// Whether an announcement can carry this address.
    pub(crate) fn carry(&self, ip: IpAddr) -> bool {
        // Linux sends no IPv6 multicast on the loopback, so that ::1 would be announced to nobody.
        let deaf = ip.is_ipv6() && ip.is_loopback();
        !deaf && self.0.iter().any(|network| network.has(ip))
    }

    /// Whether an interface, or its last address of a family, is gone since `before`.
    pub(crate) fn lack_of(&self, before: &Self) -> bool {
        let links = |networks: &Self| -> BTreeSet<(String, bool)> {
            let networks = networks.0.iter();
            networks
                .map(|network| (network.interface.clone(), network.ip.is_ipv4()))
                .collect()
        };
        !links(self).is_superset(&links(before))
    }
}

impl Network {
    fn has(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differ = own.to_bits() ^ ip.to_bits();
                differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differ = own.to_bits() ^ ip.to_bits();
                differ
                    .checked_shr(128 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, network) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let Network {
                interface,
                ip,
                prefix,
            } = network;
            write!(f, "{comma}{interface} {ip}/{prefix}")?;
        }
        Ok(())
    }
}

fn is_selected(config: &MdnsConfig, this: &Found, all: &[Found]) -> bool {
    if config.loopback {
        return this.is_loopback() && this.ip().is_ipv4();
    }
    config.interfaces.is_empty()
        || config.interfaces.iter().any(|interface| match interface {
            Interface::Name(name) => *name == this.name,
            // It stands for its interface and its family.
            Interface::Address(ip) => all.iter().any(|other| {
                other.ip() == *ip && other.name == this.name && ip.is_ipv4() == this.ip().is_ipv4()
            }),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[(&str, &str, u8)]) -> Networks {
        let networks = list.iter().map(|(interface, ip, prefix)| Network {
            interface: (*interface).to_owned(),
            ip: ip.parse().unwrap(),
            prefix: *prefix,
        });
        Networks(networks.collect())
    }

    #[test]
    fn an_address_is_carried_by_its_network_alone() {
        let networks = networks(&[
            ("lo", "127.0.0.1", 8),
            ("lo", "::1", 128),
            ("eth0", "10.1.2.3", 24),
            ("eth0", "fe80::1", 64),
            ("any", "198.18.0.1", 32),
        ]);
        for (ip, carried) in [
            ("127.0.0.2", true),
            ("10.1.2.200", true),
            ("10.1.3.1", false),
            ("fe80::2", true),
            ("fd00::2", false),
            ("198.18.0.1", true),
            ("198.18.0.2", false),
            ("::1", false),
        ] {
            assert_eq!(networks.carry(ip.parse().unwrap()), carried, "{ip}");
        }
        assert!(
            networks
                .to_string()
                .contains("eth0 10.1.2.3/24, eth0 fe80::1/64")
        );
        assert!(super::tests::networks(&[("p", "10.0.0.1", 0)]).carry([8, 8, 8, 8].into()));
    }

    #[test]
    fn a_link_that_is_gone_is_noticed_and_a_renumbered_one_is_not() {
        let before = networks(&[("lo", "127.0.0.1", 8), ("eth0", "fd00::1", 64)]);
        let renumbered = networks(&[("lo", "127.0.0.1", 8), ("eth0", "fd00::2", 64)]);
        let more = networks(&[
            ("lo", "127.0.0.1", 8),
            ("eth0", "fd00::1", 64),
            ("b", "10.0.0.1", 8),
        ]);
        let less = networks(&[("lo", "127.0.0.1", 8), ("eth0", "10.0.0.1", 8)]);
        assert!(!renumbered.lack_of(&before));
        assert!(!more.lack_of(&before));
        assert!(less.lack_of(&before));
    }

    #[test]
    fn the_configuration_selects() {
        let only = Networks::now(&MdnsConfig::default().loopback(true)).unwrap();
        assert!(only.carry([127, 0, 0, 1].into()));
        assert!(only.0.iter().all(|network| network.ip.is_loopback()));
        let none = MdnsConfig::default().interface(Interface::Name("nope0".into()));
        assert_eq!(Networks::now(&none).unwrap().to_string(), "none");
    }
}
