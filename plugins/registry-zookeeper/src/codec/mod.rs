//! The JSON of Curator's service discovery, with the payload of Spring Cloud.
//!
//! What the form has no place for stands in a top-level object `micro`, which the readers of Curator and Spring pass
//! over. Zone and status are in Spring's metadata too, where its programs look for them; `micro` names those copies,
//! so that they do not come back as metadata.

use std::collections::BTreeMap;
use std::time::SystemTime;

use registry_core::{
    Address, Endpoint, Error, ErrorKind, Host, Instance, InstanceId, Label, Metadata, Result,
    ServiceName, Status,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const PAYLOAD: &str = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance";
/// Spring's key for whether an instance may be called.
const STATUS: &str = "instance_status";
const UP: &str = "UP";
const OUT: &str = "OUT_OF_SERVICE";
/// Spring's key for the zone.
const ZONE: &str = "zone";

/// The record of an instance, in the order of fields that Curator writes.
pub(crate) fn encode(instance: &Instance) -> String {
    let mut metadata: BTreeMap<&str, &str> = instance.metadata.iter().collect();
    let mut copies = Vec::new();
    let status = match instance.status {
        Status::Up | Status::Warning => UP,
        _ => OUT,
    };
    let zone = instance.zone.as_ref().map(Label::as_str);
    for (key, value) in [(STATUS, Some(status)), (ZONE, zone)] {
        if let Some(value) = value
            && !metadata.contains_key(key)
        {
            metadata.insert(key, value);
            copies.push(key.to_owned());
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let record = Out {
        name: instance.service.as_str(),
        id: instance.id.as_str(),
        address: host(instance.address.host()),
        port: instance.address.port(),
        ssl_port: (),
        payload: PayloadOut {
            class: PAYLOAD,
            id: instance.service.as_str(),
            name: instance.service.as_str(),
            metadata,
        },
        // A clock before 1970 is as good as none.
        registered: now.map_or(0, |time| time.as_millis() as u64),
        service_type: "DYNAMIC",
        uri: Uri::default(),
        micro: Micro {
            version: instance
                .version
                .as_ref()
                .map(|version| version.as_str().to_owned()),
            zone: zone.map(str::to_owned),
            weight: instance.weight,
            status: instance.status.as_str().to_owned(),
            alternates: instance
                .alternates
                .iter()
                .map(|a| a.as_str().to_owned())
                .collect(),
            endpoints: instance.endpoints.iter().map(endpoint).collect(),
            copies,
        },
    };
    // It fails for maps whose keys are no text, and for writers that fail: there is neither.
    serde_json::to_string(&record).expect("texts and numbers have a JSON form")
}

/// The instance of a record, whether we or a Java program wrote it.
///
/// # Errors
/// `Protocol` when it is no JSON of this form, or a value is outside of what the types allow; the source says which.
pub(crate) fn decode(json: &[u8]) -> Result<Instance> {
    let record: In = serde_json::from_slice(json)
        .map_err(|error| bad("it is not of this form").because(error))?;
    record
        .read()
        .map_err(|error| bad("it holds a value that is refused").because(error))
}

#[derive(Serialize)]
struct Out<'a> {
    name: &'a str,
    id: &'a str,
    address: String,
    port: u16,
    #[serde(rename = "sslPort")]
    ssl_port: (),
    payload: PayloadOut<'a>,
    #[serde(rename = "registrationTimeUTC")]
    registered: u64,
    #[serde(rename = "serviceType")]
    service_type: &'static str,
    #[serde(rename = "uriSpec")]
    uri: Uri,
    micro: Micro,
}

#[derive(Serialize)]
struct PayloadOut<'a> {
    #[serde(rename = "@class")]
    class: &'static str,
    id: &'a str,
    name: &'a str,
    metadata: BTreeMap<&'a str, &'a str>,
}

/// `{scheme}://{address}:{port}`: without it Spring's `getUri()` is empty.
#[derive(Serialize)]
struct Uri {
    parts: [Part; 5],
}

#[derive(Serialize)]
struct Part {
    value: &'static str,
    variable: bool,
}

impl Default for Uri {
    fn default() -> Self {
        let part = |value, variable| Part { value, variable };
        Self {
            parts: [
                part("scheme", true),
                part("://", false),
                part("address", true),
                part(":", false),
                part("port", true),
            ],
        }
    }
}

/// What the form has no place for.
#[derive(Serialize, Deserialize)]
struct Micro {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    weight: u16,
    status: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alternates: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<(String, BTreeMap<String, String>)>,
    /// The keys of the metadata that are copies for Spring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    copies: Vec<String>,
}

#[derive(Deserialize)]
struct In {
    name: Option<String>,
    id: Option<String>,
    address: Option<String>,
    port: Option<Port>,
    #[serde(rename = "sslPort")]
    ssl_port: Option<Port>,
    payload: Option<Value>,
    enabled: Option<bool>,
    micro: Option<Micro>,
}

/// Jackson reads a number in quotes too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

impl Port {
    fn read(&self) -> Option<u16> {
        match self {
            Self::Number(port) => Some(*port),
            Self::Text(text) => text.parse().ok(),
        }
        .filter(|port| *port > 0)
    }
}

impl In {
    fn read(self) -> Result<Instance> {
        let port = [&self.port, &self.ssl_port];
        let port = port.into_iter().flatten().find_map(Port::read).unwrap_or(0);
        let address = Address::try_from((self.address.as_deref().unwrap_or_default(), port));
        let address = match self.address.as_deref().and_then(scoped) {
            Some((ip, scope)) => format!("[{ip}%{scope}]:{port}").parse(),
            None => address,
        }?;
        let service = ServiceName::try_from(self.name.unwrap_or_default())?;
        let id = InstanceId::try_from(self.id.unwrap_or_default())?;
        let mut pairs = pairs(self.payload);
        let mut builder = Instance::new(service, address).id(id);
        match self.micro {
            Some(micro) => {
                for key in &micro.copies {
                    pairs.remove(key);
                }
                builder = builder
                    .weight(micro.weight)
                    .status(Status::from_word(&micro.status));
                if let Some(version) = micro.version {
                    builder = builder.version(version);
                }
                if let Some(zone) = micro.zone {
                    builder = builder.zone(zone);
                }
                for address in micro.alternates {
                    builder = builder.alternate(address);
                }
                for (name, pairs) in micro.endpoints {
                    let endpoint = Endpoint::new(name.try_into()?);
                    builder = builder.endpoint(endpoint.with_metadata(metadata(pairs)));
                }
            }
            None => {
                builder = builder.status(match (self.enabled, pairs.remove(STATUS).as_deref()) {
                    (Some(false), _) | (_, Some(OUT)) => Status::Maintenance,
                    (_, None | Some(UP)) => Status::Up,
                    _ => Status::Unknown,
                });
                if let Some(zone) = pairs
                    .get(ZONE)
                    .and_then(|zone| Label::try_from(&**zone).ok())
                {
                    builder = builder.zone(zone);
                }
            }
        }
        builder.metadata(metadata(pairs)).build()
    }
}

/// The pairs of text in a payload: those of Spring's metadata, or those of a plain map.
fn pairs(payload: Option<Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(mut map)) = payload else {
        return BTreeMap::new();
    };
    let map = match map.get("@class").and_then(Value::as_str) {
        Some(PAYLOAD) => match map.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => return BTreeMap::new(),
        },
        _ => map,
    };
    let text = |(key, value)| match value {
        Value::String(text) => Some((key, text)),
        Value::Number(number) => Some((key, number.to_string())),
        Value::Bool(flag) => Some((key, flag.to_string())),
        _ => None,
    };
    map.into_iter()
        .filter(|(key, _)| key != "@class")
        .filter_map(text)
        .collect()
}

/// The pairs that can be held.
fn metadata(pairs: BTreeMap<String, String>) -> Metadata {
    let mut metadata = Metadata::new();
    for (key, value) in pairs {
        // A pair that is refused leaves the metadata as it was.
        let _ = metadata.insert(key, value);
    }
    metadata
}

fn endpoint(endpoint: &Endpoint) -> (String, BTreeMap<String, String>) {
    let pairs = endpoint.metadata.iter();
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    (endpoint.name.as_str().to_owned(), pairs.collect())
}

fn host(host: &Host) -> String {
    match host {
        Host::V4(ip) => ip.to_string(),
        Host::V6(ip, 0) => ip.to_string(),
        Host::V6(ip, scope) => format!("{ip}%{scope}"),
        Host::Name(name) => name.to_string(),
    }
}

fn scoped(text: &str) -> Option<(&str, &str)> {
    text.split_once('%').filter(|(ip, _)| ip.contains(':'))
}

fn bad(why: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("a record is not a service of Curator: {why}"),
    )
}

#[cfg(test)]
mod tests;
