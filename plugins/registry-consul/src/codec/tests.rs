//! Records that were written, read, and come from others.

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
    let tags =
        |record: &Value| -> Vec<String> { serde_json::from_value(record["Tags"].clone()).unwrap() };
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
