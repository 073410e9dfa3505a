use proptest::prelude::*;

use super::*;
use crate::json;

/// What the server makes of a record: it gives timestamps as text.
fn told(written: &Written) -> String {
    let body: Value = serde_json::from_slice(&written.body(7)).unwrap();
    json!({ "application": { "name": written.app, "instance": [body["instance"]] } }).to_string()
}

fn read_one(json: &str) -> Result<Arc<Instance>, Undecodable> {
    let mut decoded = None;
    json::read(json.as_bytes(), &mut |record| {
        decoded = Some(decode(&record))
    })
    .unwrap();
    decoded.unwrap()
}

fn round(instance: &Instance) -> Arc<Instance> {
    let written = Written::new(instance, Duration::from_secs(90)).unwrap();
    read_one(&told(&written)).unwrap()
}

fn full() -> Instance {
    let mut pairs = Metadata::new();
    pairs.insert("stream", "true").unwrap();
    Instance::new("Go.micro_greeter-1", "[fe80::1%3]:8080")
        .id("a/b;c%".replace('/', "~"))
        .version("1.2")
        .zone("eu-1")
        .weight(7)
        .alternate("10.0.0.1:81")
        .alternate("greeter.internal:82")
        .meta("management.port", "8081")
        .meta("zone", "mine")
        .meta("registry.service", "other")
        .meta("a:b", "colon")
        .meta("@class", "x")
        .meta("control", "a\u{1}b")
        .meta("text", "ä\n\u{ffff}")
        .endpoint(Endpoint::new("Greeter.Hello".parse().unwrap()).with_metadata(pairs))
        .endpoint(Endpoint::new("Greeter.Bye".parse().unwrap()))
        .build()
        .unwrap()
}

#[test]
fn everything_an_instance_says_comes_back() {
    assert_eq!(*round(&full()), full());
    for address in ["10.0.0.1:1", "[2001:db8::7]:65535", "A_b-c.example:443"] {
        let instance = full().edit().address(address).build().unwrap();
        assert_eq!(*round(&instance), instance);
    }
    for status in Status::ALL {
        let instance = full().edit().status(status).build().unwrap();
        assert_eq!(*round(&instance), instance);
    }
}

#[test]
fn it_is_written_as_spring_and_netflix_read_it() {
    let instance = Instance::new("Greeter", "10.0.0.1:8080")
        .id("greeter 1")
        .zone("z1")
        .version("1.0.0")
        .meta("management.port", "8081")
        .status(Status::Draining)
        .build()
        .unwrap();
    let written = Written::new(&instance, Duration::from_millis(4_001)).unwrap();
    assert_eq!(written.ttl, Duration::from_secs(5));
    let body: Value = serde_json::from_slice(&written.body(1795426716619)).unwrap();
    let expected = json!({ "instance": {
        "instanceId": "Greeter:greeter~201",
        "app": "GREETER",
        "hostName": "10.0.0.1",
        "ipAddr": "10.0.0.1",
        "vipAddress": "Greeter",
        "secureVipAddress": "Greeter",
        "status": "DOWN",
        "port": { "$": 8080, "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" },
        "countryId": 1,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": { "renewalIntervalInSecs": 1, "durationInSecs": 5 },
        "metadata": {
            "registry.service": "Greeter",
            "registry.status": "draining",
            "management.port": "8081",
            "version": "1.0.0",
            "zone": "z1",
        },
        "lastDirtyTimestamp": "1795426716619",
    }});
    assert_eq!(body, expected);
    for (_, value) in body["instance"]["metadata"].as_object().unwrap() {
        assert!(escape::is_xml_text(value.as_str().unwrap()));
    }
}

#[test]
fn what_could_not_come_back_is_refused() {
    let instance = full().edit().version("\u{fffe}").build().unwrap();
    let error = Written::new(&instance, Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = Written::new(&full(), Duration::from_secs(2_147_484)).unwrap_err();
    assert!(error.to_string().contains("2147483"), "{error}");
    assert!(Written::new(&full(), Duration::from_secs(2_147_483)).is_ok());
}

/// As Spring's client registers, and as the server then tells it.
const SPRING: &str = r#"{"instance":{"instanceId":"192.0.2.2:java-svc:18080","app":"JAVA-SVC","appGroupName":null,
"ipAddr":"127.0.0.1","sid":"na","homePageUrl":"http://127.0.0.1:18080/","vipAddress":"java-svc","secureVipAddress":"java-svc",
"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},
"hostName":"host.example","status":"UP","overriddenStatus":"UNKNOWN","leaseInfo":{"renewalIntervalInSecs":1,"durationInSecs":3},
"isCoordinatingDiscoveryServer":false,"lastUpdatedTimestamp":1795426716551,"lastDirtyTimestamp":"1795426716619",
"actionType":null,"asgName":null,"port":{"$":18080,"@enabled":"true"},"securePort":{"$":18443,"@enabled":"true"},
"metadata":{"@class":"java.util.HashMap","zone":"z1","management.port":"18080","version":"1.2.3","weight":"heavy"}}}"#;

#[test]
fn a_record_of_spring_is_read() {
    let read = read_one(SPRING).unwrap();
    assert_eq!(read.key().to_string(), "java-svc/192.0.2.2:java-svc:18080");
    assert_eq!(read.address.as_str(), "host.example:18080");
    assert_eq!(read.alternates, ["127.0.0.1:18080".parse().unwrap()]);
    assert_eq!(read.zone.as_ref().unwrap().as_str(), "z1");
    assert_eq!(read.version.as_ref().unwrap().as_str(), "1.2.3");
    assert_eq!(read.weight, 1);
    let pairs: Vec<_> = read.metadata.iter().collect();
    assert_eq!(pairs, [("management.port", "18080"), ("weight", "heavy")]);
    let secure = SPRING.replace(
        r#""port":{"$":18080,"@enabled":"true"}"#,
        r#""port":{"$":18080,"@enabled":"false"}"#,
    );
    assert_eq!(read_one(&secure).unwrap().address.port(), 18443);
    let amazon = SPRING.replace(r#""zone":"z1","#, "").replace(
        r#""name":"MyOwn""#,
        r#""name":"Amazon","metadata":{"availability-zone":"us-east-1c"}"#,
    );
    assert_eq!(
        read_one(&amazon).unwrap().zone.as_ref().unwrap().as_str(),
        "us-east-1c"
    );
}

#[test]
fn a_record_of_go_micro_is_read() {
    let read = read_one(include_str!("../tests/golden/gomicro-get.json")).unwrap();
    assert_eq!(read.key().to_string(), "greeter/greeter-1");
    assert_eq!(read.address.as_str(), "10.0.0.1:8080");
    assert_eq!(read.version.as_ref().unwrap().as_str(), "1.0.0");
    let pairs: Vec<_> = read.metadata.iter().collect();
    assert_eq!(pairs, [("transport", "http"), ("zone", "eu")]);
    assert_eq!(read.endpoints[0].name.as_str(), "Say.Hello");
    assert_eq!(read.endpoints[0].metadata.get("stream"), Some("true"));
    let read = read_one(include_str!("../tests/golden/fargo-post.json")).unwrap();
    assert_eq!(read.key().to_string(), "Greeter3/h1");
    assert_eq!(read.address.as_str(), "h1:8080");
}

#[test]
fn an_operator_goes_before_the_registrant() {
    let draining = full().edit().status(Status::Draining).build().unwrap();
    let warning = full().edit().status(Status::Warning).build().unwrap();
    for (instance, now, overridden, expected) in [
        (
            full(),
            "OUT_OF_SERVICE",
            "OUT_OF_SERVICE",
            Status::Maintenance,
        ),
        // The operator is forgotten, what he said is not.
        (full(), "OUT_OF_SERVICE", "UNKNOWN", Status::Maintenance),
        (full(), "DOWN", "DOWN", Status::Down),
        (full(), "WEIRD", "UNKNOWN", Status::Unknown),
        (draining.clone(), "DOWN", "UNKNOWN", Status::Draining),
        (draining.clone(), "DOWN", "OUT_OF_SERVICE", Status::Draining),
        (draining, "DOWN", "DOWN", Status::Down),
        (warning.clone(), "UP", "UNKNOWN", Status::Warning),
        (
            warning,
            "OUT_OF_SERVICE",
            "OUT_OF_SERVICE",
            Status::Maintenance,
        ),
    ] {
        let written = Written::new(&instance, Duration::from_secs(9)).unwrap();
        let mut json: Value = serde_json::from_str(&told(&written)).unwrap();
        json["application"]["instance"][0]["status"] = now.into();
        for spelling in ["overriddenStatus", "overriddenstatus"] {
            json["application"]["instance"][0][spelling] = overridden.into();
            assert_eq!(
                read_one(&json.to_string()).unwrap().status,
                expected,
                "{now} {overridden}"
            );
        }
    }
}

#[test]
fn what_nobody_can_call_is_no_instance() {
    for (field, value) in [
        ("app", "null"),
        ("port", r#"{"$":70000,"@enabled":"true"}"#),
        ("port", r#"{"$":-5,"@enabled":"true"}"#),
        ("instanceId", r#""a/b""#),
        ("instanceId", r#""\u0000""#),
        ("app", r#""ä/""#),
    ] {
        let mut json: Value = serde_json::from_str(SPRING).unwrap();
        json["instance"]["securePort"] = Value::Null;
        json["instance"][field] = serde_json::from_str(value).unwrap();
        if field == "app" {
            json["instance"]["vipAddress"] = Value::Null;
        }
        assert!(read_one(&json.to_string()).is_err(), "{field} {value}");
    }
    let mut json: Value = serde_json::from_str(SPRING).unwrap();
    for field in ["hostName", "ipAddr"] {
        json["instance"][field] = "no host".into();
    }
    assert!(read_one(&json.to_string()).is_err());
}

proptest! {
    #[test]
    fn any_instance_comes_back(
        id in "[^\\p{C}/\\s]{1,20}", zone in "[a-z]{1,8}", weight: u16, port in 1u16..,
        pairs in proptest::collection::btree_map("[!-<>-~]{1,12}", "[^\0]{0,20}", 0..6),
    ) {
        prop_assume!(id != "." && id != "..");
        let mut builder = Instance::new("Web", "10.0.0.1:1").id(id).zone(zone).weight(weight);
        for (key, value) in pairs {
            builder = builder.meta(key, value);
        }
        let instance = builder.address(format!("10.0.0.1:{port}")).build().unwrap();
        prop_assert_eq!(&*round(&instance), &instance);
        let written = Written::new(&instance, Duration::from_secs(1)).unwrap();
        for (_, value) in written.record["metadata"].as_object().unwrap() {
            prop_assert!(escape::is_xml_text(value.as_str().unwrap()));
        }
    }

    #[test]
    fn mutated_answers_are_read_or_refused(at in 0..SPRING.len(), byte: u8, cut in 0..SPRING.len()) {
        let mut json = SPRING.as_bytes().to_vec();
        json[at] = byte;
        for body in [&json[..], &json[..cut]] {
            let _ = json::read(body, &mut |record| drop(decode(&record)));
        }
    }
}
