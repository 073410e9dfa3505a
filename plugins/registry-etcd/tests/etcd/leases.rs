//! Registrations, their leases and what becomes of them.

use std::time::Duration;

use etcd_client::{GetOptions, PutOptions};
use registry_conformance::{Mode, Proxy, Server as _};
use registry_core::{ErrorKind, Held, Registered, Registration, Registry, Renewal};
use registry_etcd::{Etcd, EtcdConfig};
use tokio::time::timeout;

use crate::{Server, next, record, register, registration, renew, size, until, watch};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_registrations_and_watches_share_one_connection() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    until(async || server.raw.clone().get("any", None).await.is_ok()).await;
    let others = server.connections();
    let mut held = Vec::new();
    for number in 0..1000 {
        held.push(register(&client, registration(&format!("a{number}"))).await);
    }
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(watch(&client).await);
    }
    for watch in &mut watches {
        assert_eq!(size(&next(watch).await), 1000);
    }
    let renewals = client.renew(&held).await;
    assert!(
        renewals
            .iter()
            .all(|renewal| matches!(renewal, Ok(Renewal::Held(_))))
    );
    assert_eq!(server.connections(), others + 1);
    client.close().await.unwrap();
    let left = GetOptions::new().with_prefix().with_count_only();
    let left = server.raw.clone().get("/micro/", Some(left)).await.unwrap();
    assert_eq!(left.count(), 0, "what a close leaves");
}

#[tokio::test]
async fn what_is_not_ours_any_more_is_unknown_to_a_renewal() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let mut raw = server.raw.clone();
    let key = "/micro/registry/web/a";
    let held = register(&client, registration("a")).await;
    assert_eq!(
        renew(&client, &held).await,
        Renewal::Held(held.registered.clone())
    );

    // The same record, with the lease of somebody else.
    let lease = raw.lease_grant(60, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    raw.put(key, record("a"), Some(options)).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let refused = client.register(&registration("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    client.deregister(&held.registered.key).await.unwrap();
    assert_eq!(
        raw.get(key, None).await.unwrap().kvs().len(),
        1,
        "it was not ours"
    );
    raw.lease_revoke(lease).await.unwrap();

    // Our lease, and what an earlier call wrote.
    let held = register(&client, registration("a")).await;
    let options = PutOptions::new().with_lease(held.registered.token);
    raw.put(key, record("a"), Some(options)).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let held = register(&client, registration("a")).await;

    // A key without its lease cannot be; a lease without its key can.
    raw.delete(key, None).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let held = register(&client, registration("a")).await;
    raw.lease_revoke(held.registered.token).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let stale = Registered::new(held.registered.key.clone(), None, 1);
    let stale = Held::new(held.registration.clone(), stale);
    register(&client, registration("a")).await;
    assert_eq!(renew(&client, &stale).await, Renewal::Unknown);
}

#[tokio::test]
async fn a_lease_that_is_gone_is_replaced_and_no_obstacle() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let first = register(&client, registration("a")).await;
    let revoke = async |held: &Held| {
        let revoked = server.raw.clone().lease_revoke(held.registered.token).await;
        revoked.unwrap();
    };
    revoke(&first).await;
    // It is the first one to be kept alive.
    let second = register(&client, registration("a")).await;
    assert_ne!(second.registered.token, first.registered.token);
    assert_eq!(
        renew(&client, &second).await,
        Renewal::Held(second.registered.clone())
    );
    revoke(&second).await;
    client.deregister(&second.registered.key).await.unwrap();
}

#[tokio::test]
async fn an_update_has_the_lease_of_the_record_before() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let first = register(&client, registration("a")).await;
    let edited = first.registration.instance.edit().weight(3).build();
    let edited = Registration::from(edited.unwrap()).ttl(Duration::from_secs(60));
    let second = register(&client, edited).await;
    assert_eq!(second.registered, first.registered);
    let leases = server.raw.clone().leases().await.unwrap();
    assert_eq!(leases.leases().len(), 1);
}

#[tokio::test]
async fn a_record_of_the_same_revision_is_not_ours_after_a_loss_of_data() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    register(&client, registration("a")).await;
    let key = "/micro/registry/web/a";
    let revision = async || {
        let found = server.raw.clone().get(key, None).await.unwrap();
        found.kvs()[0].mod_revision()
    };
    let ours = revision().await;
    server.process.wipe().await.unwrap();
    until(async || server.raw.clone().get("any", None).await.is_ok()).await;
    server.put(key, &record("a")).await;
    assert_eq!(revision().await, ours);
    until(async || {
        let refused = client.register(&registration("a")).await.unwrap_err();
        refused.kind() == ErrorKind::Conflict
    })
    .await;
}

#[tokio::test]
async fn a_loss_is_told_at_once_and_once() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let key = "/micro/registry/web/a";
    let quiet = Duration::from_millis(200);
    register(&client, registration("a")).await;
    register(&client, registration("a")).await;
    assert!(
        timeout(quiet, client.lost()).await.is_err(),
        "nothing is lost"
    );
    server.raw.clone().delete(key, None).await.unwrap();
    timeout(Duration::from_secs(1), client.lost())
        .await
        .unwrap();
    assert!(timeout(quiet, client.lost()).await.is_err(), "it was told");
    // Its lease lived on, and the key is watched on.
    let held = register(&client, registration("a")).await;
    server
        .raw
        .clone()
        .lease_revoke(held.registered.token)
        .await
        .unwrap();
    timeout(Duration::from_secs(1), client.lost())
        .await
        .unwrap();

    // What we take back ourselves is not lost.
    register(&client, registration("a")).await;
    client.deregister(&held.registered.key).await.unwrap();
    assert!(
        timeout(quiet, client.lost()).await.is_err(),
        "nothing is lost"
    );
    // A connection that broke may have hidden anything.
    register(&client, registration("a")).await;
    server.process.kill().await.unwrap();
    timeout(Duration::from_secs(1), client.lost())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_grant_that_is_not_answered_leaves_one_lease_and_that_is_revoked() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::start(server.process.address()).await.unwrap();
    let config = EtcdConfig::default().endpoint(proxy.address().to_string());
    let client = Etcd::new(config.timeout(Duration::from_millis(500))).unwrap();
    let leases = async || {
        let leases = server.raw.clone().leases().await.unwrap();
        leases.leases().len()
    };
    let late = async |registration: &Registration| {
        proxy.set(Mode::DropReplies);
        for _ in 0..3 {
            let late = client.register(registration).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::Unavailable, "{late}");
        }
        until(async || leases().await == 1).await;
        proxy.set(Mode::Pass);
    };
    let key = registration("a").key();
    late(&registration("a")).await;
    client.deregister(&key).await.unwrap();
    assert_eq!(leases().await, 0, "a deregister revokes it");

    late(&registration("a")).await;
    let held = register(&client, registration("a")).await;
    assert_eq!(held.registered.ttl, Some(Duration::from_secs(60)));
    let renewal = renew(&client, &held).await;
    assert_eq!(renewal, Renewal::Held(held.registered.clone()));
    assert_eq!(leases().await, 1, "a retry takes it");
    client.deregister(&key).await.unwrap();

    late(&registration("a")).await;
    let other = registration("a").ttl(Duration::from_secs(30));
    let held = register(&client, other).await;
    assert_eq!(held.registered.ttl, Some(Duration::from_secs(30)));
    assert_eq!(leases().await, 1, "another TTL takes another one");
    client.deregister(&key).await.unwrap();

    late(&registration("a")).await;
    client.close().await.unwrap();
    assert_eq!(leases().await, 0, "a close revokes it");
}
