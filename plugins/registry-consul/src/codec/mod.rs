//! From an instance to a service of Consul, and back.

use std::collections::{BTreeMap, HashMap};

use registry_core::{
    Address, Error, ErrorKind, Host, Instance, InstanceId, InstanceKey, Label, Metadata,
    Registration, Result, ServiceName, Status,
};
use serde::{Deserialize, Serialize};

use crate::checks::{self, Definition, NODE_MAINTENANCE, SERVICE_MAINTENANCE};
use crate::config::{ConsulConfig, Format};
use crate::micro;

/// Keys of `Meta` that are ours, and their prefix.
pub(crate) const META_ID: &str = "registry-id";
pub(crate) const META_OWNER: &str = "registry-owner";
const META_WEIGHT: &str = "registry-weight";
pub(crate) const META_REVISION: &str = "registry-revision";
const META_PREFIX: &str = "registry-";

/// Prefixes of the tags that hold fields.
const VERSION: &str = "version=";
const ZONE: &str = "zone=";
const STATUS: &str = "status=";
const ALTERNATE: &str = "alternate=";
const ENDPOINT: &str = "endpoint=";
const METADATA: &str = "meta.";

/// Pairs of an instance's metadata that go into `Meta`, which takes 64: four are ours.
const META_PAIRS: usize = 60;
const META_KEY: usize = 128;
const META_VALUE: usize = 512;

/// Longest body of a registration. Consul has no limit before 2.1, and its log suffers.
pub(crate) const LONGEST_BODY: usize = 2 << 20;

/// What is sent to register.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service<'a> {
    #[serde(rename = "ID")]
    id: String,
    name: &'a str,
    tags: Vec<String>,
    address: String,
    port: u16,
    meta: BTreeMap<&'a str, String>,
    weights: Weights,
    pub(crate) checks: Vec<Definition>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default)]
    passing: i64,
    #[serde(default)]
    warning: i64,
}

/// Whether a tag would be read as a field of an instance.
pub(crate) fn is_reserved(tag: &str) -> bool {
    [VERSION, ZONE, STATUS, ALTERNATE, ENDPOINT, METADATA]
        .iter()
        .any(|prefix| tag.starts_with(prefix))
        || micro::is_tag(tag)
}

/// The id of a service, unique on its agent: the service's name, `:` and the instance's id. Everything but lower-case
/// ASCII letters, digits and `-._~:@+` is percent-encoded: Consul's paths take printable characters only, and its catalog
/// does not tell ids apart by case.
pub(crate) fn service_id(key: &InstanceKey) -> String {
    let mut id = String::new();
    let parts = [key.service.as_str(), ":", key.id.as_str()];
    for byte in parts.iter().flat_map(|part| part.bytes()) {
        match byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._~:@+".contains(&byte) {
            true => id.push(byte.into()),
            false => id.push_str(&format!("%{byte:02X}")),
        }
    }
    id
}

/// What is written for a registration. Another `revision` makes a record that the agent does not take for the one that it
/// knows.
pub(crate) fn encode<'a>(
    registration: &'a Registration,
    ttl: std::time::Duration,
    owner: &str,
    revision: u64,
    config: &ConsulConfig,
) -> Result<Service<'a>> {
    let instance = &*registration.instance;
    let id = service_id(&registration.key());
    let mut meta = BTreeMap::from([
        (META_ID, instance.id.to_string()),
        (META_OWNER, owner.to_owned()),
        (META_REVISION, revision.to_string()),
    ]);
    if instance.weight == 0 {
        meta.insert(META_WEIGHT, "0".to_owned());
    }
    let mut tags = match config.format {
        Format::Plain => Vec::new(),
        // First: a reader on go-micro is misled by tags of others that begin alike.
        Format::GoMicro => micro::encode(instance),
    };
    let mut tag = |prefix: &str, value: &str| tags.push(format!("{prefix}{value}"));
    if let Some(version) = &instance.version {
        tag(VERSION, version.as_str());
    }
    if let Some(zone) = &instance.zone {
        tag(ZONE, zone.as_str());
    }
    if instance.status != Status::Up {
        tag(STATUS, instance.status.as_str());
    }
    for address in &instance.alternates {
        tag(ALTERNATE, address.as_str());
    }
    for endpoint in &instance.endpoints {
        tag(ENDPOINT, &registry_go_micro::encode_endpoint(endpoint));
    }
    let mut pairs = 0;
    for (key, value) in instance.metadata.iter() {
        if pairs < META_PAIRS && fits_meta(key, value) {
            pairs += 1;
            meta.insert(key, value.to_owned());
        } else {
            tag(METADATA, &format!("{key}={value}"));
        }
    }
    tags.extend(config.tags.iter().cloned());
    let weight = i64::from(instance.weight.max(1));
    Ok(Service {
        name: instance.service.as_str(),
        tags,
        address: host(&instance.address),
        port: instance.address.port(),
        meta,
        weights: Weights {
            passing: weight,
            warning: weight,
        },
        checks: checks::definitions(registration, &id, ttl, revision)?,
        id,
    })
}

fn fits_meta(key: &str, value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    key.bytes().all(plain)
        && key.len() <= META_KEY
        && value.len() <= META_VALUE
        && !key.starts_with("consul-")
        && !key.starts_with(META_PREFIX)
}

fn host(address: &Address) -> String {
    match address.host() {
        Host::V4(ip) => ip.to_string(),
        Host::V6(ip, 0) => ip.to_string(),
        Host::V6(ip, scope) => format!("{ip}%{scope}"),
        Host::Name(name) => name.to_string(),
    }
}

/// One element of what `/v1/health/service` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry {
    node: Node,
    service: Record,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    node: String,
    #[serde(default)]
    address: String,
}

/// A service as Consul tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Record {
    #[serde(rename = "ID", default)]
    pub(crate) id: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: Option<i64>,
    #[serde(default)]
    meta: Option<HashMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    modify_index: u64,
}

/// A check as Consul tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Check {
    #[serde(rename = "CheckID", default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) status: String,
}

impl Record {
    /// The value of a key of `Meta`.
    pub(crate) fn meta(&self, key: &str) -> Option<&str> {
        self.meta.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether it was written by this crate.
    fn is_ours(&self) -> bool {
        self.meta(META_ID).is_some() && self.meta(META_OWNER).is_some()
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().flatten().map(String::as_str)
    }
}

/// Where a record is in the catalog: its node's name, and its id there.
pub(crate) type Place = (String, String);

/// What a reply holds: every instance once, and the ids of the services that cannot be read, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) instances: Vec<Instance>,
    /// When each record was changed last, by the catalog's index.
    pub(crate) modified: HashMap<Place, u64>,
    pub(crate) skipped: Vec<(String, Error)>,
}

/// Reads a reply about one service: Consul answers with those too whose names differ by case alone. Where two agents hold the same instance, the one that is not down is meant, and of two alike the one
/// that was changed last.
pub(crate) fn decode(service: &ServiceName, entries: Vec<Entry>) -> Decoded {
    let mut decoded = Decoded::default();
    let mut places: HashMap<InstanceKey, (usize, (bool, u64))> = HashMap::new();
    let of_service = |entry: &Entry| entry.service.service == service.as_str();
    for entry in entries.into_iter().filter(of_service) {
        let place = (entry.node.node.clone(), entry.service.id.clone());
        decoded.modified.insert(place, entry.service.modify_index);
        let instance = match instance(&entry) {
            Ok(instance) => instance,
            Err(error) => {
                decoded.skipped.push((entry.service.id, error));
                continue;
            }
        };
        let rank = (instance.status != Status::Down, entry.service.modify_index);
        match places.get_mut(&instance.key()) {
            None => {
                places.insert(instance.key(), (decoded.instances.len(), rank));
                decoded.instances.push(instance);
            }
            Some((place, best)) if rank > *best => {
                *best = rank;
                decoded.instances[*place] = instance;
            }
            Some(_) => {}
        }
    }
    decoded
}

fn instance(entry: &Entry) -> Result<Instance> {
    let record = &entry.service;
    let service = ServiceName::try_from(record.service.as_str())?;
    let address = match record.address.as_str() {
        // Consul's own rule for a service without an address.
        "" => entry.node.address.as_str(),
        address => address,
    };
    let address = parse_address(address, record.port.unwrap_or_default())?;
    let mut instance = Instance::new(service, address).build()?;
    let weight = record.weights.as_ref().map_or(1, |weights| weights.passing);
    instance.weight = u16::try_from(weight).unwrap_or(1);
    let checks = entry.checks.as_deref().unwrap_or_default();
    if record.is_ours() {
        own(&mut instance, record)?;
        instance.status = status(checks, &record.id, Some(instance.status));
        return Ok(instance);
    }
    foreign(&mut instance, record, &entry.node.node)?;
    instance.status = status(checks, &record.id, None);
    Ok(instance)
}

/// The fields of a record that this crate wrote.
fn own(instance: &mut Instance, record: &Record) -> Result<()> {
    instance.id = record.meta(META_ID).unwrap_or_default().try_into()?;
    if record.meta(META_WEIGHT) == Some("0") {
        instance.weight = 0;
    }
    for tag in record.tags() {
        if let Some(version) = tag.strip_prefix(VERSION) {
            instance.version = Some(version.try_into()?);
        } else if let Some(zone) = tag.strip_prefix(ZONE) {
            instance.zone = Some(zone.try_into()?);
        } else if let Some(word) = tag.strip_prefix(STATUS) {
            instance.status = Status::from_word(word);
        } else if let Some(address) = tag.strip_prefix(ALTERNATE) {
            instance.alternates.push(address.parse()?);
        } else if let Some(endpoint) = tag.strip_prefix(ENDPOINT) {
            let endpoint = registry_go_micro::decode_endpoint(endpoint.as_bytes()).ok();
            instance.endpoints.extend(endpoint);
        } else if let Some((key, value)) = tag
            .strip_prefix(METADATA)
            .and_then(|pair| pair.split_once('='))
        {
            instance.metadata.insert(key, value)?;
        }
    }
    for (key, value) in record.meta.iter().flatten() {
        if !key.starts_with(META_PREFIX) {
            instance.metadata.insert(key, value)?;
        }
    }
    Ok(())
}

/// The fields of a record that somebody else wrote.
fn foreign(instance: &mut Instance, record: &Record, node: &str) -> Result<()> {
    let mut metadata = Metadata::new();
    if let Some(micro) = micro::decode(record.tags()) {
        instance.id = foreign_id(&record.id, None)?;
        instance.version = micro.version;
        instance.endpoints = micro.endpoints;
        metadata = micro.metadata;
    } else {
        instance.id = foreign_id(&record.id, Some(node))?;
    }
    for (key, value) in record.meta.iter().flatten() {
        // A pair that cannot be told does not hide the instance.
        let _ = metadata.insert(key, value);
    }
    for tag in record.tags().filter(|tag| !micro::is_tag(tag)) {
        let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
        match key {
            "version" if instance.version.is_none() => {
                instance.version = Label::try_from(value).ok();
            }
            "zone" => instance.zone = Label::try_from(value).ok(),
            key if metadata.get(key).is_none() => {
                let _ = metadata.insert(key, value);
            }
            _ => {}
        }
    }
    instance.metadata = metadata;
    Ok(())
}

/// The id of an instance that somebody else registered: the service's id, which for go-micro is unique as it is, and
/// `@` with the node's name otherwise. What an id cannot hold is percent-encoded, what is too long ends with a hash.
fn foreign_id(id: &str, node: Option<&str>) -> Result<InstanceId> {
    const LONGEST: usize = 128;
    let full = match node {
        Some(node) => format!("{id}@{node}"),
        None => id.to_owned(),
    };
    let mut text = String::new();
    let (first, last) = (full.trim_start(), full.trim_end());
    let ends = full.len() - first.len()..last.len().max(full.len() - first.len());
    for (at, c) in full.char_indices() {
        match c.is_control() || c == '/' || c == '%' || !ends.contains(&at) {
            true => {
                for byte in c.to_string().bytes() {
                    text.push_str(&format!("%{byte:02X}"));
                }
            }
            false => text.push(c),
        }
    }
    if text == "." || text == ".." {
        text = text.replace('.', "%2E");
    }
    if text.len() > LONGEST {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            // FNV-1a: the same in every process and version.
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let end = (0..=LONGEST - 17)
            .rev()
            .find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or_default());
        text.push_str(&format!("~{hash:016x}"));
    }
    InstanceId::try_from(text)
}

fn parse_address(host: &str, port: i64) -> Result<Address> {
    let port = u16::try_from(port).map_err(|_| {
        let why = format!("port {port} cannot be connected to; allowed: 1 to 65535");
        Error::new(ErrorKind::Invalid, why)
    })?;
    match host.contains(':') {
        // As text, for a link-local address has its interface behind a '%'.
        true => format!("[{host}]:{port}").parse(),
        false => (host, port).try_into(),
    }
}

/// What the checks say of a service, and the status that its registrant chose, if this crate wrote it.
fn status(checks: &[Check], service_id: &str, chosen: Option<Status>) -> Status {
    let (mut maintained, mut critical, mut warned) = (false, false, false);
    let shown = checks::status_id(service_id);
    for check in checks {
        let maintenance = check.id == NODE_MAINTENANCE
            || check
                .id
                .strip_prefix(SERVICE_MAINTENANCE)
                .is_some_and(|rest| rest.strip_prefix(':') == Some(service_id));
        match check.status.as_str() {
            // It repeats, for other clients, what the tag says.
            _ if chosen.is_some() && check.id == shown => {}
            "critical" if maintenance => maintained = true,
            "critical" => critical = true,
            "warning" => warned = true,
            _ => {}
        }
    }
    match chosen.unwrap_or_default() {
        _ if maintained => Status::Maintenance,
        _ if critical => Status::Down,
        Status::Up if warned => Status::Warning,
        chosen => chosen,
    }
}

/// What the agent knows of one service: `/v1/agent/health/service/id/:id`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Known {
    #[serde(default)]
    pub(crate) service: Option<Record>,
    #[serde(default)]
    pub(crate) checks: Option<Vec<Check>>,
}

impl Known {
    /// Whether its registrant's heartbeat has not lapsed. A record without one is kept until somebody removes it.
    pub(crate) fn is_alive(&self, service_id: &str) -> bool {
        let heartbeat = checks::heartbeat_id(service_id);
        !self
            .checks()
            .any(|check| check.id == heartbeat && check.status == "critical")
    }

    pub(crate) fn checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().flatten()
    }
}

#[cfg(test)]
mod tests;
