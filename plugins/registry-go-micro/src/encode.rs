//! From an instance to the record.

use registry_core::{Address, Endpoint, Instance, Metadata, Status};
use serde::{Serialize, Serializer};

/// The record of an instance, in the order of fields that go-micro v4 writes.
pub fn encode(instance: &Instance) -> String {
    let endpoints: Vec<_> = instance.endpoints.iter().map(endpoint).collect();
    json(&Service {
        name: instance.service.as_str(),
        version: instance.version.as_ref().map_or("", |label| label.as_str()),
        metadata: (),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
        nodes: [Node {
            metadata: &instance.metadata,
            id: instance.id.as_str(),
            address: instance.address.as_str(),
            zone: instance.zone.as_ref().map(|label| label.as_str()),
            weight: (instance.weight != 1).then_some(instance.weight),
            status: (instance.status != Status::Up).then_some(instance.status.as_str()),
            alternates: instance.alternates.iter().map(Address::as_str).collect(),
        }],
    })
}

/// One endpoint, as it stands in a record and in Consul's `e-` tags.
pub fn encode_endpoint(endpoint: &Endpoint) -> String {
    json(&self::endpoint(endpoint))
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    version: &'a str,
    /// One instance is one record, so that everything it says stands at its node.
    metadata: (),
    endpoints: Option<Vec<EndpointOut<'a>>>,
    nodes: [Node<'a>; 1],
}

#[derive(Serialize)]
struct Node<'a> {
    #[serde(serialize_with = "pairs")]
    metadata: &'a Metadata,
    id: &'a str,
    address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alternates: Vec<&'a str>,
}

#[derive(Serialize)]
struct EndpointOut<'a> {
    request: (),
    response: (),
    #[serde(serialize_with = "pairs")]
    metadata: &'a Metadata,
    name: &'a str,
}

fn endpoint(endpoint: &Endpoint) -> EndpointOut<'_> {
    EndpointOut {
        request: (),
        response: (),
        metadata: &endpoint.metadata,
        name: endpoint.name.as_str(),
    }
}

fn pairs<S: Serializer>(metadata: &&Metadata, serializer: S) -> Result<S::Ok, S::Error> {
    if metadata.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_map(metadata.iter())
    }
}

fn json(value: &impl Serialize) -> String {
    // It fails for maps whose keys are no text, and for writers that fail: there is neither.
    serde_json::to_string(value).expect("texts and numbers have a JSON form")
}
