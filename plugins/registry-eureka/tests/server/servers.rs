//! Servers of other kinds: secured, self-preserving, with a peer.

use std::time::Duration;

use registry_conformance::free_port;
use registry_conformance::server::{Authority, Server as _};
use registry_core::{ErrorKind, ReadOptions, Registry, TlsConfig};
use registry_eureka::Eureka;
use serde_json::json;
use tokio::time::Instant;

use crate::common::{
    Rewriting, ask, client, config, eventually, instance, left_out, registration, shared, start,
};
use crate::{end, find, only, told, watch};

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
    let late = crate::common::instance();
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
    let other = crate::common::client(b.address());
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
