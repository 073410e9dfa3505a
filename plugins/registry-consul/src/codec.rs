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

/// What a reply holds: every instance once, and the ids of the services that cannot be read, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) instances: Vec<Instance>,
    /// When the record of each was changed last, by the catalog's index.
    pub(crate) modified: HashMap<InstanceKey, u64>,
    pub(crate) skipped: Vec<(String, Error)>,
}

/// Reads a reply about one service: Consul answers with those too whose names differ by case alone. Where two agents hold the same instance, the one that is not down is meant, and of two alike the one
/// that was changed last.
pub(crate) fn decode(service: &ServiceName, entries: Vec<Entry>) -> Decoded {
    let mut decoded = Decoded::default();
    let mut places: HashMap<InstanceKey, (usize, (bool, u64))> = HashMap::new();
    let of_service = |entry: &Entry| entry.service.service == service.as_str();
    for entry in entries.into_iter().filter(of_service) {
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
    let modified = places
        .into_iter()
        .map(|(key, (_, (_, index)))| (key, index));
    decoded.modified = modified.collect();
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use registry_core::{Endpoint, InstanceBuilder};
    use serde_json::{Value, json};

    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    fn service(name: &str) -> ServiceName {
        name.try_into().unwrap()
    }

    fn written(instance: Instance, config: &ConsulConfig) -> Value {
        let registration = Registration::from(instance);
        let service = encode(&registration, TTL, "owner", 1, config).unwrap();
        serde_json::to_value(service).unwrap()
    }

    /// What a server answers of what was written, while every check is as it was registered.
    fn answered(written: &Value) -> Value {
        let checks: Vec<_> = written["Checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|check| json!({ "CheckID": check["CheckID"], "Status": check["Status"] }))
            .collect();
        json!([{
            "Node": { "Node": "n", "Address": "127.0.0.1" },
            "Service": {
                "ID": written["ID"], "Service": written["Name"], "Tags": written["Tags"],
                "Address": written["Address"], "Port": written["Port"], "Meta": written["Meta"],
                "Weights": written["Weights"], "ModifyIndex": 7,
            },
            "Checks": checks,
        }])
    }

    fn read(name: &str, answer: &Value) -> Vec<Instance> {
        let entries = serde_json::from_value(answer.clone()).unwrap();
        decode(&service(name), entries).instances
    }

    fn golden(file: &str) -> Value {
        let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn greeter() -> Instance {
        let mut pairs = Metadata::new();
        pairs.insert("stream", "true").unwrap();
        Instance::new("greeter", "10.0.0.1:8080")
            .id("greeter-1")
            .version("1.0.0")
            .meta("transport", "http")
            .meta("zone", "eu")
            .endpoint(Endpoint::new("Say.Hello".try_into().unwrap()).with_metadata(pairs))
            .build()
            .unwrap()
    }

    #[test]
    fn what_go_micro_wrote_is_read() {
        let found = read("greeter", &golden("consul-health-ttl.json"));
        assert_eq!(found, [greeter()]);
        let found = read("plain", &golden("consul-health-nottl.json"));
        let expected = Instance::new("plain", "10.0.0.2:8081")
            .id("plain-1")
            .version("latest");
        assert_eq!(found, [expected.build().unwrap()]);
    }

    #[test]
    fn what_kratos_wrote_is_read_and_its_id_names_the_node() {
        let found = read("kr", &golden("consul-health-kratos.json"));
        let expected = Instance::new("kr", "10.0.0.1:80")
            .id("kr-1@t")
            .version("v1")
            .meta("a", "b");
        assert_eq!(found, [expected.build().unwrap()]);
    }

    #[test]
    fn go_micro_reads_what_is_written() {
        let config = ConsulConfig::default().format(Format::GoMicro);
        let written = written(greeter(), &config);
        let theirs = golden("consul-register-ttl.json");
        for field in ["Name", "Port", "Address"] {
            assert_eq!(written[field], theirs[field], "{field}");
        }
        let meta = theirs["Meta"].as_object().unwrap();
        assert!(
            meta.iter()
                .all(|(key, value)| written["Meta"][key] == *value)
        );
        let tags = |record: &Value| -> Vec<String> {
            serde_json::from_value(record["Tags"].clone()).unwrap()
        };
        let (ours, theirs) = (tags(&written), tags(&theirs));
        let kinds = |tags: &[String]| -> String {
            let micro = tags.iter().filter(|tag| micro::is_tag(tag));
            micro.filter_map(|tag| tag.chars().next()).collect()
        };
        assert_eq!(kinds(&ours), kinds(&theirs));
        assert!(micro::is_tag(&ours[0]), "theirs come first: {ours:?}");
        let decoded = |tags: &[String]| micro::decode(tags.iter().map(String::as_str));
        assert_eq!(decoded(&ours), decoded(&theirs));
        assert_eq!(read("greeter", &answered(&written)), [greeter()]);
    }

    #[test]
    fn a_plain_record_is_native_and_readable() {
        let instance = greeter().edit().zone("eu-1").weight(7).meta("a.b", "x y");
        let written = written(
            instance.build().unwrap(),
            &ConsulConfig::default().tag("primary"),
        );
        assert_eq!(written["ID"], "greeter:greeter-1");
        assert_eq!(
            written["Meta"],
            json!({
                "registry-id": "greeter-1", "registry-owner": "owner", "registry-revision": "1",
                "transport": "http", "zone": "eu",
            })
        );
        assert_eq!(written["Weights"], json!({ "Passing": 7, "Warning": 7 }));
        let tags = written["Tags"].as_array().unwrap();
        for tag in ["version=1.0.0", "zone=eu-1", "meta.a.b=x y", "primary"] {
            assert!(tags.contains(&tag.into()), "{tag} in {tags:?}");
        }
    }

    #[test]
    fn ids_are_told_apart_without_case_and_by_service() {
        let id = |name: &str, id: &str| {
            service_id(&InstanceKey {
                service: service(name),
                id: id.try_into().unwrap(),
            })
        };
        assert_eq!(id("web", "A"), "web:%41");
        let all = [
            id("web", "a"),
            id("web", "A"),
            id("WEB", "a"),
            id("web", "%41"),
            id("web", "a:a"),
            id("web", "a\u{a0}b"),
        ];
        let lower: std::collections::BTreeSet<_> = all.iter().map(|id| id.to_lowercase()).collect();
        assert_eq!(lower.len(), all.len(), "{all:?}");
        assert!(all.iter().all(|id| id.is_ascii()));
    }

    #[test]
    fn checks_say_what_a_registrant_did_not() {
        let with = |checks: Value, status| {
            let instance = greeter().edit().status(status).build().unwrap();
            let mut answer = answered(&written(instance, &ConsulConfig::default()));
            let all = answer[0]["Checks"].as_array_mut().unwrap();
            for check in checks.as_array().unwrap() {
                all.retain(|other| other["CheckID"] != check["CheckID"]);
                all.push(check.clone());
            }
            read("greeter", &answer)[0].status
        };
        let check = |id: &str, status: &str| json!([{ "CheckID": id, "Status": status }]);
        let (up, draining) = (Status::Up, Status::Draining);
        for (checks, chosen, seen) in [
            (json!([]), draining, draining),
            (
                check("greeter:greeter-1:ttl", "critical"),
                draining,
                Status::Down,
            ),
            (check("serfHealth", "critical"), up, Status::Down),
            (check("theirs", "warning"), up, Status::Warning),
            (check("theirs", "warning"), draining, draining),
            (
                check("_node_maintenance", "critical"),
                up,
                Status::Maintenance,
            ),
            (
                check("_service_maintenance:greeter:greeter-1", "critical"),
                draining,
                Status::Maintenance,
            ),
            (
                check("_service_maintenance:other", "critical"),
                up,
                Status::Down,
            ),
        ] {
            assert_eq!(with(checks.clone(), chosen), seen, "{checks} {chosen}");
        }
    }

    #[test]
    fn of_one_instance_at_two_agents_the_living_is_meant_and_then_the_later() {
        let entry = |address: &str, status: &str, index: u64| {
            let instance = greeter().edit().address(address).build().unwrap();
            let mut answer = answered(&written(instance, &ConsulConfig::default()))[0].take();
            answer["Checks"][0]["Status"] = status.into();
            answer["Service"]["ModifyIndex"] = index.into();
            answer
        };
        let meant = |one: Value, other: Value| {
            let found = read("greeter", &json!([one, other]));
            assert_eq!(found.len(), 1);
            found[0].address.to_string()
        };
        let (dead, old, new) = (
            entry("10.0.0.1:1", "critical", 9),
            entry("10.0.0.2:2", "passing", 1),
            entry("10.0.0.3:3", "passing", 2),
        );
        assert_eq!(meant(dead.clone(), old.clone()), "10.0.0.2:2");
        assert_eq!(meant(old.clone(), dead), "10.0.0.2:2");
        assert_eq!(meant(new, old), "10.0.0.3:3");
    }

    #[test]
    fn what_cannot_be_read_hides_nobody_and_another_service_is_not_this_one() {
        let good = answered(&written(greeter(), &ConsulConfig::default()))[0].take();
        let with = |field: &str, value: Value| {
            let mut entry = good.clone();
            entry["Service"][field] = value;
            entry
        };
        let entries = json!([
            with("Port", json!(70000)),
            with("Port", json!(null)),
            with("Port", json!(-1)),
            with("Address", json!("not an address")),
            with("Tags", json!(["alternate=x"])),
            with("Service", json!("GREETER")),
            { "Node": {}, "Service": { "Service": "greeter" } },
            good,
        ]);
        let decoded = decode(
            &service("greeter"),
            serde_json::from_value(entries).unwrap(),
        );
        assert_eq!(decoded.instances, [greeter()]);
        assert_eq!(decoded.skipped.len(), 6);
    }

    #[test]
    fn ids_of_others_are_unique_and_fit() {
        let id = |id: &str| foreign_id(id, Some("n")).unwrap().to_string();
        assert_eq!(id("a"), "a@n");
        assert_eq!(id("a/b"), "a%2Fb@n");
        assert_eq!(id(" a"), "%20a@n");
        assert_eq!(id("a%2Fb"), "a%252Fb@n");
        let long = [
            id(&"x".repeat(200)),
            id(&"x".repeat(201)),
            id(&"ä".repeat(100)),
        ];
        assert!(long.iter().all(|id| id.len() <= 128), "{long:?}");
        assert_ne!(long[0], long[1]);
        assert!(foreign_id("", None).is_err());
        assert_eq!(foreign_id("..", None).unwrap().as_str(), "%2E%2E");
    }

    fn label() -> impl Strategy<Value = String> {
        "[^\\p{C}\\s/][^\\p{C}/]{0,20}[^\\p{C}\\s/]"
    }

    prop_compose! {
        fn instances()(
            service in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}[a-z0-9]",
            id in label(),
            version in proptest::option::of(label()),
            zone in proptest::option::of(label()),
            address in prop_oneof!["10\\.[0-9]\\.0\\.1:80", "\\[2001:db8::[1-9]\\]:1", "\\[fe80::1%[1-9]\\]:9", "h[a-z]{1,9}\\.x:443"],
            alternates in proptest::collection::vec("10\\.0\\.0\\.[1-9]:81", 0..3),
            status in 0..Status::ALL.len(),
            weight: u16,
            pairs in proptest::collection::btree_map("[!-<>-~]{1,20}", "[^\\x00]{0,40}", 0..80),
            long in 0..4096_usize,
            endpoints in proptest::collection::vec((label(), proptest::collection::btree_map("[!-<>-~]{1,9}", "[^\\x00]{0,9}", 0..3)), 0..3),
        ) -> Instance {
            let mut builder: InstanceBuilder = Instance::new(service, address).id(id).weight(weight).status(Status::ALL[status]);
            if let Some(version) = version { builder = builder.version(version); }
            if let Some(zone) = zone { builder = builder.zone(zone); }
            for alternate in alternates { builder = builder.alternate(alternate); }
            for (key, value) in pairs { builder = builder.meta(key, value); }
            for (name, pairs) in endpoints {
                let mut metadata = Metadata::new();
                for (key, value) in pairs { metadata.insert(key, value).unwrap(); }
                builder = builder.endpoint(Endpoint::new(name.try_into().unwrap()).with_metadata(metadata));
            }
            builder.meta("long", "x".repeat(long)).meta("consul-x", "1").meta("registry-id", "mine").build().unwrap()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_instance_reads_back(instance in instances(), go_micro: bool) {
            let format = if go_micro { Format::GoMicro } else { Format::Plain };
            let config = ConsulConfig::default().format(format).tag("a=b");
            let written = written(instance.clone(), &config);
            let meta = written["Meta"].as_object().unwrap();
            prop_assert!(meta.len() <= 64);
            for (key, value) in meta {
                prop_assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
                prop_assert!(value.as_str().unwrap().len() <= 512 && !key.starts_with("consul-"));
            }
            prop_assert_eq!(read(instance.service.as_str(), &answered(&written)), [instance]);
        }

        #[test]
        fn no_answer_makes_it_panic(
            text in prop_oneof![".*", "\\[\\{\"Node\":\\{.{0,20}\\},\"Service\":\\{.{0,40}\\}\\}\\]"],
            id in ".{0,200}", node in ".{0,9}", address in ".{0,20}", port: i64,
            tags in proptest::collection::vec("(version=|zone=|status=|alternate=|endpoint=|meta\\.|[tev]-|[tev]=)?.{0,30}", 0..6),
            meta in proptest::collection::hash_map("(registry-id|registry-owner|registry-weight|.{0,9})", ".{0,9}", 0..6),
        ) {
            let _ = serde_json::from_str::<Vec<Entry>>(&text);
            let answer = json!([{
                "Node": { "Node": node, "Address": address },
                "Service": { "ID": id, "Service": "web", "Tags": tags, "Meta": meta, "Port": port, "Address": address },
                "Checks": null,
            }]);
            let decoded = decode(&service("web"), serde_json::from_value(answer).unwrap());
            prop_assert_eq!(decoded.instances.len() + decoded.skipped.len(), 1);
        }
    }
}
