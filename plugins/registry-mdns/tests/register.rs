//! Who owns a name, and what becomes of calls that end early.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{Bus, ids, instance, key, lookup, ms, next, quiet, registration, until, watch};
use registry_core::{Change, ErrorKind, Held, Registry, Renewal};
use registry_mdns::Mdns;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn the_later_owner_of_an_id_gets_a_conflict_and_may_take_over() {
    let bus = Bus::new();
    let (first, second, client) = (bus.client(), bus.client(), bus.client());
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    let theirs = registration(instance("web", "a").version("1"));
    let ours = registration(instance("web", "a").version("2"));
    first.register(&theirs).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(1000)).await,
        [Change::Upsert(theirs.instance.clone())]
    );

    for _ in 0..2 {
        let error = second.register(&ours).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("web/a"), "{error}");
    }
    quiet(&mut watcher, ms(1500)).await;
    second.deregister(&theirs.key()).await.unwrap();
    assert_eq!(
        lookup(&client, "web").await.unwrap(),
        std::slice::from_ref(&theirs.instance)
    );

    first.deregister(&theirs.key()).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Remove(theirs.key())]
    );
    second.register(&ours).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(1000)).await,
        [Change::Upsert(ours.instance.clone())]
    );
    assert_eq!(
        first.register(&theirs).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    second.deregister(&ours.key()).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Remove(ours.key())]
    );
}

#[tokio::test]
async fn of_two_that_start_at_once_one_wins() {
    let bus = Bus::new();
    let (a, b, client) = (bus.client(), bus.client(), bus.client());
    let (one, two) = (
        registration(instance("web", "a").version("1")),
        registration(instance("web", "a").version("2")),
    );
    let (won, error) = match tokio::join!(a.register(&one), b.register(&two)) {
        (Ok(_), Err(error)) => (one, error),
        (Err(error), Ok(_)) => (two, error),
        results => panic!("{results:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(lookup(&client, "web").await.unwrap(), [won.instance]);
}

#[tokio::test]
async fn renewals_know_what_is_announced() {
    let bus = Bus::new();
    let server = bus.client();
    let wanted = registration(instance("web", "a"));
    let registered = server.register(&wanted).await.unwrap();
    let held = Held::new(wanted.clone().into(), registered.clone());
    let changed = registration(instance("web", "a").weight(2));
    let renewed = |held: Held| async { server.renew(&[held]).await.remove(0).unwrap() };
    assert_eq!(renewed(held.clone()).await, Renewal::Held(registered));
    let registered = server.register(&changed).await.unwrap();
    assert_eq!(renewed(held.clone()).await, Renewal::Unknown);
    let held = Held::new(changed.into(), registered.clone());
    assert_eq!(renewed(held.clone()).await, Renewal::Held(registered));
    assert!(timeout(ms(50), server.lost()).await.is_err());
    server.deregister(&wanted.key()).await.unwrap();
    assert_eq!(renewed(held).await, Renewal::Unknown);
    assert_eq!(server.renew(&[]).await.len(), 0);
}

#[tokio::test]
async fn without_probing_a_registration_takes_no_time() {
    let bus = Bus::new();
    let server = Mdns::new(bus.config().probe(false)).unwrap();
    assert!(!server.capability().conflicts);
    let begun = Instant::now();
    server
        .register(&registration(instance("web", "a")))
        .await
        .unwrap();
    assert!(begun.elapsed() < ms(250), "{:?}", begun.elapsed());
    let client = bus.client();
    assert_eq!(ids(&client, "web").await, ["a"]);
    // The second goodbye must not hit what is registered right after.
    server.deregister(&key("web", "a")).await.unwrap();
    server
        .register(&registration(instance("web", "a").weight(2)))
        .await
        .unwrap();
    let mut watcher = watch(&client, "web").await;
    let seen = async {
        loop {
            for change in watcher.next().await.unwrap() {
                match change {
                    Change::Snapshot(found) if found.iter().any(|found| found.weight == 2) => {
                        return;
                    }
                    Change::Upsert(found) if found.weight == 2 => return,
                    Change::Remove(_) => panic!("it was removed"),
                    _ => {}
                }
            }
        }
    };
    timeout(ms(2000), seen).await.unwrap();
    quiet(&mut watcher, ms(2000)).await;
}

#[tokio::test]
async fn what_cannot_be_announced_is_refused_at_once() {
    let bus = Bus::new();
    let server = bus.client();
    let begun = Instant::now();
    for (builder, says) in [
        (
            instance("web", "a").address("web.internal:80"),
            "Address::advertise",
        ),
        (
            instance("web", "a").address("10.9.8.7:80"),
            "10.9.8.7 is in none of: lo 127.0.0.1/8",
        ),
        (
            instance("web", "a").address("[::1]:80"),
            "::1 is in none of",
        ),
        (instance("web", "a").alternate("127.0.0.2:80"), "one port"),
        (
            instance("web", "a").meta("k", "v".repeat(300)),
            "this registry takes 252",
        ),
        (
            instance("web", "a").metadata(large()),
            "mDNS takes 1200 bytes",
        ),
    ] {
        let error = server.register(&registration(builder)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(begun.elapsed() < ms(250));
}

#[tokio::test]
async fn a_dropped_registration_leaves_nothing() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    let wanted = registration(instance("web", "a"));
    for cut in [0, 1, 300] {
        assert!(timeout(ms(cut), server.register(&wanted)).await.is_err());
    }
    quiet(&mut watcher, ms(2000)).await;
    // Nobody owns the name.
    bus.client().register(&wanted).await.unwrap();
    next(&mut watcher, ms(1000)).await;
}

#[tokio::test]
async fn a_dropped_update_never_follows_a_later_call() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    server
        .register(&registration(instance("web", "a").weight(2)))
        .await
        .unwrap();
    next(&mut watcher, ms(1000)).await;
    let _ = timeout(
        ms(0),
        server.register(&registration(instance("web", "a").weight(3))),
    )
    .await;
    server.deregister(&key("web", "a")).await.unwrap();
    let removed =
        async { while next(&mut watcher, ms(3000)).await != [Change::Remove(key("web", "a"))] {} };
    timeout(ms(3000), removed).await.unwrap();
    quiet(&mut watcher, ms(2000)).await;
}

#[tokio::test]
async fn updates_that_are_given_up_do_not_conflict_with_each_other() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    for weight in 1..=10 {
        let given_up = registration(instance("web", "a").weight(1000 + weight));
        let _ = timeout(ms(1), server.register(&given_up)).await;
        let wanted = registration(instance("web", "a").weight(weight));
        server.register(&wanted).await.unwrap();
    }
    let mut watcher = watch(&client, "web").await;
    let changes = next(&mut watcher, ms(2000)).await;
    let last = registration(instance("web", "a").weight(10)).instance;
    assert_eq!(changes, [Change::Snapshot(vec![last])]);
    quiet(&mut watcher, ms(1500)).await;
}

#[tokio::test]
async fn a_dropped_client_says_goodbye() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    server
        .register(&registration(instance("web", "a")))
        .await
        .unwrap();
    assert_eq!(ids(&client, "web").await, ["a"]);
    let threads = daemons();
    drop(server);
    until("gone", ms(1500), || async {
        ids(&client, "web").await.is_empty()
    })
    .await;
    assert!(daemons() < threads);
}

#[test]
fn a_client_outlives_its_runtime() {
    let bus = Bus::new();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let server = bus.client();
    runtime().block_on(async {
        server
            .register(&registration(instance("web", "a")))
            .await
            .unwrap();
        assert_eq!(ids(&server, "web").await, ["a"]);
    });
    runtime().block_on(async {
        assert_eq!(server.renew(&[]).await.len(), 0);
        timeout(ms(1000), server.lost()).await.unwrap();
        server
            .register(&registration(instance("web", "b")))
            .await
            .unwrap();
        assert_eq!(ids(&server, "web").await, ["b"]);
    });
    drop(server);
}

#[tokio::test]
async fn a_thousand_registrations_at_once() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    let begun = Instant::now();
    let all = (0..1000).map(|i| registration(instance("web", &format!("i{i:03}"))));
    let all: Vec<_> = all.collect();
    let server = std::sync::Arc::new(server);
    let mut running = tokio::task::JoinSet::new();
    for wanted in all {
        let server = server.clone();
        running.spawn(async move { server.register(&wanted).await });
    }
    while let Some(registered) = running.join_next().await {
        registered.unwrap().unwrap();
    }
    eprintln!("registered after {:?}", begun.elapsed());
    let begun = Instant::now();
    until("all are seen", Duration::from_secs(10), || async {
        ids(&client, "web").await.len() == 1000
    })
    .await;
    eprintln!("seen after {:?}", begun.elapsed());
    let begun = Instant::now();
    server.close().await.unwrap();
    eprintln!("closed after {:?}", begun.elapsed());
    until("all are gone", Duration::from_secs(10), || async {
        ids(&client, "web").await.is_empty()
    })
    .await;
    eprintln!("gone after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_killed_process_is_gone_after_a_recheck_and_may_come_back() {
    let bus = Bus::new();
    let client = bus.client();
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    let mut child = child(bus).await;
    next(&mut watcher, ms(1000)).await;
    child.kill().await.unwrap();
    quiet(&mut watcher, ms(500)).await;
    let killed = key("web", "child");
    let asked = Instant::now();
    client.recheck(&killed).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(3000)).await,
        [Change::Remove(killed.clone())]
    );
    assert!(
        (ms(1900)..ms(2500)).contains(&asked.elapsed()),
        "{:?}",
        asked.elapsed()
    );
    client.recheck(&killed).await.unwrap();
    quiet(&mut watcher, ms(1500)).await;

    // Its own id is free again at once.
    let mut child = self::child(bus).await;
    let changes = next(&mut watcher, ms(1000)).await;
    assert!(
        matches!(&changes[..], [Change::Upsert(found)] if found.is(&killed)),
        "{changes:?}"
    );
    // Who is alive survives a recheck.
    client.recheck(&killed).await.unwrap();
    quiet(&mut watcher, ms(3000)).await;
    child.kill().await.unwrap();
    let mut child = self::child(bus).await;
    quiet(&mut watcher, ms(1500)).await;
    child.kill().await.unwrap();
}

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn child_process() {
    let Ok(port) = std::env::var("REGISTRY_MDNS_TEST_PORT") else {
        return;
    };
    let server = Bus(port.parse().unwrap()).client();
    server
        .register(&registration(instance("web", "child")))
        .await
        .unwrap();
    println!("registered");
    sleep(Duration::from_secs(60)).await;
}

async fn child(bus: Bus) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .env("REGISTRY_MDNS_TEST_PORT", bus.0.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let registered = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("registered") {
                return;
            }
        }
        panic!("the child did not register");
    };
    timeout(Duration::from_secs(5), registered).await.unwrap();
    child
}

fn large() -> registry_core::Metadata {
    let mut metadata = registry_core::Metadata::new();
    for i in 0..60 {
        metadata.insert(format!("k{i}"), "v".repeat(240)).unwrap();
    }
    metadata
}

/// How many mdns-sd daemons this process runs.
fn daemons() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "mDNS_daemon").count()
}
