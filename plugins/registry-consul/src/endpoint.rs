//! One endpoint as JSON, in go-micro's form.

use registry_core::{Endpoint, Metadata};

pub(crate) fn encode(endpoint: &Endpoint) -> String {
    let metadata: serde_json::Map<_, _> = endpoint
        .metadata
        .iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    serde_json::json!({ "name": endpoint.name.as_str(), "metadata": metadata }).to_string()
}

pub(crate) fn decode(json: &str) -> Option<Endpoint> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let mut metadata = Metadata::new();
    for (key, value) in value["metadata"].as_object().into_iter().flatten() {
        let _ = metadata.insert(key, value.as_str()?);
    }
    Some(Endpoint::new(value["name"].as_str()?.try_into().ok()?).with_metadata(metadata))
}
