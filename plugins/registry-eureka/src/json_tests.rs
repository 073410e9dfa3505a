use super::*;

fn count(json: &str) -> (Head, Vec<String>) {
    let mut ids = Vec::new();
    let head = read(json.as_bytes(), &mut |record| {
        ids.push(record.instance_id.unwrap_or_default().into_owned());
    });
    (head.unwrap(), ids)
}

#[test]
fn a_list_of_one_may_be_the_one() {
    for json in [
        r#"{"applications":{"apps__hashcode":"UP_1_","application":[{"name":"A","instance":[{"instanceId":"x"}]}]}}"#,
        r#"{"applications":{"application":{"instance":{"instanceId":"x"}},"apps__hashcode":"UP_1_"}}"#,
        r#"{"applications":{"application":[{"instance":{"instanceId":"x"}}],"apps__hashcode":"UP_1_"}}"#,
    ] {
        let (head, ids) = count(json);
        assert_eq!(head.hash.as_deref(), Some("UP_1_"));
        assert!(head.recognised);
        assert_eq!(ids, ["x"]);
    }
    assert_eq!(
        count(r#"{"application":{"name":"A","instance":[{"instanceId":"x"},{}]}}"#).1,
        ["x", ""]
    );
    assert_eq!(count(r#"{"instance":{"instanceId":7}}"#).1, ["7"]);
}

#[test]
fn wrong_types_are_absent_and_hide_nobody() {
    let odd = [
        "null",
        "true",
        "-1",
        "1.5",
        "\"\"",
        "\"x\"",
        "[]",
        "[1,{}]",
        "{}",
        "{\"$\":[]}",
        "{\"a\":{\"b\":[1]}}",
    ];
    let fields = [
        "instanceId",
        "app",
        "hostName",
        "ipAddr",
        "status",
        "overriddenStatus",
        "port",
        "securePort",
        "vipAddress",
        "metadata",
        "dataCenterInfo",
        "leaseInfo",
        "lastUpdatedTimestamp",
        "lastDirtyTimestamp",
        "actionType",
        "x",
    ];
    for value in odd {
        for field in fields {
            let json = format!(
                r#"{{"applications":{{"application":[{{"instance":[{{"{field}":{value},"{field}":{value}}},
                {{"instanceId":"x"}}]}}]}}}}"#
            );
            let (_, ids) = count(&json);
            assert_eq!(ids.len(), 2, "{json}");
            assert_eq!(ids[1], "x");
        }
        for json in [
            format!(r#"{{"applications":{value}}}"#),
            format!(r#"{{"applications":{{"application":{value}}}}}"#),
            format!(r#"{{"applications":{{"application":[{value}]}}}}"#),
            format!(r#"{{"applications":{{"application":{{"instance":{value}}}}}}}"#),
        ] {
            assert!(count(&json).0.recognised);
        }
        assert!(!count(value).0.recognised);
    }
}

#[test]
fn numbers_come_as_numbers_or_text() {
    for (json, port) in [
        (r#"{"$":8080,"@enabled":"true"}"#, (Some(8080), Some(true))),
        (r#"{"$":"8080","@enabled":true}"#, (Some(8080), Some(true))),
        (r#"{"@enabled":"false","$":"0"}"#, (Some(0), Some(false))),
        ("8080", (Some(8080), None)),
        ("\"8080\"", (Some(8080), None)),
        ("null", (None, None)),
        (r#"{"$":"x"}"#, (None, None)),
    ] {
        let json = format!(
            r#"{{"instance":{{"port":{json},"lastDirtyTimestamp":"5","lastUpdatedTimestamp":6}}}}"#
        );
        let head = read(json.as_bytes(), &mut |record| {
            assert_eq!((record.port.number, record.port.enabled), port);
            assert_eq!((record.dirty, record.updated), (5, 6));
        });
        assert!(head.unwrap().recognised);
    }
}

#[test]
fn a_cut_answer_is_an_error() {
    let whole = r#"{"applications":{"application":[{"instance":[{"instanceId":"x"}]}]}}"#;
    for end in 0..whole.len() {
        assert!(read(&whole.as_bytes()[..end], &mut |_| {}).is_err());
    }
    for bad in [&b"<html></html>"[..], b"{} x", b"\xff\xfe", b"[[[["] {
        assert!(read(bad, &mut |_| {}).is_err());
    }
}
