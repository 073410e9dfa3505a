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
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// What Curator 5.8 and Spring Cloud ZooKeeper 4.3 wrote.
    const SPRING: &str = include_str!("../tests/golden/spring.json");
    const CURATOR: &str = include_str!("../tests/golden/curator.json");

    fn read(json: &str) -> Instance {
        decode(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_records_of_java_programs_are_read() {
        let spring = Instance::new("cur-svc", "127.0.0.1:18100")
            .id("spring-1")
            .zone("z1")
            .meta("zone", "z1")
            .meta("v", "1");
        assert_eq!(read(SPRING), spring.build().unwrap());
        let plain = Instance::new("cur-svc", "127.0.0.1:18101")
            .id("plain-1")
            .build()
            .unwrap();
        assert_eq!(read(CURATOR), plain);
    }

    #[test]
    fn what_we_write_has_the_shape_that_java_programs_read() {
        let ours = encode(&read(SPRING));
        let mut ours: serde_json::Map<_, _> = serde_json::from_str(&ours).unwrap();
        let theirs: serde_json::Map<String, Value> = serde_json::from_str(SPRING).unwrap();
        assert!(ours.remove("micro").unwrap().is_object());
        for (key, value) in &theirs {
            match key.as_str() {
                "registrationTimeUTC" => assert!(ours[key].is_u64()),
                // Spring has the name of the application there.
                "payload" => {
                    let (mut ours, mut theirs) = (ours[key].clone(), value.clone());
                    ours["id"].take();
                    theirs["id"].take();
                    assert_eq!(ours, theirs);
                }
                _ => assert_eq!(&ours[key], value, "{key}"),
            }
        }
        assert_eq!(ours.len(), theirs.len());
    }

    #[test]
    fn the_fields_stand_in_curators_order() {
        let ours = encode(&read(SPRING));
        let order = [
            "\"name\"",
            "\"id\"",
            "\"address\"",
            "\"port\"",
            "\"sslPort\"",
            "\"payload\"",
            "\"@class\"",
            "\"metadata\"",
            "\"registrationTimeUTC\"",
            "\"serviceType\"",
            "\"uriSpec\"",
            "\"micro\"",
        ];
        let places: Vec<_> = order
            .iter()
            .map(|field| ours.find(field).unwrap())
            .collect();
        assert!(places.is_sorted(), "{ours}");
    }

    #[test]
    fn whoever_may_not_be_called_is_out_of_service_for_spring() {
        for (status, word) in [
            (Status::Up, UP),
            (Status::Warning, UP),
            (Status::Draining, OUT),
            (Status::Down, OUT),
        ] {
            let instance = Instance::new("s", "h:1")
                .id("a")
                .status(status)
                .build()
                .unwrap();
            let record: Value = serde_json::from_str(&encode(&instance)).unwrap();
            assert_eq!(record["payload"]["metadata"][STATUS], word);
        }
    }

    #[test]
    fn every_variant_that_curator_reads_is_read() {
        let base = r#""name":"s","id":"a","address":"10.0.0.1","port":80"#;
        let plain = Instance::new("s", "10.0.0.1:80").id("a");
        for (rest, expected) in [
            ("", plain.clone()),
            (
                r#","payload":null,"sslPort":null,"serviceType":null,"uriSpec":null"#,
                plain.clone(),
            ),
            (
                r#","payload":"hello","extra":{"x":[1]},"enabled":true"#,
                plain.clone(),
            ),
            (
                r#","payload":{"@class":"java.util.LinkedHashMap","k":"v"}"#,
                plain.clone().meta("k", "v"),
            ),
            (
                r#","enabled":false"#,
                plain.clone().status(Status::Maintenance),
            ),
        ] {
            assert_eq!(
                read(&format!("{{{base}{rest}}}")),
                expected.build().unwrap(),
                "{rest}"
            );
        }
        let spring = |rest: &str| {
            read(&format!(
                r#"{{{base},"payload":{{"@class":"{PAYLOAD}","id":"x","name":"s","new":1{rest}}}}}"#
            ))
        };
        assert_eq!(spring(""), plain.clone().build().unwrap());
        assert_eq!(
            spring(r#","metadata":null"#),
            plain.clone().build().unwrap()
        );
        assert_eq!(
            spring(
                r#","metadata":{"n":7,"b":true,"deep":{},"bad key":"x","instance_status":"OUT_OF_SERVICE"}"#
            ),
            plain
                .meta("n", "7")
                .meta("b", "true")
                .status(Status::Maintenance)
                .build()
                .unwrap()
        );
        for (address, port, expected) in [
            ("\"::1\"", "\"80\"", "[::1]:80"),
            ("\"fe80::1%3\"", "80", "[fe80::1%3]:80"),
            ("\"h\"", "null,\"sslPort\":443", "h:443"),
        ] {
            let record = format!(r#"{{"name":"s","id":"a","address":{address},"port":{port}}}"#);
            assert_eq!(read(&record).address.as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_record_says_why() {
        for (record, why) in [
            ("", "EOF"),
            ("null", "null"),
            ("[]", "invalid length"),
            ("{}", "address"),
            (r#"{"name":"s","id":"a","address":"h","port":0}"#, "port 0"),
            (
                r#"{"name":"s","id":"a","address":"h","port":70000}"#,
                "Port",
            ),
            (
                r#"{"name":"a b","id":"a","address":"h","port":1}"#,
                "service name",
            ),
            (r#"{"name":"s","address":"h","port":1}"#, "instance id"),
        ] {
            let error = decode(record.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{record}");
            assert!(format!("{error:?}").contains(why), "{record}: {error:?}");
        }
    }

    fn pairs_of_metadata() -> impl Strategy<Value = Metadata> {
        let keys = prop_oneof![
            "[!-<>-~]{1,8}",
            Just(STATUS.to_owned()),
            Just(ZONE.to_owned())
        ];
        btree_map(keys, "[^\0]{0,12}", 0..5).prop_map(metadata)
    }

    fn label() -> impl Strategy<Value = Label> {
        any::<String>().prop_filter_map("no label", |text| Label::try_from(text).ok())
    }

    fn address() -> impl Strategy<Value = Address> {
        let ip = any::<std::net::SocketAddr>()
            .prop_filter_map("no address", |socket| Address::try_from(socket).ok());
        let name = ("[a-z][a-z0-9.-]{0,20}x", 1..=u16::MAX)
            .prop_filter_map("no host", |(host, port)| {
                format!("{host}:{port}").parse().ok()
            });
        prop_oneof![ip, name]
    }

    fn instance() -> impl Strategy<Value = Instance> {
        let endpoint = (label(), pairs_of_metadata())
            .prop_map(|(name, metadata)| Endpoint::new(name).with_metadata(metadata));
        let state = (
            prop::sample::select(Status::ALL.to_vec()),
            any::<u16>(),
            option::of(label()),
            option::of(label()),
        );
        let lists = (
            vec(address(), 0..3),
            pairs_of_metadata(),
            vec(endpoint, 0..3),
        );
        (label(), address(), state, lists).prop_filter_map(
            "no id",
            |(id, address, (status, weight, version, zone), (alternates, metadata, endpoints))| {
                let id = InstanceId::try_from(id.as_str()).ok()?;
                let start = Instance::new("s", address)
                    .id(id)
                    .status(status)
                    .weight(weight);
                let mut instance = start.metadata(metadata).build().ok()?;
                instance.version = version;
                instance.zone = zone;
                instance.alternates = alternates;
                instance.endpoints = endpoints;
                Some(instance)
            },
        )
    }

    proptest! {
        #[test]
        fn every_instance_comes_back_as_it_was(instance in instance()) {
            prop_assert_eq!(decode(encode(&instance).as_bytes()).unwrap(), instance);
        }

        #[test]
        fn bytes_that_are_no_record_are_an_error(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&bytes).unwrap_err().kind(), ErrorKind::Protocol);
        }

        #[test]
        fn a_record_that_was_damaged_never_panics(
            instance in instance(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut record = encode(&instance).into_bytes();
            for (place, byte) in damage {
                let place = place.index(record.len());
                record[place] = byte;
            }
            let _ = decode(&record);
            record.truncate(keep.index(record.len()));
            prop_assert!(decode(&record).is_err());
        }
    }
}
