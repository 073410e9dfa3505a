//! Instances that are announced by one client and seen by another.

mod common;

use std::sync::Arc;

use common::{Bus, ids, instance, key, lookup, ms, next, quiet, registration, scope, until, watch};
use registry_core::{Change, Endpoint, ErrorKind, Metadata, ReadOptions, Registry, Scope, Status};
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn what_is_registered_is_found_field_by_field_until_it_is_deregistered() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    let mut pairs = Metadata::new();
    pairs.insert("timeout", "5s").unwrap();
    let wanted = instance("Go.Micro.Srv", "Hôte:app 1.5\\x=%")
        .version("1.2")
        .alternate("127.0.0.9:8080")
        .zone("eu-1")
        .weight(7)
        .status(Status::Warning)
        .meta("Build", "a=b")
        .meta("empty", "")
        .endpoint(Endpoint::new("Greeter.Hello".try_into().unwrap()).with_metadata(pairs))
        .build()
        .unwrap();

    let registered = server.register(&wanted.clone().into()).await.unwrap();
    assert_eq!((&registered.key, registered.ttl), (&wanted.key(), None));
    assert_eq!(
        lookup(&client, "Go.Micro.Srv").await.unwrap(),
        [Arc::new(wanted.clone())]
    );
    assert!(lookup(&client, "go.micro.srv").await.unwrap().is_empty());
    assert_eq!(ids(&server, "Go.Micro.Srv").await.len(), 1);
    let services = client.services(&ReadOptions::default()).await.unwrap();
    assert_eq!(services, std::slice::from_ref(&wanted.service));

    server.deregister(&wanted.key()).await.unwrap();
    server.deregister(&wanted.key()).await.unwrap();
    until("gone", server.capability().windows.gone, || async {
        lookup(&client, "Go.Micro.Srv").await.unwrap().is_empty()
    })
    .await;
    assert!(
        client
            .services(&ReadOptions::default())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_tells_each_change_once() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    let opened = Instant::now();
    let mut watcher = watch(&client, "web").await;
    assert_eq!(
        next(&mut watcher, ms(5000)).await,
        [Change::Snapshot(Vec::new())]
    );
    assert!(opened.elapsed() <= client.capability().windows.settle);

    let first = registration(instance("web", "a").meta("v", "1"));
    let called = Instant::now();
    server.register(&first).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Upsert(first.instance.clone())]
    );
    assert!(called.elapsed() <= client.capability().windows.visible);
    // The second announcement, 1 s later, says the same.
    server.register(&first).await.unwrap();
    server
        .register(&registration(instance("web2", "a")))
        .await
        .unwrap();
    quiet(&mut watcher, ms(1500)).await;

    // Back and forth, faster than a record may be repeated.
    let second = registration(
        instance("web", "a")
            .meta("v", "2")
            .address("127.0.0.2:9090")
            .weight(3),
    );
    for wanted in [&second, &first, &second] {
        server.register(wanted).await.unwrap();
        assert_eq!(
            next(&mut watcher, ms(1000)).await,
            [Change::Upsert(wanted.instance.clone())]
        );
    }
    quiet(&mut watcher, ms(2500)).await;
    assert_eq!(
        lookup(&client, "web").await.unwrap(),
        std::slice::from_ref(&second.instance)
    );
    assert_eq!(
        lookup(&bus.client(), "web").await.unwrap(),
        [second.instance]
    );

    server.deregister(&key("web", "a")).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Remove(key("web", "a"))]
    );
}

#[tokio::test]
async fn all_watchers_share_one_browse() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    server
        .register(&registration(instance("web", "a")))
        .await
        .unwrap();
    let mut web = watch(&client, "web").await;
    let mut again = watch(&client, "web").await;
    let mut all = client
        .watch(&Scope::All, &ReadOptions::default())
        .await
        .unwrap();
    for watcher in [&mut web, &mut again, &mut all] {
        let changes = next(watcher, ms(2000)).await;
        assert!(
            matches!(&changes[..], [Change::Snapshot(found)] if found.len() == 1),
            "{changes:?}"
        );
    }
    // The cache is warm: the next ones need not wait.
    let mut late = watch(&client, "db").await;
    assert_eq!(
        next(&mut late, ms(100)).await,
        [Change::Snapshot(Vec::new())]
    );
    drop(web);
    server
        .register(&registration(instance("db", "b")))
        .await
        .unwrap();
    for watcher in [&mut late, &mut all] {
        let changes = next(watcher, ms(2000)).await;
        assert!(
            matches!(&changes[..], [Change::Upsert(found)] if found.is(&key("db", "b"))),
            "{changes:?}"
        );
    }
    quiet(&mut again, ms(100)).await;
}

#[tokio::test]
async fn two_clients_that_start_together_find_each_other() {
    let bus = Bus::new();
    let clients: Vec<_> = (0..5).map(|_| bus.client()).collect();
    let mut looking = Vec::new();
    for (i, client) in clients.into_iter().enumerate() {
        looking.push(tokio::spawn(async move {
            client
                .register(&registration(instance("web", &format!("i{i}"))))
                .await
                .unwrap();
            (ids(&client, "web").await, client)
        }));
    }
    let mut clients = Vec::new();
    for looking in looking {
        let (found, client) = looking.await.unwrap();
        assert_eq!(found, ["i0", "i1", "i2", "i3", "i4"]);
        clients.push(client);
    }
}

#[tokio::test]
async fn close_takes_everything_back_and_ends_everything() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    let mut own = watch(&server, "web").await;
    next(&mut own, ms(2000)).await;
    for id in ["a", "b"] {
        server
            .register(&registration(instance("web", id)))
            .await
            .unwrap();
    }
    until("both are seen", ms(1000), || async {
        ids(&client, "web").await.len() == 2
    })
    .await;

    server.close().await.unwrap();
    server.close().await.unwrap();
    until("both are gone", ms(1500), || async {
        ids(&client, "web").await.is_empty()
    })
    .await;
    let closed =
        |error: registry_core::Error| assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    // What was seen before the end may come first.
    let end = async {
        loop {
            if let Err(error) = own.next().await {
                return error;
            }
        }
    };
    closed(timeout(ms(1000), end).await.unwrap());
    closed(
        server
            .register(&registration(instance("web", "a")))
            .await
            .unwrap_err(),
    );
    closed(server.deregister(&key("web", "a")).await.unwrap_err());
    closed(lookup(&server, "web").await.unwrap_err());
    closed(server.services(&ReadOptions::default()).await.unwrap_err());
    closed(
        server
            .watch(&scope("web"), &ReadOptions::default())
            .await
            .err()
            .unwrap(),
    );
    closed(server.recheck(&key("web", "a")).await.unwrap_err());
}
