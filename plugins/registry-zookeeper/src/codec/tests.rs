use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

/// What Curator 5.8 and Spring Cloud ZooKeeper 4.3 wrote.
const SPRING: &str = include_str!("../../tests/golden/spring.json");
const CURATOR: &str = include_str!("../../tests/golden/curator.json");

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
        ("\"h\"", "0,\"sslPort\":443", "h:443"),
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
