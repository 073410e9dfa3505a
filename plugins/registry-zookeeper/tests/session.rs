//! What becomes of a session, and of what is registered in it.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Server, Wire, connect, instance, is_installed, lookup, registration, until, web};
use registry_core::{Change, ErrorKind, Held, ReadOptions, Registrar, Registry, Renewal, Watcher};
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(10);
/// The capability says 3 s. The registrar renews, and notices by itself, a third of the session timeout after.
const BACK: Duration = Duration::from_secs(5);

async fn watch(registry: &Arc<dyn Registry>) -> Box<dyn Watcher> {
    let scope = web().into();
    let mut watch = registry
        .watch(&scope, &ReadOptions::default())
        .await
        .unwrap();
    let first = timeout(SOON, watch.next()).await.unwrap().unwrap();
    assert!(matches!(first[..], [Change::Snapshot(_)]), "{first:?}");
    watch
}

async fn end(watch: &mut Box<dyn Watcher>) -> ErrorKind {
    loop {
        if let Err(error) = timeout(SOON, watch.next()).await.unwrap() {
            return error.kind();
        }
    }
}

/// Holds an id, lets `act` happen to the session, and sees everything come back in a new one.
async fn survives(session: &str, act: impl AsyncFnOnce(&Server, &Wire)) {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let wire = Wire::to(server.address()).await;
    let (ours, other) = (
        connect(&wire.url(session)).await,
        connect(&server.url("")).await,
    );
    let registrar = Registrar::new(ours.clone());
    let instance = instance("a");
    let _handle = registrar.register(registration(&instance)).await.unwrap();
    let mut watch = watch(&ours).await;
    let before = wire.session.lock().unwrap().clone().unwrap().0;
    act(&server, &wire).await;
    let begin = Instant::now();
    assert_eq!(end(&mut watch).await, ErrorKind::Lost);
    let node = "/micro-registry/web/a";
    until(BACK, "the registration in a new session", async || {
        let client = server.client().await;
        let stat = client.check_stat(node).await.unwrap();
        let now = wire.session.lock().unwrap().clone().unwrap().0;
        now != before && stat.is_some_and(|stat| stat.ephemeral_owner == now)
    })
    .await;
    eprintln!("back after {:?}", begin.elapsed());
    until(SOON, "a lookup of it", async || {
        other
            .lookup(&web(), &ReadOptions::default())
            .await
            .is_ok_and(|found| found == [instance.clone()])
    })
    .await;
    // The old session's end takes nothing with it.
    registrar.close(SOON).await.unwrap();
    assert!(lookup(&other).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_by_somebody_else_is_replaced() {
    survives("?session=40s", async |server, wire| {
        wire.steal(server.address()).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_data_is_no_reason_to_wait_for_the_timeout() {
    // The library alone would give up after 7/5 of this.
    survives("?session=40s", async |server, _| server.wipe().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_that_nobody_told_of_is_noticed() {
    survives("?session=40s", async |_, wire| {
        wire.forgets.store(true, Ordering::Relaxed);
        wire.cut();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_keeps_the_session_and_ends_the_watches() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let wire = Wire::to(server.address()).await;
    let ours = connect(&wire.url("?session=2s")).await;
    let wanted = Arc::new(registration(&instance("a")));
    let registered = ours.register(&wanted).await.unwrap();
    let before = wire.session.lock().unwrap().clone();
    assert_eq!(registered.ttl, Some(Duration::from_secs(2)));
    assert!(
        timeout(Duration::from_millis(50), ours.lost())
            .await
            .is_err()
    );
    let mut watch = watch(&ours).await;
    wire.cut();
    assert_eq!(end(&mut watch).await, ErrorKind::Lost);
    assert_eq!(end(&mut watch).await, ErrorKind::Lost);
    timeout(SOON, ours.lost()).await.unwrap();
    let held = [Held::new(wanted.clone(), registered.clone())];
    assert_eq!(
        ours.renew(&held).await.remove(0).unwrap(),
        Renewal::Held(registered.clone())
    );
    assert_eq!(*wire.session.lock().unwrap(), before);
    // A server that is down for longer than the timeout lets nobody expire.
    server.kill();
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.restart().await;
    until(SOON, "the session again", async || {
        let renewal = ours.renew(&held).await.remove(0);
        renewal.is_ok_and(|renewal| renewal == Renewal::Held(registered.clone()))
    })
    .await;
    assert_eq!(*wire.session.lock().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_deleted_is_noticed_at_once_and_a_change_of_it_is_not_a_loss() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let ours = connect(&server.url("")).await;
    let wanted = registration(&instance("a"));
    ours.register(&wanted).await.unwrap();
    let stranger = server.client().await;
    let node = "/micro-registry/web/a";
    // Whoever watches once must look again.
    for _ in 0..3 {
        stranger.set_data(node, b"x", None).await.unwrap();
        assert!(
            timeout(Duration::from_millis(100), ours.lost())
                .await
                .is_err()
        );
    }
    stranger.delete(node, None).await.unwrap();
    timeout(Duration::from_secs(1), ours.lost()).await.unwrap();
    ours.register(&wanted).await.unwrap();
    ours.deregister(&wanted.key()).await.unwrap();
    assert!(
        timeout(Duration::from_millis(100), ours.lost())
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_takes_everything_at_once_and_ends_every_call() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    let (ours, other) = (
        connect(&server.url("")).await,
        connect(&server.url("")).await,
    );
    let wanted = registration(&instance("a"));
    ours.register(&wanted).await.unwrap();
    let mut watch = watch(&ours).await;
    ours.close().await.unwrap();
    ours.close().await.unwrap();
    assert!(lookup(&other).await.is_empty());
    assert_eq!(end(&mut watch).await, ErrorKind::Closed);
    let options = ReadOptions::default();
    let kinds = [
        ours.register(&wanted).await.unwrap_err().kind(),
        ours.deregister(&wanted.key()).await.unwrap_err().kind(),
        ours.lookup(&web(), &options).await.unwrap_err().kind(),
        ours.services(&options).await.unwrap_err().kind(),
        ours.watch(&web().into(), &options)
            .await
            .err()
            .unwrap()
            .kind(),
        ours.recheck(&wanted.key()).await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Closed; 6]);
    // Dropping does the same without waiting.
    other.register(&wanted).await.unwrap();
    drop(other);
    let third = connect(&server.url("")).await;
    until(
        Duration::from_secs(2),
        "what was registered to go",
        async || lookup(&third).await.is_empty(),
    )
    .await;
}

#[tokio::test]
async fn nobody_there_is_an_error_in_time_and_names_no_secret() {
    let registry = connect("zookeeper://u:hunter2@127.0.0.1:1").await;
    let begin = Instant::now();
    let error = registry
        .lookup(&web(), &ReadOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert!(!format!("{error:?} {registry:?}").contains("hunter2"));
}
