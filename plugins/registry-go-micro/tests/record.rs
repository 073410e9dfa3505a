//! Round trips, foreign records, and bytes that are no record.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use registry_core::{
    Address, Endpoint, ErrorKind, Instance, InstanceId, Label, Metadata, ServiceName, Status,
};
use registry_go_micro::{decode, decode_endpoint, encode, encode_endpoint};

fn metadata() -> impl Strategy<Value = Metadata> {
    btree_map("[!-<>-~]{1,20}", "[^\0]{0,20}", 0..5).prop_map(|pairs| {
        let mut metadata = Metadata::new();
        for (key, value) in pairs {
            metadata.insert(key, value).unwrap();
        }
        metadata
    })
}

fn label() -> impl Strategy<Value = Label> {
    any::<String>().prop_filter_map("no label", |text| Label::try_from(text).ok())
}

fn id() -> impl Strategy<Value = InstanceId> {
    any::<String>().prop_filter_map("no id", |text| InstanceId::try_from(text).ok())
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

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (label(), metadata()).prop_map(|(name, metadata)| Endpoint::new(name).with_metadata(metadata))
}

fn instance() -> impl Strategy<Value = Instance> {
    let identity = (
        "[a-zA-Z0-9]([a-zA-Z0-9._-]{0,20}[a-zA-Z0-9])?",
        id(),
        address(),
    );
    let state = (
        prop::sample::select(Status::ALL.to_vec()),
        any::<u16>(),
        option::of(label()),
        option::of(label()),
    );
    let lists = (vec(address(), 0..3), metadata(), vec(endpoint(), 0..3));
    (identity, state, lists).prop_map(
        |(
            (service, id, address),
            (status, weight, version, zone),
            (alternates, metadata, endpoints),
        )| {
            let service = ServiceName::try_from(service).unwrap();
            let mut instance = Instance::new(service, address)
                .id(id)
                .status(status)
                .weight(weight)
                .metadata(metadata)
                .build()
                .unwrap();
            instance.version = version;
            instance.zone = zone;
            instance.alternates = alternates;
            instance.endpoints = endpoints;
            instance
        },
    )
}

proptest! {
    #[test]
    fn every_instance_comes_back_as_it_was(instance in instance()) {
        prop_assert_eq!(decode(encode(&instance).as_bytes()).unwrap(), instance);
    }

    #[test]
    fn every_endpoint_comes_back_as_it_was(endpoint in endpoint()) {
        prop_assert_eq!(decode_endpoint(encode_endpoint(&endpoint).as_bytes()).unwrap(), endpoint);
    }

    #[test]
    fn bytes_that_are_no_record_are_an_error(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(decode(&bytes).unwrap_err().kind(), ErrorKind::Protocol);
        prop_assert!(decode_endpoint(&bytes).is_err());
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

#[test]
fn what_is_missing_or_null_or_unknown_does_no_harm() {
    for record in [
        r#"{"name":"s","nodes":[{"id":"a","address":"10.0.0.1:80"}]}"#,
        r#"{"name":"s","version":null,"metadata":null,"endpoints":null,
            "nodes":[{"id":"a","address":"10.0.0.1:80","metadata":null,"zone":null,"weight":null,"status":null,
            "alternates":null,"port":null}]}"#,
        r#"{"name":"s","version":"","domain":{"x":[1]},"metadata":{},"endpoints":[],
            "nodes":[{"id":"a","address":"10.0.0.1:80","region":7}]}"#,
        r#"{"name":"s","endpoints":[{"name":""},{"name":null}],"metadata":{"not a key":"x"},
            "nodes":[{"id":"a","address":"10.0.0.1","port":80}]}"#,
    ] {
        let expected = Instance::new("s", "10.0.0.1:80").id("a").build().unwrap();
        assert_eq!(decode(record.as_bytes()).unwrap(), expected, "{record}");
    }
}

#[test]
fn the_nodes_metadata_wins_over_the_services() {
    let record = br#"{"name":"s","metadata":{"a":"service","b":null},
        "nodes":[{"id":"a","address":"10.0.0.1:80","metadata":{"a":"node"}}]}"#;
    let instance = decode(record).unwrap();
    assert_eq!(
        instance.metadata.iter().collect::<Vec<_>>(),
        [("a", "node"), ("b", "")]
    );
}

#[test]
fn old_records_keep_the_port_apart() {
    for (address, expected) in [
        ("10.0.0.1", "10.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("h", "h:80"),
    ] {
        let record =
            format!(r#"{{"name":"s","nodes":[{{"id":"a","address":"{address}","port":80}}]}}"#);
        assert_eq!(
            decode(record.as_bytes()).unwrap().address.as_str(),
            expected
        );
    }
}

#[test]
fn a_bad_record_says_why() {
    let node = |node: &str| format!(r#"{{"name":"s","nodes":[{node}]}}"#);
    for (record, why) in [
        ("null".to_owned(), "invalid type: null"),
        ("{}".to_owned(), "no name"),
        (r#"{"name":"s"}"#.to_owned(), "exactly one node (nodes 0)"),
        (
            node(r#"{"id":"a","address":"h:1"},{"id":"b","address":"h:1"}"#),
            "exactly one node (nodes 2)",
        ),
        (
            r#"{"name":"a b","nodes":[{"id":"a","address":"h:1"}]}"#.to_owned(),
            "service name",
        ),
        (node(r#"{"address":"h:1"}"#), "instance id"),
        (node(r#"{"id":"a"}"#), "write host:port"),
        (node(r#"{"id":"a","address":"h:70000"}"#), "from 1 to 65535"),
        (node(r#"{"id":"a","address":"[::]:80"}"#), "unspecified"),
        (
            node(r#"{"id":"a","address":"h:1","weight":-1}"#),
            "invalid value",
        ),
        (
            node(r#"{"id":"a","address":"h:1","alternates":["h"]}"#),
            "write host:port",
        ),
        (node(r#"{"id":"a","address":"h:1","zone":" "}"#), "label"),
    ] {
        let error = decode(record.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(format!("{error:?}").contains(why), "{record}: {error:?}");
    }
}
