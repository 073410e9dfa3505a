//! The TXT record: what is written into it, and how it is read.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::str;

use mdns_sd::{TxtProperties, TxtProperty};
use registry_core::{
    Endpoint, Error, ErrorKind, Instance, InstanceId, InstanceKey, Label, Metadata, Result,
    ServiceName, Status,
};

/// Most bytes of a TXT record here, length bytes included, less 28 for each alternate address. With it
/// all records of an instance fit one packet on Ethernet, so that nobody sees them half changed (RFC 6763, 6.2,
/// advises 1300 for the TXT record alone).
pub const MAX_RECORD: usize = 1200;

/// Bytes of an AAAA record, its name compressed.
const PER_ALTERNATE: usize = 28;

/// Most bytes of one `key=value` (RFC 6763, 6.1).
const MAX_STRING: usize = 255;

/// Most bytes of key and value of one pair of metadata.
pub(crate) const MAX_PAIR: usize = MAX_STRING - "m.".len() - "=".len();

/// The TXT record of an instance at these addresses.
///
/// # Errors
/// `Invalid`, naming the limit, for an instance that does not fit.
pub(crate) fn write(
    instance: &Instance,
    ips: &[IpAddr],
    revision: u64,
) -> Result<Vec<TxtProperty>> {
    let mut txt = Text::new(instance.key());
    txt.push("txtvers", "1")?;
    txt.push("service", instance.service.as_str())?;
    txt.push("id", instance.id.as_str())?;
    let revision = revision.to_string();
    txt.push("rev", &revision)?;
    // How many digits it has must not decide whether an instance fits.
    txt.bytes += 20 - revision.len();
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
    if ips.len() > 1 {
        let order: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
        txt.bytes += PER_ALTERNATE * (ips.len() - 1);
        txt.push("addr", &order.join(","))?;
    }
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
                "mDNS takes {MAX_RECORD} bytes for an instance, {PER_ALTERNATE} of them for each alternate \
                 address, and this one has more"
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
pub(crate) struct Fields {
    pub(crate) service: Option<ServiceName>,
    pub(crate) id: Option<InstanceId>,
    pub(crate) version: Option<Label>,
    pub(crate) zone: Option<Label>,
    pub(crate) weight: u16,
    pub(crate) status: Status,
    pub(crate) order: Option<Vec<IpAddr>>,
    pub(crate) revision: u64,
    pub(crate) metadata: Metadata,
    endpoints: BTreeMap<u8, (Option<Label>, Metadata)>,
}

impl Fields {
    pub(crate) fn read(txt: &TxtProperties) -> Result<Self, Undecodable> {
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

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let named = self.endpoints.values().filter_map(|(name, metadata)| {
            let endpoint = Endpoint::new(name.clone()?);
            Some(endpoint.with_metadata(metadata.clone()))
        });
        named.collect()
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

/// A record that could not be read as an instance, and why.
#[derive(Debug)]
pub(crate) struct Undecodable(pub(crate) String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Undecodable {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}
