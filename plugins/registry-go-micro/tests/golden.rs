//! What Go programs wrote, read and compared with what we write.

use registry_core::{Instance, Status};
use registry_go_micro::{decode, decode_endpoint, encode, encode_endpoint, segment};
use serde_json::{Value, json};

const GOLDEN: [&str; 3] = [
    include_str!("golden/etcd-v2.txt"),
    include_str!("golden/etcd-v4.txt"),
    include_str!("golden/zookeeper-v2.txt"),
];

fn record(golden: &str) -> (&str, &str) {
    let (key, value) = golden.split_once('\n').unwrap();
    (key, value.trim_end())
}

#[test]
fn the_records_of_go_programs_are_read() {
    for golden in GOLDEN {
        let (key, value) = record(golden);
        let instance = decode(value.as_bytes()).unwrap();
        let tail = format!("/{}/{}", instance.service, instance.id);
        assert!(key.ends_with(&tail), "{key} is not where {tail} is");
        let expected = Instance::new("my-greeter", "10.0.0.1:8080")
            .id("greeter-1")
            .version("1.0.0")
            .meta("transport", "http")
            .meta("zone", "<eu&>")
            .meta("owner", "a")
            .endpoint(
                decode_endpoint(br#"{"name":"Say.Hello","metadata":{"stream":"true"}}"#).unwrap(),
            )
            .build()
            .unwrap();
        assert_eq!(instance, expected);
    }
}

#[test]
fn what_we_write_differs_only_where_it_must() {
    for golden in GOLDEN {
        let (_, theirs) = record(golden);
        let ours = encode(&decode(theirs.as_bytes()).unwrap());
        let mut ours: Value = serde_json::from_str(&ours).unwrap();
        let mut theirs: Value = serde_json::from_str(theirs).unwrap();
        // Our names have no '/', which stands for '-' in every key.
        for pointer in ["/name", "/nodes/0/id"] {
            let text = theirs.pointer_mut(pointer).unwrap();
            *text = segment(text.as_str().unwrap()).into();
        }
        // Everything that an instance says stands at its node.
        let owner = theirs["metadata"].take()["owner"].take();
        theirs["nodes"][0]["metadata"]["owner"] = owner;
        // An endpoint has no types here.
        for field in ["request", "response"] {
            let endpoint = &mut theirs["endpoints"][0][field];
            assert!(!endpoint.take().is_null());
            assert_eq!(ours["endpoints"][0][field].take(), Value::Null);
        }
        assert_eq!(ours, theirs);
    }
}

#[test]
fn the_fields_stand_in_the_order_of_v4() {
    let (_, value) = record(GOLDEN[1]);
    let ours = encode(&decode(value.as_bytes()).unwrap());
    let places: Vec<_> = [
        "\"name\":\"my",
        "\"version\"",
        "\"endpoints\"",
        "\"request\"",
        "\"response\"",
        "\"stream\"",
        "\"name\":\"Say",
        "\"nodes\"",
        "\"transport\"",
        "\"id\"",
        "\"address\"",
    ]
    .iter()
    .map(|field| ours.find(field).unwrap())
    .collect();
    assert!(places.is_sorted(), "{ours}");
}

#[test]
fn what_go_micro_lacks_stands_at_the_node() {
    let instance = Instance::new("web", "10.0.0.1:80")
        .id("a")
        .zone("eu")
        .weight(0)
        .status(Status::Draining)
        .alternate("[::1]:80")
        .build()
        .unwrap();
    let record: Value = serde_json::from_str(&encode(&instance)).unwrap();
    assert_eq!(
        record,
        json!({"name": "web", "version": "", "metadata": null, "endpoints": null, "nodes": [
            {"metadata": null, "id": "a", "address": "10.0.0.1:80", "zone": "eu", "weight": 0,
             "status": "draining", "alternates": ["[::1]:80"]}
        ]})
    );
}

#[test]
fn an_endpoint_is_written_as_consuls_tags_hold_it() {
    let endpoint = decode_endpoint(
        br#"{"request":{"name":"R"},"metadata":{"stream":"true"},"name":"Say.Hello"}"#,
    )
    .unwrap();
    assert_eq!(
        encode_endpoint(&endpoint),
        r#"{"request":null,"response":null,"metadata":{"stream":"true"},"name":"Say.Hello"}"#
    );
}
