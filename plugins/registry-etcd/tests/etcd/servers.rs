//! Users, and servers that are full, dead or hang.

use std::time::Duration;

use etcd_client::Client;
use registry_conformance::{Server as _, free_port};
use registry_core::{Change, ErrorKind, ReadOptions, Registry, Renewal};
use registry_etcd::{Etcd, EtcdConfig};
use tokio::time::{Instant, sleep};

use crate::{SOON, Server, next, register, registration, renew, service, size, watch};

#[tokio::test]
async fn a_full_database_is_an_error_of_its_own_and_renewals_go_on() {
    let Some(server) = Server::start(&["--quota-backend-bytes", "300000"]).await else {
        return;
    };
    let client = server.client();
    let held = register(&client, registration("a")).await;
    let mut raw = server.raw.clone();
    let mut number = 0;
    while raw
        .put(format!("/x/{number}"), "x".repeat(20_000), None)
        .await
        .is_ok()
    {
        number += 1;
        assert!(number < 1000, "the quota does not hold");
    }
    let full = client.register(&registration("b")).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Unavailable);
    assert!(full.to_string().contains("NOSPACE"), "{full}");
    assert_eq!(
        renew(&client, &held).await,
        Renewal::Held(held.registered.clone())
    );
    client.deregister(&held.registered.key).await.unwrap();
}

#[tokio::test]
async fn a_user_is_not_in_the_way_where_none_is_asked_for() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let config = EtcdConfig::default().endpoint(server.address());
    let client = Etcd::new(config.user("root", "secret")).unwrap();
    register(&client, registration("a")).await;
    let found = client.lookup(&service(), &ReadOptions::default()).await;
    assert_eq!(found.unwrap().len(), 1);
}

#[tokio::test]
async fn users_that_change_cost_nobody_his_watch() {
    let Some(server) = Server::start(&["--auth-token-ttl", "2"]).await else {
        return;
    };
    let mut raw = server.raw.clone();
    raw.user_add("root", "secret", None).await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    raw.auth_enable().await.unwrap();
    let config = EtcdConfig::default().endpoint(server.address());
    let client = Etcd::new(config.clone().user("root", "secret")).unwrap();
    let held = register(&client, registration("a")).await;
    let mut first = watch(&client).await;
    next(&mut first).await;
    // A token that nobody uses for 2 s is no longer good, and neither is the stream for new watches.
    sleep(Duration::from_secs(4)).await;
    let mut second = watch(&client).await;
    assert_eq!(size(&next(&mut second).await), 1);
    assert_eq!(
        renew(&client, &held).await,
        Renewal::Held(held.registered.clone())
    );
    register(&client, registration("b")).await;
    for watch in [&mut first, &mut second] {
        assert_eq!(size(&next(watch).await), 1);
    }
    let wrong = Etcd::new(config.user("root", "hunter2")).unwrap();
    let begin = Instant::now();
    let denied = wrong
        .lookup(&service(), &ReadOptions::default())
        .await
        .unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
    assert!(begin.elapsed() < SOON && !format!("{denied:?} {wrong:?}").contains("hunter2"));
    let denied = wrong.register(&registration("c")).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
    let nothing = wrong.deregister(&registration("c").key()).await;
    nothing.expect("what was refused leaves nothing to take back");
}

#[tokio::test]
async fn users_that_are_asked_for_or_no_longer_lock_nobody_out() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut raw = server.raw.clone();
    raw.user_add("root", "secret", None).await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    let config = EtcdConfig::default().endpoint(server.address());
    let client = Etcd::new(config.clone().user("root", "secret")).unwrap();
    let nobody = Etcd::new(config.clone()).unwrap();
    let mut watches = vec![watch(&client).await];
    assert_eq!(size(&next(&mut watches[0]).await), 0);
    // What a watch tells first was listed; only with a change it is sure that the server watches.
    let mut held = vec![register(&client, registration("a")).await];
    assert_eq!(size(&next(&mut watches[0]).await), 1);
    for round in 0..4 {
        if round % 2 == 0 {
            raw.auth_enable().await.unwrap();
            let denied = nobody.lookup(&service(), &ReadOptions::default()).await;
            assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
        } else {
            let options = etcd_client::ConnectOptions::new().with_user("root", "secret");
            let root = Client::connect([server.address()], Some(options)).await;
            root.unwrap().auth_disable().await.unwrap();
        }
        // A renewal is the first to meet the change, later on a watch.
        if round < 2 {
            let renewal = renew(&client, &held[0]).await;
            assert_eq!(renewal, Renewal::Held(held[0].registered.clone()));
        }
        let mut new = watch(&client).await;
        assert_eq!(size(&next(&mut new).await), held.len());
        watches.push(new);
        held.push(register(&client, registration(&format!("b{round}"))).await);
        for watch in &mut watches {
            assert_eq!(size(&next(watch).await), 1, "round {round}");
        }
        let renewals = client.renew(&held).await;
        let is_held = |renewal: &_| matches!(renewal, Ok(Renewal::Held(_)));
        assert!(renewals.iter().all(is_held), "{renewals:?}");
    }
    let key = &held[0].registered.key;
    client.deregister(key).await.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await, [Change::Remove(key.clone())]);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_dead_hangs_or_swallows_costs_one_timeout() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let hung = Server::start(&[]).await.unwrap();
    hung.process.pause().await.unwrap();
    // Of TEST-NET-1 (RFC 5737): where nothing answers.
    for bad in [
        format!("127.0.0.1:{}", free_port()),
        hung.address(),
        "192.0.2.1:2379".into(),
    ] {
        let config = EtcdConfig::default()
            .endpoint(&bad)
            .endpoint(server.address())
            .timeout(Duration::from_secs(1));
        // With a user the endpoint fails when it is connected to, without one at the first call.
        for config in [config.clone().user("root", "secret"), config] {
            let client = Etcd::new(config).unwrap();
            let begin = Instant::now();
            client
                .lookup(&service(), &ReadOptions::default())
                .await
                .unwrap();
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(2), "{bad} took {took:?}");
            client.register(&registration(&bad)).await.unwrap();
            client.close().await.unwrap();
        }
    }
    hung.process.resume().await.unwrap();
}
