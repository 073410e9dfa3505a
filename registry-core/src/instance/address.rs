//! Where an instance can be reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, excerpt};

/// The host part of an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address; a link-local one carries the index of the interface that it is valid on.
    V6(Ipv6Addr, u32),
    /// A name to resolve: 1 to 253 ASCII letters, digits, `.`, `_` or `-`.
    Name(Arc<str>),
}

/// A host and a port that a client can connect to: `10.0.0.7:8080`, `[::1]:8080`,
/// `[fe80::1%2]:8080` or `greeter.internal:8080`.
///
/// Port 0, unspecified (`0.0.0.0`, `::`), multicast and broadcast addresses cannot be built; see
/// [`Address::advertise`] for the address of a socket that is bound to every interface.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: Host,
    port: u16,
    text: Arc<str>,
}

impl Address {
    /// The address that others reach a listening socket at, which was bound to `bound`.
    ///
    /// An unspecified address is replaced by the one that this machine sends from: the source address of
    /// its default route, or loopback where there is no route. No packet is sent.
    ///
    /// # Errors
    /// `Invalid` when the port is 0 or the address is multicast or broadcast.
    pub fn advertise(bound: SocketAddr) -> Result<Self> {
        if !bound.ip().is_unspecified() {
            return Self::try_from(bound);
        }
        // TEST-NET-1 and the documentation prefix (RFC 5737, RFC 3849): routed like any public address.
        let v4 = || source_address("0.0.0.0:0", "192.0.2.1:9");
        let v6 = || source_address("[::]:0", "[2001:db8::1]:9");
        let ip = match bound {
            SocketAddr::V4(_) => v4().unwrap_or(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => v6().or_else(v4).unwrap_or(Ipv6Addr::LOCALHOST.into()),
        };
        Self::try_from(SocketAddr::new(ip, bound.port()))
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, ready for `TcpStream::connect` or a URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address for a socket, or `None` when the host is a name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::V4(ip) => Some(SocketAddr::new((*ip).into(), self.port)),
            Host::V6(ip, scope) => Some(SocketAddrV6::new(*ip, self.port, 0, *scope).into()),
            Host::Name(_) => None,
        }
    }

    fn new(host: Host, port: u16) -> Result<Self> {
        let text: Arc<str> = match &host {
            Host::V4(ip) => format!("{ip}:{port}").into(),
            Host::V6(ip, 0) => format!("[{ip}]:{port}").into(),
            Host::V6(ip, scope) => format!("[{ip}%{scope}]:{port}").into(),
            Host::Name(name) => format!("{name}:{port}").into(),
        };
        if port == 0 {
            return Err(refused(
                &text,
                "port 0 cannot be connected to; give the port that the socket was bound to",
            ));
        }
        match &host {
            Host::V4(ip) => refuse_no_host((*ip).into(), &text)?,
            // An IPv4 address in IPv6's clothes is what it is.
            Host::V6(ip, _) => refuse_no_host(ip.to_canonical(), &text)?,
            Host::Name(name) if !is_host_name(name) => {
                return Err(refused(
                    &text,
                    "a host name has 1 to 253 ASCII letters, digits, '.', '_' or '-' and is not a malformed IP address",
                ));
            }
            Host::Name(_) => {}
        }
        Ok(Self { host, port, text })
    }
}

fn source_address(from: &str, to: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

fn is_host_name(name: &str) -> bool {
    // A name of digits and dots only is a mistyped IPv4 address, and resolvers read some of them as one.
    (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.bytes().any(|b| b.is_ascii_alphabetic())
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
}

fn refused(text: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("address {:?} is refused: {why}", excerpt(text)),
    )
}

/// Refuses what is no address of one host.
fn refuse_no_host(ip: IpAddr, text: &str) -> Result<()> {
    if ip.is_unspecified() {
        return Err(refused(
            text,
            "clients cannot connect to an unspecified address; use Address::advertise with the socket's \
             local address, or name the address of one interface",
        ));
    }
    if ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
        return Err(refused(
            text,
            "a multicast or broadcast address does not belong to one instance",
        ));
    }
    Ok(())
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = || refused(text, "write host:port, or [address]:port for IPv6");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        let port = digits
            .then(|| port.parse::<u16>().ok())
            .flatten()
            .ok_or_else(|| refused(text, "the port is a number from 1 to 65535"))?;
        if let Some(inner) = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            let (ip, scope) = inner.split_once('%').unwrap_or((inner, "0"));
            let ip = ip.parse().map_err(|_| form())?;
            let scope = scope
                .parse()
                .map_err(|_| refused(text, "the scope after '%' is an interface's index"))?;
            return Self::new(Host::V6(ip, scope), port);
        }
        if host.contains(':') {
            return Err(form());
        }
        match host.parse() {
            Ok(ip) => Self::new(Host::V4(ip), port),
            Err(_) => Self::new(Host::Name(host.into()), port),
        }
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<SocketAddr> for Address {
    type Error = Error;
    fn try_from(socket: SocketAddr) -> Result<Self> {
        match socket {
            SocketAddr::V4(v4) => Self::new(Host::V4(*v4.ip()), v4.port()),
            SocketAddr::V6(v6) => Self::new(Host::V6(*v6.ip(), v6.scope_id()), v6.port()),
        }
    }
}

impl TryFrom<(&str, u16)> for Address {
    type Error = Error;
    fn try_from((host, port): (&str, u16)) -> Result<Self> {
        match host.parse() {
            Ok(IpAddr::V4(ip)) => Self::new(Host::V4(ip), port),
            Ok(IpAddr::V6(ip)) => Self::new(Host::V6(ip, 0), port),
            Err(_) => Self::new(Host::Name(host.into()), port),
        }
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "10.0.0.7:8080",
            "[::1]:80",
            "[fe80::1%3]:9",
            "greeter.internal:65535",
            "a_b-c:1",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.as_str(), text);
            if let Some(socket) = address.socket_addr() {
                assert_eq!(Address::try_from(socket).unwrap(), address);
            }
        }
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused() {
        for text in [
            "",
            "host",
            ":80",
            "10.0.0.7:0",
            "10.0.0.7:65536",
            "10.0.0.7:+80",
            "::1:80",
            "[::1]",
            "[::1%x]:8",
            "0.0.0.0:80",
            "[::ffff:0.0.0.0]:80",
            "[::]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
            "10.0.0.300:80",
            "a b:80",
            "a/b:80",
            "-a:80",
            "a..b:80",
            "ä:80",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
        assert!(
            "0.0.0.0:80"
                .parse::<Address>()
                .unwrap_err()
                .to_string()
                .contains("Address::advertise")
        );
    }

    #[test]
    fn an_unspecified_listener_gets_an_address_to_advertise() {
        let address = Address::advertise("0.0.0.0:8080".parse().unwrap()).unwrap();
        assert_eq!(address.port(), 8080);
        assert!(matches!(address.host(), Host::V4(ip) if !ip.is_unspecified()));
        assert_eq!(
            Address::advertise("127.0.0.1:1".parse().unwrap())
                .unwrap()
                .as_str(),
            "127.0.0.1:1"
        );
        assert!(Address::advertise("0.0.0.0:0".parse().unwrap()).is_err());
    }
}
