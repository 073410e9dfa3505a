//! The discovery against the memory backend, under paused time.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Scripted, eventually};
use registry_core::{
    Change, Changes, Discovery, DiscoveryConfig, ErrorKind, Freshness, GuardPolicy, Instance,
    Memory, ReadOptions, Registration, Registry, View,
};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn register(registry: &dyn Registry, id: &str, weight: u16) {
    let instance = Instance::new("greeter", "10.0.0.1:80")
        .id(id)
        .weight(weight);
    registry
        .register(&Registration::new(instance).unwrap().ttl(HOUR))
        .await
        .unwrap();
}

fn ids(view: &View) -> Vec<String> {
    view.snapshot()
        .instances
        .iter()
        .map(|instance| instance.id.to_string())
        .collect()
}

async fn shows(view: &View, expected: &[&str]) {
    eventually(
        5 * SECOND,
        &format!("the view shows {expected:?}"),
        async || (ids(view) == expected).then_some(()),
    )
    .await;
}

async fn is_quiet(changes: &mut Changes) -> bool {
    timeout(60 * SECOND, changes.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_view_begins_complete_and_follows() {
    let registry = Scripted::new();
    register(&*registry, "b", 1).await;
    register(&*registry, "a", 1).await;
    let discovery = Discovery::new(registry.clone());
    let view = discovery.service("greeter").await.unwrap();
    assert_eq!(ids(&view), ["a", "b"]);
    assert!(view.snapshot().freshness.is_fresh());
    let mut changes = view.subscribe();
    assert!(
        matches!(&changes.next().await.unwrap()[..], [Change::Snapshot(all)] if all.len() == 2)
    );
    register(&*registry, "c", 1).await;
    assert!(
        matches!(&changes.next().await.unwrap()[..], [Change::Upsert(c)] if c.id.as_str() == "c")
    );
    register(&*registry, "c", 1).await;
    assert!(is_quiet(&mut changes).await, "the same again is no change");
}

#[tokio::test(start_paused = true)]
async fn what_a_plugin_tells_twice_is_told_once() {
    let registry = Scripted::new();
    registry.stutter();
    register(&*registry, "a", 1).await;
    let view = Discovery::new(registry.clone())
        .service("greeter")
        .await
        .unwrap();
    let generation = async |at_least| {
        sleep(SECOND).await;
        let now = view.snapshot().generation;
        assert_eq!(now, at_least);
    };
    generation(1).await;
    register(&*registry, "a", 2).await;
    generation(2).await;
    registry
        .deregister(&view.snapshot().instances[0].key())
        .await
        .unwrap();
    generation(3).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_service_is_an_empty_snapshot_at_once() {
    let discovery = Discovery::new(Scripted::new());
    let view = timeout(SECOND, discovery.service("nobody"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(view.snapshot().generation, 1);
    assert!(view.snapshot().freshness.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn many_views_share_one_watch_that_ends_with_the_last() {
    let registry = Scripted::new();
    let discovery = Discovery::new(registry.clone());
    let mut views = Vec::new();
    for _ in 0..50 {
        views.push(discovery.service("greeter").await.unwrap());
    }
    assert_eq!(Scripted::count(&registry.watches), 1);
    drop(views);
    eventually(SECOND, "no watch is open", async || {
        (Scripted::count(&registry.open) == 0).then_some(())
    })
    .await;
    register(&*registry, "a", 1).await;
    assert_eq!(ids(&discovery.service("greeter").await.unwrap()), ["a"]);
    assert_eq!(Scripted::count(&registry.watches), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_last_good_set_flagged_stale() {
    let registry = Scripted::new();
    register(&*registry, "a", 1).await;
    let discovery = Discovery::new(registry.clone());
    let view = discovery.service("greeter").await.unwrap();
    let mut changes = view.subscribe();
    changes.next().await.unwrap();
    registry.memory.set_outage(true);
    sleep(60 * SECOND).await;
    assert_eq!(ids(&view), ["a"]);
    let Freshness::Stale { since, reason } = view.snapshot().freshness.clone() else {
        panic!("fresh")
    };
    assert_eq!(reason.kind(), ErrorKind::Unavailable);
    assert!(
        since.elapsed() >= 59 * SECOND,
        "its age grows from the begin of the outage"
    );
    registry.memory.set_outage(false);
    eventually(6 * SECOND, "fresh", async || {
        view.snapshot().freshness.is_fresh().then_some(())
    })
    .await;
    assert!(is_quiet(&mut changes).await, "nothing changed");
}

#[tokio::test(start_paused = true)]
async fn what_changed_meanwhile_arrives_as_the_smallest_difference() {
    let registry = Scripted::new();
    for id in ["a", "b", "c", "d", "e"] {
        register(&*registry, id, 1).await;
    }
    let discovery = Discovery::new(registry.clone());
    let view = discovery.service("greeter").await.unwrap();
    let mut changes = view.subscribe();
    changes.next().await.unwrap();
    registry.hang(true);
    registry.memory.set_outage(true);
    sleep(SECOND).await;
    registry.memory.set_outage(false);
    register(&registry.memory, "a", 9).await;
    register(&registry.memory, "f", 1).await;
    let gone = view.snapshot().instances[1].key();
    registry.memory.deregister(&gone).await.unwrap();
    registry.hang(false);
    let mut seen = timeout(20 * SECOND, changes.next()).await.unwrap().unwrap();
    seen.sort_by_key(|change| format!("{change:?}"));
    assert!(
        matches!(&seen[..], [Change::Remove(b), Change::Upsert(a), Change::Upsert(f)]
            if b.id.as_str() == "b" && a.weight == 9 && f.id.as_str() == "f"),
        "{seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn fifty_watches_of_a_registry_that_is_away_ask_it_as_one() {
    let registry = Scripted::new();
    let discovery = Discovery::new(registry.clone());
    let mut views = Vec::new();
    for i in 0..50 {
        views.push(discovery.service(format!("s{i}")).await.unwrap());
    }
    registry.memory.set_outage(true);
    sleep(60 * SECOND).await;
    let tries = Scripted::count(&registry.watches) - 50;
    assert!(tries <= 40, "{tries} tries in a minute");
    registry.memory.set_outage(false);
    eventually(6 * SECOND, "all fresh", async || {
        views
            .iter()
            .all(|view| view.snapshot().freshness.is_fresh())
            .then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_at_the_start_delays_nobody_for_long() {
    let registry = Scripted::new();
    registry.memory.set_outage(true);
    let discovery = Discovery::new(registry.clone());
    let view = timeout(6 * SECOND, discovery.service("greeter"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(view.snapshot().generation, 0);
    registry.memory.set_outage(false);
    register(&*registry, "a", 1).await;
    shows(&view, &["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_registry_is_given_up_and_asked_again() {
    let registry = Scripted::new();
    registry.hang(true);
    let discovery = Discovery::new(registry.clone());
    let view = timeout(6 * SECOND, discovery.service("greeter"))
        .await
        .unwrap()
        .unwrap();
    sleep(20 * SECOND).await;
    registry.hang(false);
    register(&*registry, "a", 1).await;
    eventually(12 * SECOND, "a is seen", async || {
        (ids(&view) == ["a"]).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_an_error_at_once() {
    let discovery = Discovery::new(Scripted::new());
    assert_eq!(
        discovery.service("a/b").await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let elsewhere = ReadOptions::default().datacenter("dc2".try_into().unwrap());
    let discovery =
        Discovery::with_config(Scripted::new(), DiscoveryConfig::default().read(elsewhere));
    assert_eq!(
        timeout(SECOND, discovery.service("a"))
            .await
            .unwrap()
            .unwrap_err()
            .kind(),
        ErrorKind::Unsupported
    );
}

#[tokio::test(start_paused = true)]
async fn closing_the_registry_ends_the_changes_and_keeps_the_set() {
    let registry = Scripted::new();
    let other = registry.memory.client();
    register(&other, "a", 1).await;
    let discovery = Discovery::new(registry.clone());
    let view = discovery.service("greeter").await.unwrap();
    let mut changes = view.subscribe();
    changes.next().await.unwrap();
    registry.close().await.unwrap();
    assert_eq!(
        timeout(SECOND, changes.next())
            .await
            .unwrap()
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
    assert_eq!(ids(&view), ["a"]);
    let watches = Scripted::count(&registry.watches);
    sleep(60 * SECOND).await;
    assert_eq!(
        Scripted::count(&registry.watches),
        watches,
        "not opened again"
    );
}

/// Memory where a wiped server's registrants need ten seconds to come back.
fn slow_to_heal() -> Arc<Scripted> {
    let memory = Memory::new();
    let mut capability = memory.capability();
    capability.windows.reregister = Some(registry_core::Window::fixed(10 * SECOND));
    Scripted::with(memory, capability)
}

#[tokio::test(start_paused = true)]
async fn a_wiped_server_is_not_believed_until_the_window_is_over() {
    let registry = slow_to_heal();
    for id in ["a", "b", "c", "d"] {
        register(&*registry, id, 1).await;
    }
    let view = Discovery::new(registry.clone())
        .service("greeter")
        .await
        .unwrap();
    registry.memory.wipe();
    sleep(2 * SECOND).await;
    assert_eq!(ids(&view).len(), 4);
    assert_eq!(view.snapshot().held, 4);
    assert!(!view.snapshot().freshness.is_fresh());
    register(&*registry, "a", 1).await;
    register(&*registry, "b", 7).await;
    sleep(SECOND).await;
    assert_eq!(view.snapshot().held, 2);
    assert_eq!(view.snapshot().instances[1].weight, 7);
    // Registrants may need 10 s more than the window: the pause of an outage, and an attempt that hangs.
    sleep(15 * SECOND).await;
    assert_eq!(view.snapshot().held, 2);
    sleep(4 * SECOND).await;
    assert_eq!(ids(&view), ["a", "b"]);
    assert!(view.snapshot().freshness.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn graceful_removals_and_scale_to_zero_are_not_delayed() {
    let registry = slow_to_heal();
    for id in ["a", "b"] {
        register(&*registry, id, 1).await;
    }
    let view = Discovery::new(registry.clone())
        .service("greeter")
        .await
        .unwrap();
    for instance in view.snapshot().instances.iter() {
        registry.deregister(&instance.key()).await.unwrap();
    }
    shows(&view, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn the_guard_can_be_turned_off() {
    let registry = slow_to_heal();
    register(&*registry, "a", 1).await;
    let config = DiscoveryConfig::default().guard(GuardPolicy::off());
    let view = Discovery::with_config(registry.clone(), config)
        .service("greeter")
        .await
        .unwrap();
    registry.memory.wipe();
    shows(&view, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn no_configuration_is_too_long_a_time() {
    let ages = Duration::MAX;
    let config = DiscoveryConfig::default()
        .first_snapshot(ages)
        .attempt_timeout(ages)
        .guard(GuardPolicy::default().hold(ages).armed(ages));
    let registry = slow_to_heal();
    for id in ["a", "b"] {
        register(&*registry, id, 1).await;
    }
    let view = Discovery::with_config(registry.clone(), config)
        .service("greeter")
        .await
        .unwrap();
    registry.memory.wipe();
    sleep(HOUR).await;
    assert_eq!(ids(&view), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn one_service_that_hangs_or_panics_is_alone_with_it() {
    for panics in [false, true] {
        let registry = Scripted::new();
        registry.spoil("spoilt", panics);
        let discovery = Discovery::new(registry.clone());
        let _spoilt = discovery.service("spoilt").await.unwrap();
        let mut views = Vec::new();
        for i in 0..20 {
            views.push(discovery.service(format!("s{i}")).await.unwrap());
        }
        registry.memory.set_outage(true);
        sleep(30 * SECOND).await;
        registry.memory.set_outage(false);
        eventually(20 * SECOND, "all others are fresh", async || {
            views
                .iter()
                .all(|view| view.snapshot().freshness.is_fresh())
                .then_some(())
        })
        .await;
    }
}
