//! What the tests share.

#![allow(dead_code, reason = "not every test uses every helper")]

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Change, Instance, InstanceBuilder, InstanceKey, ReadOptions, Registration, Registry, Result,
    Scope, ServiceName, Watcher,
};
use registry_mdns::{Mdns, MdnsConfig};
use tokio::time::{Instant, sleep, timeout};

/// A bus of one's own: a port that nobody uses, on the loopback.
#[derive(Clone, Copy)]
pub(crate) struct Bus(pub(crate) u16);

impl Bus {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self(socket.local_addr().unwrap().port())
    }

    pub(crate) fn config(self) -> MdnsConfig {
        MdnsConfig::default().loopback(true).port(self.0)
    }

    pub(crate) fn client(self) -> Mdns {
        Mdns::new(self.config()).unwrap()
    }
}

pub(crate) fn instance(service: &str, id: &str) -> InstanceBuilder {
    Instance::new(service, "127.0.0.1:8080").id(id)
}

pub(crate) fn registration(builder: InstanceBuilder) -> Registration {
    builder.try_into().unwrap()
}

pub(crate) fn key(service: &str, id: &str) -> InstanceKey {
    instance(service, id).build().unwrap().key()
}

pub(crate) fn scope(service: &str) -> Scope {
    ServiceName::try_from(service).unwrap().into()
}

pub(crate) async fn lookup(client: &Mdns, service: &str) -> Result<Vec<Arc<Instance>>> {
    let service = ServiceName::try_from(service).unwrap();
    client.lookup(&service, &ReadOptions::default()).await
}

pub(crate) async fn ids(client: &Mdns, service: &str) -> Vec<String> {
    let instances = lookup(client, service).await.unwrap();
    instances
        .iter()
        .map(|instance| instance.id.to_string())
        .collect()
}

pub(crate) async fn watch(client: &Mdns, service: &str) -> Box<dyn Watcher> {
    client
        .watch(&scope(service), &ReadOptions::default())
        .await
        .unwrap()
}

/// The next changes, which have to come in time.
pub(crate) async fn next(watcher: &mut Box<dyn Watcher>, within: Duration) -> Vec<Change> {
    timeout(within, watcher.next())
        .await
        .expect("no change came")
        .unwrap()
}

/// Nothing comes for this long.
pub(crate) async fn quiet(watcher: &mut Box<dyn Watcher>, time: Duration) {
    if let Ok(changes) = timeout(time, watcher.next()).await {
        panic!("unexpected: {changes:?}");
    }
}

/// Polls until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(
    what: &str,
    within: Duration,
    condition: impl Fn() -> F,
) {
    let deadline = Instant::now() + within;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
