//! What registrars, discoveries and balancers tell the recorder of the crate `metrics`.

#![cfg(feature = "metrics")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Scripted, eventually};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString,
    Unit,
};
use registry_core::{
    Discovery, Instance, Outcome, Registrar, Registration, Registry, RoundRobin, Status,
};

/// The values by name and labels.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<BTreeMap<String, f64>>>);

struct Entry(Book, String);

impl Entry {
    fn edit(&self, edit: impl FnOnce(&mut f64)) {
        edit(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Entry {
    fn increment(&self, value: u64) {
        self.edit(|now| *now += value as f64);
    }
    fn absolute(&self, value: u64) {
        self.edit(|now| *now = value as f64);
    }
}

impl GaugeFn for Entry {
    fn increment(&self, value: f64) {
        self.edit(|now| *now += value);
    }
    fn decrement(&self, value: f64) {
        self.edit(|now| *now -= value);
    }
    fn set(&self, value: f64) {
        self.edit(|now| *now = value);
    }
}

impl Book {
    fn entry(&self, key: &Key) -> Arc<Entry> {
        let labels = key
            .labels()
            .map(|label| format!(" {}={}", label.key(), label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        Arc::new(Entry(self.clone(), name))
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.lock().unwrap().get(name).copied()
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.entry(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.entry(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_registrar_and_a_discovery_tell_of_their_calls() {
    let book = Book::default();
    let _set = metrics::set_default_local_recorder(&book);
    let registry = Scripted::new();
    let (registrar, discovery) = (
        Registrar::new(registry.clone()),
        Discovery::new(registry.clone()),
    );
    let handle = |id| registrar.register(Instance::new("greeter", "10.0.0.1:80").id(id));
    let (a, b) = (handle("a").await.unwrap(), handle("b").await.unwrap());
    let _view = discovery.service("greeter").await.unwrap();
    let told = async |name: &str, wanted: &dyn Fn(f64) -> bool| {
        let minute = Duration::from_secs(60);
        eventually(minute, name, async || {
            book.get(name).filter(|value| wanted(*value))
        })
        .await
    };
    let ok = "registry_attempts_total operation=register outcome=ok";
    assert_eq!(book.get(ok), Some(2.0));
    let registered = "registry_registrations state=registered";
    assert_eq!(book.get(registered), Some(2.0));
    assert_eq!(book.get("registry_registrations state=degraded"), Some(0.0));
    told(
        "registry_attempts_total operation=renew outcome=ok",
        &|count| count >= 1.0,
    )
    .await;
    registry.memory.forget(a.key());
    told("registry_forgotten_total", &|count| count == 1.0).await;
    told(ok, &|count| count == 3.0).await;
    registry.memory.set_outage(true);
    let away = "registry_attempts_total operation=renew outcome=unavailable";
    told(away, &|count| count >= 1.0).await;
    told("registry_registrations state=degraded", &|count| {
        count == 2.0
    })
    .await;
    registry.memory.set_outage(false);
    told(registered, &|count| count == 2.0).await;
    told("registry_resyncs_total service=greeter", &|count| {
        count >= 1.0
    })
    .await;
    a.deregister().await.unwrap();
    assert_eq!(book.get(registered), Some(1.0));
    let left = "registry_attempts_total operation=deregister outcome=ok";
    assert_eq!(book.get(left), Some(1.0));
    drop(b);
    told(registered, &|count| count == 0.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_balancer_tells_of_its_instances_and_calls() {
    let book = Book::default();
    let _set = metrics::set_default_local_recorder(&book);
    let registry = Scripted::new();
    let put = async |id: &str, status| {
        let instance = Instance::new("greeter", "10.0.0.1:80")
            .id(id)
            .status(status);
        let registration = Registration::new(instance)
            .unwrap()
            .ttl(Duration::from_secs(3600));
        registry.register(&registration).await.unwrap();
    };
    put("a", Status::Up).await;
    put("b", Status::Up).await;
    put("c", Status::Draining).await;
    let discovery = Discovery::new(registry.clone());
    let balancer = discovery
        .balancer("greeter", RoundRobin::default())
        .await
        .unwrap();
    for i in 0..10 {
        let outcome = if i < 3 {
            Outcome::Failure
        } else {
            Outcome::Success
        };
        balancer.pick().unwrap().report(outcome);
    }
    let held = balancer.pick().unwrap();
    let told = async |name: &str, value: f64| {
        let minute = Duration::from_secs(60);
        eventually(minute, name, async || {
            (book.get(name) == Some(value)).then_some(())
        })
        .await;
    };
    told("registry_instances service=greeter", 3.0).await;
    told(
        "registry_instances_left_out service=greeter reason=draining",
        1.0,
    )
    .await;
    told("registry_calls_total service=greeter outcome=success", 7.0).await;
    told("registry_calls_total service=greeter outcome=failure", 3.0).await;
    told("registry_calls_in_flight service=greeter", 1.0).await;
    told("registry_stale_seconds service=greeter", 0.0).await;
    assert!(book.get("registry_picker_builds_total service=greeter") >= Some(1.0));
    drop(held);
    balancer.pick().unwrap().report(Outcome::Success);
    put("c", Status::Up).await;
    told(
        "registry_instances_left_out service=greeter reason=draining",
        0.0,
    )
    .await;
    told("registry_calls_total service=greeter outcome=success", 8.0).await;
    told("registry_calls_in_flight service=greeter", 0.0).await;
    registry.memory.set_outage(true);
    eventually(
        Duration::from_secs(120),
        "it tells that it is stale",
        async || (book.get("registry_stale_seconds service=greeter") > Some(10.0)).then_some(()),
    )
    .await;
}
