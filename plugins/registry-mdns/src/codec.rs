//! What is written into DNS-SD records, and how it is read.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::str;
use std::sync::Arc;

use mdns_sd::{ResolvedService, ScopedIp, ServiceInfo, TxtProperties, TxtProperty};
use registry_core::{
    Address, Endpoint, Error, ErrorKind, Host, Instance, InstanceId, InstanceKey, Label, Metadata,
    Result, ServiceName, Status,
};

use crate::{SERVICE_TYPE, label};

/// Most bytes of a TXT record here, length bytes included: with its name it fits one packet on Ethernet (RFC 6763,
/// 6.2, advises 1300).
pub const MAX_RECORD: usize = 1300;

/// Most bytes of one `key=value` (RFC 6763, 6.1).
const MAX_STRING: usize = 255;

/// Most bytes of key and value of one pair of metadata.
pub(crate) const MAX_PAIR: usize = MAX_STRING - "m.".len() - "=".len();

/// A record that could not be read as an instance, and why.
#[derive(Debug)]
pub(crate) struct Undecodable(String);

impl std::fmt::Display for Undecodable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Undecodable {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) instance: Arc<Instance>,
    /// The host and the count of what it published: of one host, the higher count is the later state.
    pub(crate) host: String,
    pub(crate) revision: u64,
    /// The record has the name that we would give the instance; another's record of the same instance yields to it.
    pub(crate) canonical: bool,
}

/// The record of an instance.
///
/// # Errors
/// `Invalid`, naming the limit, for an instance that does not fit.
pub(crate) fn encode(instance: &Instance, host: &str, revision: u64) -> Result<ServiceInfo> {
    let refused = |message: &str| {
        Err(Error::new(ErrorKind::Invalid, message).with("instance", instance.key()))
    };
    let mut ips = Vec::with_capacity(1 + instance.alternates.len());
    for address in [&instance.address].into_iter().chain(&instance.alternates) {
        match address.host() {
            Host::V4(ip) => ips.push(IpAddr::from(*ip)),
            Host::V6(ip, _) => ips.push(IpAddr::from(*ip)),
            Host::Name(name) => {
                return refused(&format!(
                    "mDNS announces IP addresses, and {name:?} is a name; resolve it, or see Address::advertise"
                ));
            }
        }
        if address.port() != instance.address.port() {
            return refused("mDNS announces one port for all addresses of an instance");
        }
    }
    let txt = text(instance, &ips, revision)?;
    let label = label::instance(&instance.key());
    let port = instance.address.port();
    ServiceInfo::new(SERVICE_TYPE, &label, host, &ips[..], port, txt).map_err(|error| {
        Error::new(ErrorKind::Invalid, "mDNS refuses the record")
            .with("instance", instance.key())
            .because(error)
    })
}

/// The instance that a record describes.
pub(crate) fn decode(record: &ResolvedService) -> Result<Decoded, Undecodable> {
    let label = label::of_full_name(&record.fullname)
        .ok_or_else(|| Undecodable("its name is not one of the type".to_owned()))?;
    let fields = Fields::read(&record.txt_properties)?;
    let service = fields
        .service
        .ok_or_else(|| Undecodable("its TXT record has no key \"service\"".to_owned()))?;
    let id = fields.id.map_or_else(|| label.parse::<InstanceId>(), Ok)?;
    let mut addresses = addresses(record, fields.order.as_deref()).into_iter();
    let address = addresses
        .next()
        .ok_or_else(|| Undecodable("it has no address to connect to".to_owned()))?;

    let mut instance = Instance::new(service, address)
        .id(id)
        .weight(fields.weight)
        .status(fields.status)
        .metadata(fields.metadata)
        .build()?;
    instance.version = fields.version;
    instance.zone = fields.zone;
    instance.alternates = addresses.collect();
    instance.endpoints = fields
        .endpoints
        .into_values()
        .filter_map(|(name, metadata)| Some(Endpoint::new(name?).with_metadata(metadata)))
        .collect();

    let own = label::instance(&instance.key());
    if label::is_renamed(&label, &own) {
        return Err(Undecodable("its name lost a conflict".to_owned()));
    }
    Ok(Decoded {
        canonical: label.to_lowercase() == own,
        instance: Arc::new(instance),
        host: record.host.to_lowercase(),
        revision: fields.revision,
    })
}

/// The TXT record.
fn text(instance: &Instance, ips: &[IpAddr], revision: u64) -> Result<Vec<TxtProperty>> {
    let mut txt = Text::new(instance.key());
    txt.push("txtvers", "1")?;
    txt.push("service", instance.service.as_str())?;
    txt.push("id", instance.id.as_str())?;
    if let Some(version) = &instance.version {
        txt.push("version", version.as_str())?;
    }
    if let Some(zone) = &instance.zone {
        txt.push("zone", zone.as_str())?;
    }
    if instance.weight != 1 {
        txt.push("weight", &instance.weight.to_string())?;
    }
    if instance.status != Status::Up {
        txt.push("status", instance.status.as_str())?;
    }
    let mut order = String::new();
    for ip in ips {
        let comma = if order.is_empty() { "" } else { "," };
        let _ = write!(order, "{comma}{ip}");
    }
    txt.push("addr", &order)?;
    let revision = revision.to_string();
    txt.push("rev", &revision)?;
    // How many digits it has must not decide whether an instance fits.
    txt.bytes += 20 - revision.len();
    for (key, value) in instance.metadata.iter() {
        txt.push(&format!("m.{key}"), value)?;
    }
    for (i, endpoint) in instance.endpoints.iter().enumerate() {
        txt.push(&format!("e{i}"), endpoint.name.as_str())?;
        for (key, value) in endpoint.metadata.iter() {
            txt.push(&format!("e{i}.{key}"), value)?;
        }
    }
    Ok(txt.properties)
}

struct Text {
    key: InstanceKey,
    properties: Vec<TxtProperty>,
    keys: HashSet<String>,
    bytes: usize,
}

impl Text {
    fn new(key: InstanceKey) -> Self {
        Self {
            key,
            properties: Vec::new(),
            keys: HashSet::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, key: &str, value: &str) -> Result<()> {
        let bytes = key.len() + 1 + value.len();
        self.bytes += 1 + bytes;
        let refusal = if !self.keys.insert(key.to_ascii_lowercase()) {
            "mDNS has no case in keys; two keys differ by case alone".to_owned()
        } else if bytes > MAX_STRING {
            format!("mDNS takes {MAX_STRING} bytes for one key=value, and this one has {bytes}")
        } else if self.bytes > MAX_RECORD {
            format!(
                "mDNS takes {MAX_RECORD} bytes of TXT record for an instance, and this one has more"
            )
        } else {
            self.properties.push((key, value).into());
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, refusal)
            .with("instance", &self.key)
            .with("key", key))
    }
}

/// What a TXT record says.
#[derive(Default)]
struct Fields {
    service: Option<ServiceName>,
    id: Option<InstanceId>,
    version: Option<Label>,
    zone: Option<Label>,
    weight: u16,
    status: Status,
    order: Option<Vec<IpAddr>>,
    revision: u64,
    metadata: Metadata,
    endpoints: BTreeMap<u8, (Option<Label>, Metadata)>,
}

impl Fields {
    fn read(txt: &TxtProperties) -> Result<Self, Undecodable> {
        let mut this = Self {
            weight: 1,
            ..Self::default()
        };
        for property in txt.iter() {
            let (key, value) = (property.key(), property.val().unwrap_or_default());
            // Whatever others put beside our keys may be bytes of any kind.
            let value = str::from_utf8(value);
            let bad = || Undecodable(format!("the value of its TXT key {key:?} makes no sense"));
            match key.to_ascii_lowercase().as_str() {
                "txtvers" if value != Ok("1") => return Err(bad()),
                "service" => this.service = Some(value.map_err(|_| bad())?.parse()?),
                "id" => this.id = Some(value.map_err(|_| bad())?.parse()?),
                "version" => this.version = Some(value.map_err(|_| bad())?.parse()?),
                "zone" => this.zone = Some(value.map_err(|_| bad())?.parse()?),
                "weight" => this.weight = number(value.map_err(|_| bad())?).ok_or_else(bad)?,
                "status" => this.status = Status::from_word(value.map_err(|_| bad())?),
                "rev" => this.revision = number(value.map_err(|_| bad())?).ok_or_else(bad)?,
                "addr" => {
                    let ips = value.map_err(|_| bad())?.split(',').map(str::parse);
                    this.order = Some(ips.collect::<Result<_, _>>().map_err(|_| bad())?);
                }
                folded if folded.starts_with("m.") => {
                    this.metadata.insert(&key[2..], value.map_err(|_| bad())?)?;
                }
                folded => {
                    let Some((number, pair)) = endpoint(folded) else {
                        continue;
                    };
                    let value = value.map_err(|_| bad())?;
                    let (name, metadata) = this.endpoints.entry(number).or_default();
                    match pair {
                        None => *name = Some(value.parse()?),
                        Some(pair) => metadata.insert(&key[pair..], value)?,
                    }
                }
            }
        }
        Ok(this)
    }
}

/// `e7` is the name of endpoint 7, `e7.key` a pair of its metadata, whose key begins at the offset.
fn endpoint(key: &str) -> Option<(u8, Option<usize>)> {
    let (head, pair) = match key.find('.') {
        Some(dot) => (&key[..dot], Some(dot + 1)),
        None => (key, None),
    };
    Some((number(head.strip_prefix('e')?)?, pair))
}

/// A number in the one form that we write.
fn number<T: str::FromStr>(text: &str) -> Option<T> {
    let one_form =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    one_form.then(|| text.parse().ok()).flatten()
}

/// The addresses that were received, in the order that the publisher gave; without one, the likeliest to work first.
///
/// An address that the publisher's order lacks is a leftover of an earlier state. One that was not received belongs
/// to another link.
fn addresses(record: &ResolvedService, order: Option<&[IpAddr]>) -> Vec<Address> {
    let mut received: Vec<_> = record
        .addresses
        .iter()
        .map(|ip| (rank(ip), host(ip)))
        .collect();
    received.sort_unstable();
    let hosts: Vec<_> = match order {
        None => received.into_iter().map(|(_, host)| host).collect(),
        Some(order) => {
            let at = |ip: &IpAddr| {
                let received = received.iter().map(|(_, host)| host);
                received
                    .filter(|host| is_ip(host, *ip))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            order.iter().flat_map(at).collect()
        }
    };
    let port = record.port;
    let addresses = hosts.into_iter().map(|host| match host {
        Host::V4(ip) => Address::try_from(std::net::SocketAddr::from((ip, port))),
        Host::V6(ip, scope) => Address::try_from(std::net::SocketAddr::from(
            std::net::SocketAddrV6::new(ip, port, 0, scope),
        )),
        Host::Name(name) => Address::try_from((&*name, port)),
    });
    addresses.filter_map(Result::ok).collect()
}

fn is_ip(host: &Host, ip: IpAddr) -> bool {
    match host {
        Host::V4(v4) => ip == *v4,
        Host::V6(v6, _) => ip == *v6,
        Host::Name(_) => false,
    }
}

fn host(ip: &ScopedIp) -> Host {
    match ip {
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            Host::V6(*v6.addr(), v6.scope_id().index)
        }
        ip => match ip.to_ip_addr() {
            IpAddr::V4(v4) => Host::V4(v4),
            IpAddr::V6(v6) => Host::V6(v6, 0),
        },
    }
}

/// Loopback is received from this machine alone and works without a network; a link-local address needs its scope,
/// which not every program passes on.
fn rank(ip: &ScopedIp) -> u8 {
    match ip.to_ip_addr() {
        IpAddr::V4(v4) if v4.is_loopback() => 0,
        IpAddr::V6(v6) if v6.is_loopback() => 1,
        IpAddr::V4(v4) if !v4.is_link_local() => 2,
        IpAddr::V6(v6) if !v6.is_unicast_link_local() => 3,
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 5,
    }
}
