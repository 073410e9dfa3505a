//! What the suite does not ask, against real servers.

mod common;

use std::time::Duration;

use common::{
    Rewriting, ask, client, config, eventually, instance, left_out, registration, shared, start,
};
use registry_conformance::free_port;
use registry_conformance::server::{Authority, Server as _};
use registry_core::{
    Change, Error, ErrorKind, Held, Instance, ReadOptions, Registry, Renewal, Result, Scope,
    Status, TlsConfig, Watcher,
};
use registry_eureka::Eureka;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

async fn find(client: &Eureka, instance: &Instance) -> Result<Vec<Instance>> {
    let found = client
        .lookup(&instance.service, &ReadOptions::default())
        .await?;
    Ok(found.iter().map(|found| Instance::clone(found)).collect())
}

/// A lookup finds this instance and no other one.
async fn only(client: &Eureka, expected: &Instance) {
    let found = find(client, expected).await.unwrap();
    assert_eq!(found, std::slice::from_ref(expected));
}

async fn watch(client: &Eureka) -> Box<dyn Watcher> {
    client
        .watch(&Scope::All, &ReadOptions::default())
        .await
        .unwrap()
}

/// The error that ends a watch.
async fn end(watcher: &mut Box<dyn Watcher>) -> Error {
    let end = async {
        loop {
            if let Err(error) = watcher.next().await {
                return error;
            }
        }
    };
    timeout(common::LONG, end).await.expect("the watch ends")
}

/// Follows a watch until it tells this instance.
async fn told(watcher: &mut Box<dyn Watcher>, expected: &Instance) {
    let telling = async {
        loop {
            for change in watcher.next().await.unwrap() {
                let shown = match change {
                    Change::Snapshot(all) => all.iter().any(|shown| **shown == *expected),
                    Change::Upsert(shown) => *shown == *expected,
                    _ => false,
                };
                if shown {
                    return;
                }
            }
        }
    };
    timeout(common::LONG, telling)
        .await
        .expect("the instance is told");
}

fn at(instance: &Instance) -> String {
    let app = instance.service.as_str().to_uppercase();
    format!("/apps/{app}/{}:{}", instance.service, instance.id)
}

#[tokio::test]
async fn what_an_operator_overrides_is_read_and_never_cleared() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let (client, instance) = (client(server), instance());
    let registered = client.register(&registration(&instance)).await.unwrap();
    let held = Held::new(registration(&instance).into(), registered);
    let path = format!("{}/status", at(&instance));
    let out = instance.edit().status(Status::Maintenance).build().unwrap();
    assert_eq!(
        ask(server, "PUT", &format!("{path}?value=OUT_OF_SERVICE"), None)
            .await
            .0,
        200
    );
    only(&client, &out).await;
    client.register(&registration(&instance)).await.unwrap();
    assert!(matches!(
        client.renew(&[held]).await[..],
        [Ok(Renewal::Held(_))]
    ));
    only(&client, &out).await;
    // What he says of himself is worse, and shows; then he is better, and the operator's word holds again.
    let down = instance.edit().status(Status::Down).build().unwrap();
    client.register(&registration(&down)).await.unwrap();
    only(&client, &down).await;
    client.register(&registration(&instance)).await.unwrap();
    only(&client, &out).await;
    assert_eq!(
        ask(server, "DELETE", &format!("{path}?value=UP"), None)
            .await
            .0,
        200
    );
    only(&client, &instance).await;
}

#[tokio::test]
async fn every_status_follows_every_other() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let (client, instance) = (client(server), instance());
    for from in Status::ALL {
        for to in Status::ALL {
            for status in [from, to] {
                let now = instance.edit().status(status).build().unwrap();
                client.register(&registration(&now)).await.unwrap();
                assert_eq!(
                    find(&client, &instance).await.unwrap(),
                    [now],
                    "{from} to {to}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_renewal_of_the_unknown_and_of_a_newer_record_says_so() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let (client, instance) = (client(server), instance());
    let mut registered = client.register(&registration(&instance)).await.unwrap();
    let held = |registered| [Held::new(registration(&instance).into(), registered)];
    // The server missed what we registered last.
    registered.token += 1;
    assert!(matches!(
        client.renew(&held(registered.clone())).await[..],
        [Ok(Renewal::Unknown)]
    ));
    registered.token -= 1;
    assert!(matches!(
        client.renew(&held(registered.clone())).await[..],
        [Ok(Renewal::Held(_))]
    ));
    let (status, _) = ask(server, "DELETE", &at(&instance), None).await;
    assert_eq!(status, 200);
    assert!(matches!(
        client.renew(&held(registered)).await[..],
        [Ok(Renewal::Unknown)]
    ));
    assert!(find(&client, &instance).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_clock_that_was_ahead_does_not_lock_the_id() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let instance = instance();
    let before = client(server);
    before.register(&registration(&instance)).await.unwrap();
    let record = ask(server, "GET", &at(&instance), None).await.1;
    let mut record: Value = serde_json::from_str(&record).unwrap();
    record["instance"]["lastDirtyTimestamp"] = "9999999999999".into();
    let app = format!("/apps/{}", instance.service.as_str().to_uppercase());
    assert_eq!(ask(server, "POST", &app, Some(record)).await.0, 204);
    let after = client(server);
    let moved = instance.edit().address("10.0.0.2:80").build().unwrap();
    after.register(&registration(&moved)).await.unwrap();
    only(&after, &moved).await;
    let again = moved.edit().weight(3).build().unwrap();
    after.register(&registration(&again)).await.unwrap();
    only(&after, &again).await;
}

#[tokio::test]
async fn a_count_that_is_always_wrong_costs_one_full_answer_for_each_poll() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    proxy.set(|path, _, answer| {
        if path.ends_with("/delta") {
            let mut json: Value = serde_json::from_str(&answer.body).unwrap();
            json["applications"]["apps__hashcode"] = "UP_999999_".into();
            answer.body = json.to_string();
        }
    });
    let (reader, writer, instance) = (client(proxy.address), client(server), instance());
    let mut watcher = watch(&reader).await;
    watcher.next().await.unwrap();
    writer.register(&registration(&instance)).await.unwrap();
    told(&mut watcher, &instance).await;
    let (full, delta) = proxy.asked();
    assert!(
        full <= delta + 1 && delta > 0,
        "{full} full answers for {delta} polls"
    );
    // When the count is right again, changes are enough.
    proxy.set(|_, _, _| {});
    let last = std::sync::Mutex::new(proxy.asked());
    eventually("polls with changes alone", || async {
        let (now, mut last) = (proxy.asked(), last.lock().unwrap());
        if now.0 != last.0 {
            *last = now;
        }
        Ok(now.1 >= last.1 + 2)
    })
    .await;
}

#[tokio::test]
async fn a_change_without_a_trace_is_found_by_the_count() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    let (reader, writer, instance) = (client(proxy.address), client(server), instance());
    let mut watcher = watch(&reader).await;
    watcher.next().await.unwrap();
    proxy.set(|path, _, answer| {
        if path.ends_with("/delta") {
            let mut json: Value = serde_json::from_str(&answer.body).unwrap();
            json["applications"]["application"] = json!([]);
            answer.body = json.to_string();
        }
    });
    writer.register(&registration(&instance)).await.unwrap();
    told(&mut watcher, &instance).await;
}

#[tokio::test]
async fn where_no_changes_are_told_everything_is_asked_for() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    for status in [403, 404, 200] {
        proxy.set(move |path, _, answer| {
            if path.ends_with("/delta") {
                answer.status = status;
                answer.body.clear();
                answer.content.clear();
            }
        });
        let (reader, writer, instance) = (client(proxy.address), client(server), instance());
        let mut watcher = watch(&reader).await;
        watcher.next().await.unwrap();
        writer.register(&registration(&instance)).await.unwrap();
        told(&mut watcher, &instance).await;
    }
}

#[tokio::test]
async fn other_spellings_of_an_answer_are_read() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    proxy.set(|_, _, answer| {
        answer.body = answer
            .body
            .replace(
                r#""port":{"$":80,"@enabled":"true"}"#,
                r#""port":{"@enabled":true,"$":"80"}"#,
            )
            .replace("overriddenStatus", "overriddenstatus");
        let Ok(mut json) = serde_json::from_str::<Value>(&answer.body) else {
            return;
        };
        // A list of one becomes the one.
        for pointer in ["/application/instance", "/applications/application"] {
            if let Some(list) = json.pointer_mut(pointer)
                && list.as_array().is_some_and(|list| list.len() == 1)
            {
                *list = list[0].take();
            }
        }
        answer.body = json.to_string();
    });
    let (client, instance) = (client(proxy.address), instance());
    client.register(&registration(&instance)).await.unwrap();
    only(&client, &instance).await;
    told(&mut watch(&client).await, &instance).await;
}

#[tokio::test]
async fn answers_that_are_none_are_errors_and_never_empty() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    let instance = instance();
    client(server)
        .register(&registration(&instance))
        .await
        .unwrap();
    let cases: [(u16, &str, &str, ErrorKind); 9] = [
        (200, "", "", ErrorKind::Unavailable),
        (
            200,
            "application/xml",
            "<applications></applications>",
            ErrorKind::Protocol,
        ),
        (200, "text/html", "<html>login</html>", ErrorKind::Protocol),
        (
            200,
            "application/json",
            "{\"applications\":{\"application\":[",
            ErrorKind::Protocol,
        ),
        (
            200,
            "application/json",
            "{\"status\":\"UP\"}",
            ErrorKind::Protocol,
        ),
        (302, "", "", ErrorKind::Protocol),
        (401, "", "", ErrorKind::Denied),
        (403, "", "", ErrorKind::Unavailable),
        (503, "application/json", "{}", ErrorKind::Unavailable),
    ];
    for (status, content, body, kind) in cases {
        proxy.set(move |_, _, answer| {
            answer.status = status;
            answer.content = content.to_owned();
            answer.body = body.to_owned();
        });
        let client = client(proxy.address);
        let lookup = find(&client, &instance).await.unwrap_err();
        assert_eq!(lookup.kind(), kind, "{lookup:?}");
        let services = client.services(&ReadOptions::default()).await.unwrap_err();
        assert_eq!(services.kind(), kind, "{services:?}");
        let error = end(&mut watch(&client).await).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        if status != 403 {
            assert!(client.register(&registration(&instance)).await.is_err());
        }
    }
    // The path of another program, which knows nothing there.
    proxy.set(|_, _, answer| {
        answer.status = 404;
        answer.content = "application/json".to_owned();
        answer.body = "{\"status\":404}".to_owned();
    });
    let error = find(&client(proxy.address), &instance).await.unwrap_err();
    assert!(
        error.to_string().contains("no Eureka under the path"),
        "{error}"
    );
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    if left_out() {
        return;
    }
    let proxy = Rewriting::start(shared().await).await;
    proxy.set(|_, login, answer| {
        // "eureka:s3cr3t/@"
        if login != Some("Basic ZXVyZWthOnMzY3IzdC9A") {
            answer.status = 401;
            answer.body.clear();
        }
    });
    let instance = instance();
    let with =
        |password: &str| Eureka::new(config(&[proxy.address]).login("eureka", password)).unwrap();
    let good = with("s3cr3t/@");
    good.register(&registration(&instance)).await.unwrap();
    only(&good, &instance).await;
    let bad = with("hunter2");
    for error in [
        find(&bad, &instance).await.unwrap_err(),
        bad.register(&registration(&instance)).await.unwrap_err(),
        bad.deregister(&instance.key()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(!format!("{error:?} {bad:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn under_self_preservation_the_dead_stay_and_a_record_that_cannot_be_written_ends_watches() {
    if left_out() {
        return;
    }
    let server = start(
        free_port(),
        &["--eureka.server.enable-self-preservation=true"],
    )
    .await;
    let (client, instance) = (client(server.address()), instance());
    assert_eq!(client.capability().windows.crash, None);
    let short = registration(&instance).ttl(Duration::from_secs(1));
    client.register(&short).await.unwrap();
    // It expires after 1 s, and the server evicts twice a second.
    let expired = Instant::now() + Duration::from_secs(4);
    while Instant::now() < expired {
        only(&client, &instance).await;
    }
    let mut watcher = watch(&client).await;
    watcher.next().await.unwrap();
    let poison = json!({ "instance": {
        "instanceId": "poison", "app": "POISON", "hostName": "h", "ipAddr": "10.0.0.9",
        "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "Amazon" },
    }});
    assert_eq!(
        ask(server.address(), "POST", "/apps/POISON", Some(poison))
            .await
            .0,
        204
    );
    let error = end(&mut watcher).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("answered with nothing"),
        "{error}"
    );
    // Without changes for minutes, a watch goes on with everything.
    assert_eq!(
        ask(server.address(), "DELETE", "/apps/POISON/poison", None)
            .await
            .0,
        200
    );
    eventually("the registry to be read again", || async {
        client
            .services(&ReadOptions::default())
            .await
            .map(|services| !services.is_empty())
    })
    .await;
    let late = common::instance();
    let mut watcher = watch(&client).await;
    watcher.next().await.unwrap();
    client.register(&registration(&late)).await.unwrap();
    told(&mut watcher, &late).await;
}

#[tokio::test]
async fn when_a_peer_is_killed_the_other_one_serves_and_no_watch_ends() {
    if left_out() {
        return;
    }
    let (here, there) = (free_port(), free_port());
    let common = [
        "--eureka.client.register-with-eureka=true",
        "--eureka.client.fetch-registry=true",
        "--eureka.client.registry-fetch-interval-seconds=1",
        "--eureka.server.registry-sync-retry-wait-ms=500",
        "--eureka.server.enable-self-preservation=false",
        "--spring.application.name=eureka",
    ];
    let peer = |name: &str, url: String| {
        let own = [
            format!("--eureka.instance.hostname={name}"),
            format!("--eureka.client.service-url.defaultZone=http://{url}/eureka/"),
        ];
        let common = common.map(str::to_owned);
        common.into_iter().chain(own).collect::<Vec<_>>()
    };
    let a = peer("localhost", format!("127.0.0.1:{there}"));
    let b = peer("127.0.0.1", format!("localhost:{here}"));
    let (a, b): (Vec<_>, Vec<_>) = (
        a.iter().map(String::as_str).collect(),
        b.iter().map(String::as_str).collect(),
    );
    let (a, b) = tokio::join!(start(here, &a), start(there, &b));
    let instance = instance();
    let client = Eureka::new(config(&[a.address(), b.address()])).unwrap();
    client.register(&registration(&instance)).await.unwrap();
    let other = common::client(b.address());
    eventually("the peer to hear of it", || async {
        Ok(find(&other, &instance).await? == [instance.clone()])
    })
    .await;
    let mut watcher = watch(&client).await;
    told(&mut watcher, &instance).await;
    a.kill().await.unwrap();
    only(&client, &instance).await;
    let changed = instance.edit().weight(9).build().unwrap();
    client.register(&registration(&changed)).await.unwrap();
    told(&mut watcher, &changed).await;
}

#[tokio::test]
async fn over_tls_both_sides_show_a_certificate_and_refuse_a_foreign_one() {
    if left_out() {
        return;
    }
    let (ours, foreign) = (
        Authority::new().await.unwrap(),
        Authority::new().await.unwrap(),
    );
    let identity = ours.server("eureka").await.unwrap();
    let file = |path: &std::path::Path| format!("file:{}", path.display());
    let arguments = [
        format!("--server.ssl.certificate={}", file(&identity.certificate)),
        format!(
            "--server.ssl.certificate-private-key={}",
            file(&identity.key)
        ),
        format!(
            "--server.ssl.trust-certificate={}",
            file(&ours.certificate())
        ),
        "--server.ssl.client-auth=need".to_owned(),
        "--eureka.server.enable-self-preservation=false".to_owned(),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let server = start(free_port(), &arguments).await;
    let (mine, stranger) = (
        ours.client("client").await.unwrap(),
        foreign.client("client").await.unwrap(),
    );
    let client = |tls: TlsConfig| Eureka::new(config(&[server.address()]).tls(tls)).unwrap();
    let trusting = || TlsConfig::default().ca(ours.certificate());
    let good = client(trusting().identity(&mine.certificate, &mine.key));
    let instance = instance();
    eventually("the server to serve", || async {
        good.register(&registration(&instance)).await.map(|_| true)
    })
    .await;
    only(&good, &instance).await;
    told(&mut watch(&good).await, &instance).await;
    for (tls, kinds) in [
        (
            TlsConfig::default()
                .ca(foreign.certificate())
                .identity(&mine.certificate, &mine.key),
            &[ErrorKind::Denied][..],
        ),
        (trusting(), &[ErrorKind::Denied, ErrorKind::Unavailable]),
        (
            trusting().identity(&stranger.certificate, &stranger.key),
            &[ErrorKind::Denied, ErrorKind::Unavailable],
        ),
    ] {
        let error = find(&client(tls), &instance).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
    // Whoever speaks plainly is told what is missing.
    let plain = Eureka::new(config(&[server.address()])).unwrap();
    let error = find(&plain, &instance).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error:?}");
}
