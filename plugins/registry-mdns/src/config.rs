//! What can be configured, and how a URL says it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use registry_core::{Error, ErrorKind, RegistryUrl, Result};

/// Configuration of [`Mdns`](crate::Mdns): from a URL, or from `default()` and setters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MdnsConfig {
    /// The interfaces to speak on; none named means all that are up, loopback included. Default: none.
    pub interfaces: Vec<Interface>,
    /// Speaks over the IPv4 loopback alone: nothing leaves the machine. Default: `false`.
    pub loopback: bool,
    /// The UDP port. Default: 5353, the one of RFC 6762. Whoever uses another one is seen only by those who use it too.
    pub port: u16,
    /// Asks for other owners of a name before announcing it (RFC 6762, 8.1), which takes 0.75 to 1 s. Without it,
    /// `register` returns at once and two owners of one id are not told apart. Default: `true`.
    pub probe: bool,
}

impl MdnsConfig {
    /// Adds an interface to speak on.
    pub fn interface(mut self, interface: Interface) -> Self {
        self.interfaces.push(interface);
        self
    }

    /// Sets whether to speak over the IPv4 loopback alone.
    pub fn loopback(mut self, loopback: bool) -> Self {
        self.loopback = loopback;
        self
    }

    /// Sets the UDP port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets whether to ask for other owners of a name before announcing it.
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Refuses what cannot work, with `Config`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.port == 0 {
            return Err(config("port 0 is refused; allowed: 1 to 65535"));
        }
        if self.loopback && !self.interfaces.is_empty() {
            return Err(config(
                "loopback=true speaks over the loopback alone; leave out either it or the interfaces",
            ));
        }
        Ok(())
    }
}

impl Default for MdnsConfig {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            loopback: false,
            port: mdns_sd::MDNS_PORT,
            probe: true,
        }
    }
}

impl TryFrom<&RegistryUrl> for MdnsConfig {
    type Error = Error;

    /// Reads `mdns://?interface=eth0,10.0.0.7&loopback=false&port=5353&probe=true`; every option may be left out.
    fn try_from(url: &RegistryUrl) -> Result<Self> {
        let plain = url.hosts().len() == 0
            && url.user().is_none()
            && url.password().is_none()
            && url.path().is_empty();
        if !plain {
            return Err(config(
                "mdns:// takes no host, no path and no user, since there is no server; \
                 write mdns:// or mdns://?interface=eth0",
            ));
        }
        let mut this = Self::default();
        let mut options = url.options();
        if let Some(names) = options.text("interface") {
            this.interfaces = names.split(',').map(str::parse).collect::<Result<_>>()?;
        }
        if let Some(loopback) = options.flag("loopback")? {
            this.loopback = loopback;
        }
        if let Some(port) = options.parse("port", "1 to 65535")? {
            this.port = port;
        }
        if let Some(probe) = options.flag("probe")? {
            this.probe = probe;
        }
        options.finish()?;
        this.check()?;
        Ok(this)
    }
}

/// A network interface, by its name or by one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
    /// Its name, such as `eth0`.
    Name(String),
    /// One of its addresses; it stands for the interface and this address's family.
    Address(IpAddr),
}

impl FromStr for Interface {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
            return Err(config(
                "an interface is refused; write its name or one of its addresses, separated by commas",
            ));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

fn config(message: &str) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<MdnsConfig> {
        MdnsConfig::try_from(&url.parse::<RegistryUrl>()?)
    }

    #[test]
    fn a_url_sets_every_field() {
        assert_eq!(read("mdns://").unwrap(), MdnsConfig::default());
        assert_eq!(
            read("mdns://?interface=eth0,10.0.0.7,fe80::1&port=53530&probe=false").unwrap(),
            MdnsConfig::default()
                .interface(Interface::Name("eth0".into()))
                .interface(Interface::Address([10, 0, 0, 7].into()))
                .interface(Interface::Address("fe80::1".parse().unwrap()))
                .port(53530)
                .probe(false)
        );
        assert!(read("mdns://?loopback").unwrap().loopback);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (url, says) in [
            ("mdns://10.0.0.1", "no host"),
            ("mdns://:secret@", "no host"),
            ("mdns:///path", "no path"),
            ("mdns://?port=0", "1 to 65535"),
            ("mdns://?port=x", "1 to 65535"),
            ("mdns://?loopback=maybe", "true, false"),
            ("mdns://?interface=", "its name or one of its addresses"),
            ("mdns://?interface=a,,b", "its name or one of its addresses"),
            ("mdns://?interface=eth0&loopback=true", "leave out either"),
            (
                "mdns://?ttl=3s",
                "its options: interface, loopback, port, probe",
            ),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
