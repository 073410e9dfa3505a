//! How an instance is written to Eureka, and how what is there is read, whoever wrote it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Address, Endpoint, Error, ErrorKind, Host, Instance, InstanceId, InstanceKey, Label, Metadata,
    Result, ServiceName, Status,
};
use serde_json::{Map, Value, json};

use crate::config::LONGEST_LEASE;
use crate::escape;
use crate::json::{Port, Record};

/// Metadata of ours that has no place of its own in Eureka. The first one marks a record as ours.
const SERVICE: &str = "registry.service";
const ALTERNATES: &str = "registry.alternates";
const STATUS: &str = "registry.status";
const PAIRS: &str = "registry.pairs";
const OURS: &str = "registry.";

/// Metadata by which other programs say what an instance has a field for. The last two are go-micro's.
const ZONE: &str = "zone";
const VERSION: &str = "version";
const WEIGHT: &str = "weight";
const ENDPOINTS: &str = "endpoints";
const MICRO_METADATA: &str = "metadata";
const MICRO_ID: &str = "instanceId";

/// An instance as it is written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The application's name: the service's in upper case.
    pub(crate) app: String,
    /// The id at the server.
    pub(crate) id: String,
    /// What was granted.
    pub(crate) ttl: Duration,
    record: Map<String, Value>,
}

impl Written {
    /// How an instance is written, with a lease that is no shorter than `ttl`.
    ///
    /// # Errors
    /// `Invalid` for what the server would take and could not give back.
    pub(crate) fn new(instance: &Instance, ttl: Duration) -> Result<Self> {
        let key = instance.key();
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        if seconds > LONGEST_LEASE {
            let why = format!(
                "the TTL is refused; Eureka takes at most {LONGEST_LEASE} s, and ends a longer lease at once"
            );
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", key));
        }
        let metadata = metadata(instance);
        if let Some((name, _)) = metadata
            .iter()
            .find(|(_, value)| !escape::is_xml_text(value))
        {
            let why = "a text is refused; allowed: what XML can carry, without U+FFFE and U+FFFF";
            return Err(Error::new(ErrorKind::Invalid, why)
                .with("instance", key)
                .with("field", name));
        }
        let service = instance.service.as_str();
        let (app, id) = (app(&instance.service), id(&key));
        let (host, ip) = host(&instance.address);
        let record = json!({
            "instanceId": id,
            "app": app,
            "hostName": host,
            "ipAddr": ip,
            "vipAddress": service,
            "secureVipAddress": service,
            "status": word(instance.status),
            "port": { "$": instance.address.port(), "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" },
            "countryId": 1,
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": {
                "renewalIntervalInSecs": (seconds / 3).max(1),
                "durationInSecs": seconds,
            },
            "metadata": metadata,
        });
        let Value::Object(record) = record else {
            unreachable!("it was written as an object")
        };
        Ok(Self {
            app,
            id,
            ttl: Duration::from_secs(seconds),
            record,
        })
    }

    /// The body of the request that registers it, as it is at this time.
    pub(crate) fn body(&self, dirty: i64) -> Vec<u8> {
        let mut record = self.record.clone();
        record.insert("lastDirtyTimestamp".to_owned(), dirty.to_string().into());
        json!({ "instance": record }).to_string().into_bytes()
    }
}

/// The name of a service's application.
pub(crate) fn app(service: &ServiceName) -> String {
    service.as_str().to_ascii_uppercase()
}

/// The id at the server, where ids are told apart in all services together: status overrides go by the id alone, and
/// services whose names differ by case alone share an application.
pub(crate) fn id(key: &InstanceKey) -> String {
    format!("{}:{}", key.service, escape::id(key.id.as_str()))
}

/// What the server is told of a status. Only these are always taken: between UP and OUT_OF_SERVICE the server lets no
/// registrant go, and an instance of UNKNOWN is refused its renewals.
pub(crate) const fn word(status: Status) -> &'static str {
    match status {
        Status::Up | Status::Warning => "UP",
        Status::Starting => "STARTING",
        _ => "DOWN",
    }
}

/// The host twice: as a part of a URL, and as it is.
fn host(address: &Address) -> (String, String) {
    match address.host() {
        Host::V4(ip) => (ip.to_string(), ip.to_string()),
        Host::V6(ip, 0) => (format!("[{ip}]"), ip.to_string()),
        Host::V6(ip, scope) => (format!("[{ip}%{scope}]"), ip.to_string()),
        Host::Name(name) => (name.to_string(), name.to_string()),
    }
}

fn metadata(instance: &Instance) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    let mut metadata: BTreeMap<Cow<'_, str>, Cow<'_, str>> = BTreeMap::new();
    let mut hidden = Map::new();
    for (key, value) in instance.metadata.iter() {
        if is_reserved(key) || !escape::is_xml_name(key) || !escape::is_xml_text(value) {
            hidden.insert(key.to_owned(), value.into());
        } else {
            metadata.insert(key.into(), value.into());
        }
    }
    let mut set = |key: &'static str, value: Cow<'_, str>| {
        metadata.insert(key.into(), value.into_owned().into());
    };
    set(SERVICE, instance.service.as_str().into());
    if !hidden.is_empty() {
        set(PAIRS, escape::json(&Value::Object(hidden)).into());
    }
    if let Some(zone) = &instance.zone {
        set(ZONE, zone.as_str().into());
    }
    if let Some(version) = &instance.version {
        set(VERSION, version.as_str().into());
    }
    if instance.weight != 1 {
        set(WEIGHT, instance.weight.to_string().into());
    }
    if native(word(instance.status)) != instance.status {
        set(STATUS, instance.status.as_str().into());
    }
    if !instance.alternates.is_empty() {
        let alternates: Vec<_> = instance.alternates.iter().map(Address::as_str).collect();
        set(ALTERNATES, alternates.join(",").into());
    }
    if !instance.endpoints.is_empty() {
        let endpoints = instance.endpoints.iter().map(endpoint).collect();
        set(ENDPOINTS, escape::json(&Value::Array(endpoints)).into());
    }
    metadata
}

/// Whether a key of metadata is ours to give a meaning.
fn is_reserved(key: &str) -> bool {
    key.starts_with(OURS)
        || [ZONE, VERSION, WEIGHT, ENDPOINTS, MICRO_METADATA, MICRO_ID].contains(&key)
}

/// An endpoint in go-micro's form.
fn endpoint(endpoint: &Endpoint) -> Value {
    let metadata: Map<_, _> = endpoint
        .metadata
        .iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    json!({ "name": endpoint.name.as_str(), "request": null, "response": null, "metadata": metadata })
}

fn endpoints(json: &str) -> Vec<Endpoint> {
    let Ok(Value::Array(endpoints)) = serde_json::from_str(json) else {
        return Vec::new();
    };
    let read = |endpoint: &Value| {
        let name = endpoint["name"].as_str()?.parse().ok()?;
        let mut metadata = Metadata::new();
        pairs(&endpoint["metadata"], &mut metadata);
        Some(Endpoint::new(name).with_metadata(metadata))
    };
    endpoints.iter().filter_map(read).collect()
}

/// The pairs of an object that are pairs of text.
fn pairs(object: &Value, metadata: &mut Metadata) {
    for (key, value) in object.as_object().into_iter().flatten() {
        if let Some(value) = value.as_str() {
            // A pair that an instance cannot carry is left out, and the instance is not.
            let _ = metadata.insert(key, value);
        }
    }
}

/// Why a record cannot be read as an instance.
#[derive(Debug)]
pub(crate) struct Undecodable(String);

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

impl Record<'_> {
    /// The id at the server, which takes the host's name where there is none.
    pub(crate) fn id(&self) -> &str {
        let present = |text: &&str| !text.is_empty();
        let id = self.instance_id.as_deref().filter(present);
        id.or(self.host_name.as_deref()).unwrap_or_default()
    }
}

/// The instance that a record describes.
pub(crate) fn decode(record: &Record<'_>) -> Result<Arc<Instance>, Undecodable> {
    let app = record
        .app
        .as_deref()
        .ok_or_else(|| Undecodable("it names no application".to_owned()))?;
    let named = |name: &str| record.metadata.iter().find(|(key, _)| key == name);
    let value = |name| named(name).map(|(_, value)| &**value);
    let ours = value(SERVICE).filter(|service| service.eq_ignore_ascii_case(app));
    let ours = ours.and_then(|service| {
        let id = record.id().strip_prefix(service)?.strip_prefix(':')?;
        Some((service, escape::read_id(id)?))
    });
    let (service, id) = match &ours {
        Some((service, id)) => (service.parse()?, id.parse()?),
        None => {
            let id = value(MICRO_ID).and_then(|id| id.parse().ok());
            let id: InstanceId = id.map_or_else(|| record.id().parse(), Ok)?;
            (service(record, app)?, id)
        }
    };
    let (address, others) = addresses(record)?;
    let mut instance = Instance::new(service, address).id(id).build()?;
    for (key, text) in &record.metadata {
        if let Kept::Yes = read(&mut instance, key, text, ours.is_some()) {
            let _ = instance.metadata.insert(&**key, &**text);
        }
    }
    if ours.is_none() {
        instance.alternates = others;
        instance.zone = instance
            .zone
            .or_else(|| record.zone.as_deref().and_then(label));
    }
    instance.status = status(record, value(STATUS).filter(|_| ours.is_some()));
    Ok(Arc::new(instance))
}

/// Whether a pair stays one of the instance's own.
enum Kept {
    Yes,
    No,
}

/// Reads a pair that has a meaning.
fn read(instance: &mut Instance, key: &str, text: &str, ours: bool) -> Kept {
    let understood = match key {
        ZONE => set(&mut instance.zone, label(text)),
        VERSION => set(&mut instance.version, label(text)),
        WEIGHT => text.parse().map(|weight| instance.weight = weight).is_ok(),
        ENDPOINTS => {
            instance.endpoints = endpoints(text);
            ours || !instance.endpoints.is_empty()
        }
        MICRO_METADATA if !ours => match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => {
                pairs(&object, &mut instance.metadata);
                true
            }
            _ => false,
        },
        MICRO_ID => !ours && instance.id.as_str() == text,
        PAIRS if ours => {
            pairs(
                &serde_json::from_str(text).unwrap_or_default(),
                &mut instance.metadata,
            );
            true
        }
        ALTERNATES if ours => {
            let alternates = text.split(',').filter_map(|text| text.parse().ok());
            instance.alternates = alternates.collect();
            true
        }
        key => ours && key.starts_with(OURS),
    };
    if understood { Kept::No } else { Kept::Yes }
}

fn set(field: &mut Option<Label>, label: Option<Label>) -> bool {
    let understood = label.is_some();
    *field = label;
    understood
}

fn label(text: &str) -> Option<Label> {
    text.parse().ok()
}

/// The service of a record that another program wrote: Spring gives its name to the VIP address, and the application's
/// name is that in upper case.
fn service(record: &Record<'_>, app: &str) -> Result<ServiceName, Undecodable> {
    let vip = record.vip.as_deref();
    let name = match vip.filter(|vip| vip.eq_ignore_ascii_case(app)) {
        Some(vip) => vip.parse(),
        None => app.to_ascii_lowercase().parse(),
    };
    Ok(name?)
}

/// The address to call, and others of the same instance.
fn addresses(record: &Record<'_>) -> Result<(Address, Vec<Address>), Undecodable> {
    let port =
        port(record).ok_or_else(|| Undecodable("it has no port from 1 to 65535".to_owned()))?;
    let hosts = [&record.host_name, &record.ip_addr];
    let hosts = hosts.into_iter().filter_map(|host| host.as_deref());
    let mut addresses: Vec<Address> = Vec::new();
    for address in hosts.filter_map(|host| address(host, port)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let mut addresses = addresses.into_iter();
    let address = addresses
        .next()
        .ok_or_else(|| Undecodable("it has no address to connect to".to_owned()))?;
    Ok((address, addresses.collect()))
}

/// The plain port if it is in use, else the secure one; programs on go-micro use theirs and say that they do not.
fn port(record: &Record<'_>) -> Option<u16> {
    let number = |port: Port| {
        let number = u16::try_from(port.number?).ok();
        number.filter(|number| *number > 0)
    };
    let plain = number(record.port).filter(|_| record.port.enabled != Some(false));
    let secure = number(record.secure_port).filter(|_| record.secure_port.enabled == Some(true));
    plain.or(secure).or_else(|| number(record.port))
}

fn address(host: &str, port: u16) -> Option<Address> {
    if host.starts_with('[') && host.ends_with(']') {
        return format!("{host}:{port}").parse().ok();
    }
    // go-micro writes host and port where others write the host.
    let whole = || host.parse().ok();
    Address::try_from((host, port)).ok().or_else(whole)
}

/// What an operator said goes before what the registrant says; what the registrant says goes by its own word where the
/// server's status is the one that he was given for it.
fn status(record: &Record<'_>, own: Option<&str>) -> Status {
    let now = record.status.as_deref().unwrap_or("UNKNOWN");
    let overridden = record.overridden.as_deref() == Some(now);
    match own.map(Status::from_word) {
        Some(own) if !overridden && word(own) == now => own,
        _ => native(now),
    }
}

fn native(word: &str) -> Status {
    match word {
        "UP" => Status::Up,
        "DOWN" => Status::Down,
        "STARTING" => Status::Starting,
        "OUT_OF_SERVICE" => Status::Maintenance,
        _ => Status::Unknown,
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
