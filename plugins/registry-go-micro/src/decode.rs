//! From the record to an instance.

use std::collections::BTreeMap;

use registry_core::{
    Address, Endpoint, Error, ErrorKind, Instance, InstanceId, Label, Metadata, Result,
    ServiceName, Status,
};
use serde::Deserialize;

use crate::segment;

/// The instance of a record.
///
/// # Errors
/// `Protocol` when it is no JSON of a service, has no name, or not exactly one node; when a name, an id, the version
/// or an address is outside of what the types allow. The source says which.
pub fn decode(json: &[u8]) -> Result<Instance> {
    let service: Service = parse(json)?;
    let name = service.name.unwrap_or_default();
    if name.is_empty() {
        return Err(bad("it has no name"));
    }
    let nodes = service.nodes.unwrap_or_default();
    let count = nodes.len();
    let Ok([node]) = <[Node; 1]>::try_from(nodes) else {
        return Err(bad("it does not have exactly one node").with("nodes", count));
    };
    let name = ServiceName::try_from(&*segment(&name)).map_err(refused)?;
    let id = node.id.as_deref().unwrap_or_default();
    let id = InstanceId::try_from(&*segment(id)).map_err(refused)?;
    let alternates = node.alternates.unwrap_or_default();
    let address = address(node.address.unwrap_or_default(), node.port).map_err(refused)?;

    let mut builder = Instance::new(name, address)
        .id(id)
        .weight(node.weight.unwrap_or(1))
        .status(node.status.as_deref().map_or(Status::Up, Status::from_word))
        .metadata(metadata([node.metadata, service.metadata]));
    if let Some(version) = service.version.filter(|version| !version.is_empty()) {
        builder = builder.version(version);
    }
    if let Some(zone) = node.zone.filter(|zone| !zone.is_empty()) {
        builder = builder.zone(zone);
    }
    for address in alternates {
        builder = builder.alternate(address);
    }
    for endpoint in service.endpoints.unwrap_or_default() {
        if let Ok(endpoint) = endpoint.read() {
            builder = builder.endpoint(endpoint);
        }
    }
    builder.build().map_err(refused)
}

/// One endpoint, as it stands in a record and in Consul's `e-` tags.
///
/// # Errors
/// `Protocol` when it is no JSON of an endpoint, or its name is no [`Label`].
pub fn decode_endpoint(json: &[u8]) -> Result<Endpoint> {
    parse::<EndpointIn>(json)?.read().map_err(refused)
}

#[derive(Deserialize)]
struct Service {
    name: Option<String>,
    version: Option<String>,
    metadata: Option<Pairs>,
    endpoints: Option<Vec<EndpointIn>>,
    nodes: Option<Vec<Node>>,
}

#[derive(Deserialize)]
struct Node {
    id: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    metadata: Option<Pairs>,
    zone: Option<String>,
    weight: Option<u16>,
    status: Option<String>,
    alternates: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct EndpointIn {
    name: Option<String>,
    metadata: Option<Pairs>,
}

/// Go reads `null` as an empty text.
type Pairs = BTreeMap<String, Option<String>>;

impl EndpointIn {
    fn read(self) -> Result<Endpoint> {
        let name = Label::try_from(self.name.unwrap_or_default())?;
        Ok(Endpoint::new(name).with_metadata(metadata([self.metadata])))
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| bad("it is not of this form").because(error))
}

/// The pairs that can be held, the first of two with the same key.
fn metadata<const N: usize>(sources: [Option<Pairs>; N]) -> Metadata {
    let mut metadata = Metadata::new();
    for (key, value) in sources.into_iter().flatten().flatten() {
        if metadata.get(&key).is_none() {
            // A pair that is refused leaves the metadata as it was.
            let _ = metadata.insert(key, value.unwrap_or_default());
        }
    }
    metadata
}

fn address(text: String, port: Option<u16>) -> Result<Address> {
    match (text.parse(), port) {
        (Err(_), Some(port)) if port > 0 && text.parse::<std::net::Ipv6Addr>().is_ok() => {
            format!("[{text}]:{port}").parse()
        }
        (Err(_), Some(port)) if port > 0 => format!("{text}:{port}").parse(),
        (address, _) => address,
    }
}

fn bad(why: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("a record is not a service of go-micro: {why}"),
    )
}

fn refused(error: Error) -> Error {
    bad("it holds a value that is refused").because(error)
}
