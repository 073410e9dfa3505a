//! What is written, what is read, and what is refused.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Server, connect, instance, is_installed, lookup, registration, until, web, write};
use registry_core::{
    Change, Endpoint, ErrorKind, Instance, Metadata, ReadOptions, Registry, RegistryUrl, Scope,
    Status, Watcher,
};
use registry_zookeeper::{MAX_RECORD, ZooKeeper, ZooKeeperConfig};
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error};

const SOON: Duration = Duration::from_secs(10);

async fn next(watch: &mut Box<dyn Watcher>) -> Vec<Change> {
    timeout(SOON, watch.next()).await.unwrap().unwrap()
}

async fn watch(registry: &Arc<dyn Registry>, scope: Scope) -> Box<dyn Watcher> {
    registry
        .watch(&scope, &ReadOptions::default())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_that_the_server_removed_are_made_again() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let (ours, other) = (
        connect(&server.url("/deep/base")).await,
        connect(&server.url("/deep/base")).await,
    );
    let stranger = server.client().await;
    let (all, mut one) = (
        watch(&other, Scope::All).await,
        watch(&other, web().into()).await,
    );
    let mut all = all;
    for watch in [&mut all, &mut one] {
        assert_eq!(next(watch).await, [Change::Snapshot(vec![])]);
    }
    let instance = instance("a");
    for _ in 0..3 {
        ours.register(&registration(&instance)).await.unwrap();
        for watch in [&mut all, &mut one] {
            assert_eq!(next(watch).await, [Change::Upsert(instance.clone())]);
        }
        assert_eq!(
            other.services(&ReadOptions::default()).await.unwrap(),
            [web()]
        );
        ours.deregister(&instance.key()).await.unwrap();
        for watch in [&mut all, &mut one] {
            assert_eq!(next(watch).await, [Change::Remove(instance.key())]);
        }
        // Empty or gone: it is no service.
        assert!(
            other
                .services(&ReadOptions::default())
                .await
                .unwrap()
                .is_empty()
        );
        until(SOON, "the containers to go", async || {
            stranger.check_stat("/deep").await.unwrap().is_none()
        })
        .await;
    }
    // Registering while they are being removed never fails.
    for _ in 0..100 {
        ours.register(&registration(&instance)).await.unwrap();
        ours.deregister(&instance.key()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_record_is_taken_and_one_byte_more_is_refused_before_it_is_sent() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let base = format!("/{}", "b".repeat(1024));
    let ours = connect(&server.url(&base)).await;
    let neighbour = instance("neighbour");
    ours.register(&registration(&neighbour)).await.unwrap();
    // Some characters take three bytes in the path.
    let id = "%".repeat(128);
    let sized = |bytes: usize| {
        let start = Instance::new("web", "10.0.0.1:8080").id(&*id);
        let metadata = |number: usize, length: usize| {
            let mut metadata = Metadata::new();
            for pair in 0..length.div_ceil(4096) {
                let value = "v".repeat(4096.min(length - pair * 4096));
                metadata.insert(format!("{number}-{pair}"), value).unwrap();
            }
            metadata
        };
        let endpoints = (0..).map_while(|number| {
            let length = bytes.saturating_sub(number * 400_000).min(400_000);
            (length > 0).then(|| {
                let name = format!("e{number}").try_into().unwrap();
                Endpoint::new(name).with_metadata(metadata(number, length))
            })
        });
        endpoints
            .fold(start, |start, endpoint| start.endpoint(endpoint))
            .build()
            .unwrap()
    };
    let length = |payload| registry_go_micro::encode(&sized(payload)).len();
    let mut payload = MAX_RECORD - 10_000;
    while length(payload + 1) <= MAX_RECORD {
        payload += (MAX_RECORD - length(payload)).div_ceil(2).max(1);
    }
    while length(payload) > MAX_RECORD {
        payload -= 1;
    }
    assert_eq!(length(payload), MAX_RECORD);
    let longest = Arc::new(sized(payload));
    ours.register(&registration(&longest)).await.unwrap();
    assert_eq!(lookup(&ours).await, [longest.clone(), neighbour.clone()]);
    let error = ours.register(&sized(payload + 1).into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains(&MAX_RECORD.to_string()),
        "{error}"
    );
    // Nothing was sent: the connection is the same, and whoever sends more than the server takes loses it.
    assert!(
        timeout(Duration::from_millis(100), ours.lost())
            .await
            .is_err()
    );
    let stranger = server.client().await;
    let path = format!("{base}/web/neighbour");
    let cut = stranger.set_data(&path, &vec![b'x'; 1 << 20], None).await;
    assert_eq!(cut.unwrap_err(), Error::ConnectionLoss);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_created_for_one_login_is_closed_to_the_others() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let url = |login: &str| {
        format!(
            "zookeeper://{login}127.0.0.1:{}/private?session=4s",
            server.port
        )
    };
    let owner = connect(&format!("{}&acl=creator", url("u:hunter2@"))).await;
    let same = connect(&url("u:hunter2@")).await;
    let instance = instance("a");
    owner.register(&registration(&instance)).await.unwrap();
    assert_eq!(lookup(&same).await, std::slice::from_ref(&instance));
    for login in ["", "u:wrong@", "other:hunter2@"] {
        let other = connect(&url(login)).await;
        let options = ReadOptions::default();
        let mut watch = watch(&other, web().into()).await;
        let errors = [
            other.lookup(&web(), &options).await.unwrap_err(),
            other.services(&options).await.unwrap_err(),
            other
                .register(&registration(&common::instance("b")))
                .await
                .unwrap_err(),
            timeout(SOON, watch.next()).await.unwrap().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{login}: {error:?}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
    owner.deregister(&instance.key()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_hides_nothing_else() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let ours = connect(&server.url("")).await;
    let instance = instance("a");
    ours.register(&registration(&instance)).await.unwrap();
    let stranger = Client::connector()
        .with_auth("digest", b"u:hunter2")
        .connect(&server.address().to_string())
        .await
        .unwrap();
    let closed = CreateMode::Persistent.with_acls(Acls::creator_all());
    for path in ["/micro-registry/web/closed", "/micro-registry/closed"] {
        stranger.create(path, b"", &closed).await.unwrap();
    }
    assert_eq!(lookup(&ours).await, std::slice::from_ref(&instance));
    let services = ours.services(&ReadOptions::default()).await;
    assert_eq!(services.unwrap(), [web()]);
    for scope in [Scope::All, web().into()] {
        let first = next(&mut watch(&ours, scope).await).await;
        assert_eq!(first, [Change::Snapshot(vec![instance.clone()])]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_demands_a_login_before_all_else_gets_it() {
    if !is_installed() {
        return;
    }
    let server = Server::with("enforce.auth.enabled=true\nenforce.auth.schemes=digest").await;
    let url = |login| format!("zookeeper://{login}127.0.0.1:{}", server.port);
    let ours = connect(&url("u:hunter2@")).await;
    let instance = instance("a");
    ours.register(&registration(&instance)).await.unwrap();
    assert_eq!(lookup(&ours).await, [instance]);
    let nobody = connect(&url("")).await;
    let denied = nobody.lookup(&web(), &ReadOptions::default()).await;
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn java_programs_and_we_find_each_other() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let stranger = server.client().await;
    let spring = include_str!("golden/spring.json");
    write(&stranger, "/services/cur-svc/spring-1", spring.as_bytes()).await;
    // Of a sequential node the id is in the record alone.
    write(
        &stranger,
        "/services/cur-svc/plain-10000000007",
        include_bytes!("golden/curator.json"),
    )
    .await;
    let ours = connect(&server.url("?layout=curator")).await;
    let service = "cur-svc".try_into().unwrap();
    let options = ReadOptions::default();
    let found = ours.lookup(&service, &options).await.unwrap();
    let ids: Vec<_> = found.iter().map(|instance| instance.id.as_str()).collect();
    assert_eq!(ids, ["plain-1", "spring-1"]);
    assert_eq!(
        ours.services(&options).await.unwrap(),
        std::slice::from_ref(&service)
    );
    let mut watch = watch(&ours, service.clone().into()).await;
    assert_eq!(next(&mut watch).await, [Change::Snapshot(found.clone())]);
    // What Spring's endpoint does to take an instance out.
    let out = spring.replace("\"UP\"", "\"OUT_OF_SERVICE\"");
    stranger
        .set_data("/services/cur-svc/spring-1", out.as_bytes(), None)
        .await
        .unwrap();
    let taken = found[1].edit().status(Status::Maintenance).build().unwrap();
    assert_eq!(next(&mut watch).await, [Change::Upsert(taken.into())]);
    stranger
        .delete("/services/cur-svc/plain-10000000007", None)
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await, [Change::Remove(found[0].key())]);

    let instance = Instance::new("ours", "10.0.0.1:8080")
        .id("a")
        .zone("z")
        .weight(3)
        .build()
        .unwrap();
    for _ in 0..3 {
        ours.register(&instance.clone().into()).await.unwrap();
    }
    let (data, stat) = stranger.get_data("/services/ours/a").await.unwrap();
    assert_eq!(stat.version, 0, "the same again was written");
    assert_ne!(stat.ephemeral_owner, 0);
    let record: serde_json::Value = serde_json::from_slice(&data).unwrap();
    assert_eq!(
        record["payload"]["@class"],
        "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance"
    );
    assert_eq!(record["payload"]["metadata"]["instance_status"], "UP");
    assert_eq!(record["payload"]["metadata"]["zone"], "z");
    assert_eq!(
        (&record["address"], &record["port"]),
        (&"10.0.0.1".into(), &8080.into())
    );
    let found = ours.lookup(&instance.service, &options).await.unwrap();
    assert_eq!(*found[0], instance);
}

#[tokio::test(flavor = "multi_thread")]
async fn go_programs_and_we_find_each_other() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let stranger = server.client().await;
    let (path, record) = include_str!("golden/go-micro-v2.txt")
        .split_once('\n')
        .unwrap();
    write(&stranger, path, record.trim_end().as_bytes()).await;
    let ours = connect(&server.url("")).await;
    let service = "my-greeter".try_into().unwrap();
    let found = ours
        .lookup(&service, &ReadOptions::default())
        .await
        .unwrap();
    assert_eq!(found[0].id.as_str(), "greeter-1");
    assert_eq!(found[0].metadata.get("zone"), Some("<eu&>"));
    // It stays for ever, so that nobody can wait for it.
    let error = ours
        .register(&Instance::clone(&found[0]).into())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("for ever"), "{error}");
    ours.deregister(&found[0].key()).await.unwrap();
    assert!(stranger.check_stat(path).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_is_skipped_and_counted() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let stranger = server.client().await;
    for (path, data) in [
        ("/micro-registry/web/garbage", "{"),
        ("/micro-registry/web/empty", ""),
        (
            "/micro-registry/web/foreign",
            r#"{"name":"api","nodes":[{"id":"a","address":"h:1"}]}"#,
        ),
        ("/micro-registry/garbage/only", "no"),
        ("/micro-registry/no name/a", "no"),
        ("/micro-registry/web/deep/er", "no"),
    ] {
        write(&stranger, path, data.as_bytes()).await;
    }
    let url: RegistryUrl = server.url("").parse().unwrap();
    let registry = ZooKeeper::new(ZooKeeperConfig::try_from(&url).unwrap()).unwrap();
    assert!(
        registry
            .services(&ReadOptions::default())
            .await
            .unwrap()
            .is_empty()
    );
    let before = registry.skipped();
    let instance = instance("a");
    registry.register(&registration(&instance)).await.unwrap();
    assert_eq!(
        registry
            .lookup(&web(), &ReadOptions::default())
            .await
            .unwrap(),
        std::slice::from_ref(&instance)
    );
    assert_eq!(registry.skipped() - before, 4);
    assert_eq!(
        registry.services(&ReadOptions::default()).await.unwrap(),
        [web()]
    );
    let mut watch = registry
        .watch(&Scope::All, &ReadOptions::default())
        .await
        .unwrap();
    assert_eq!(
        next(&mut watch).await,
        [Change::Snapshot(vec![instance.clone()])]
    );
    // When it is mended it appears.
    let mended = common::instance("garbage");
    let record = registry_go_micro::encode(&mended);
    stranger
        .set_data("/micro-registry/web/garbage", record.as_bytes(), None)
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await, [Change::Upsert(mended)]);
}
