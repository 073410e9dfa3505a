//! A service in memory, and a balancer of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Balancer, BoundedLoad, Discovery, DiscoveryConfig, Instance, InstanceBuilder, Maglev, Memory,
    OutlierEjection, PeakEwma, PickRequest, PowerOfTwo, Random, Registration, Registry, Rendezvous,
    RingHash, RoundRobin, Selector, Sticky, WeightedRandom, WeightedRoundRobin,
};
use tokio::time::sleep;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What was picked how often.
pub(crate) type Shares = BTreeMap<String, usize>;

pub(crate) struct Fleet {
    pub(crate) memory: Arc<Memory>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            memory: Arc::new(Memory::new()),
        }
    }

    /// Instances `i000`, `i001`, … of these weights.
    pub(crate) async fn of(weights: &[u16]) -> Self {
        let fleet = Self::new();
        for (i, weight) in weights.iter().enumerate() {
            fleet.put(instance(i).weight(*weight)).await;
        }
        fleet
    }

    pub(crate) async fn put(&self, instance: InstanceBuilder) {
        let registration = Registration::new(instance).unwrap().ttl(3600 * SECOND);
        self.memory.register(&registration).await.unwrap();
    }

    pub(crate) async fn remove(&self, i: usize) {
        let instance = instance(i).build().unwrap();
        self.memory.deregister(&instance.key()).await.unwrap();
    }

    pub(crate) async fn balancer(&self, selector: impl Selector) -> Balancer {
        self.balancer_as(DiscoveryConfig::default(), selector).await
    }

    pub(crate) async fn balancer_as(
        &self,
        config: DiscoveryConfig,
        selector: impl Selector,
    ) -> Balancer {
        let discovery = Discovery::with_config(self.memory.clone(), config);
        discovery.balancer("service", selector).await.unwrap()
    }
}

pub(crate) fn instance(i: usize) -> InstanceBuilder {
    Instance::new("service", "10.0.0.1:80").id(format!("i{i:03}"))
}

/// Lets the balancer take over what has changed.
pub(crate) async fn settle() {
    sleep(SECOND / 20).await;
}

pub(crate) fn id(i: usize) -> String {
    format!("i{i:03}")
}

pub(crate) fn shares(balancer: &Balancer, picks: usize) -> Shares {
    let mut shares = Shares::new();
    for _ in 0..picks {
        let pick = balancer.pick().unwrap();
        *shares.entry(pick.instance().id.to_string()).or_default() += 1;
    }
    shares
}

pub(crate) fn owner(balancer: &Balancer, key: usize) -> String {
    let request = PickRequest::default().key(key.to_string());
    let pick = balancer.pick_with(&request).unwrap();
    pick.instance().id.to_string()
}

pub(crate) fn owners(balancer: &Balancer, keys: usize) -> Vec<String> {
    (0..keys).map(|key| owner(balancer, key)).collect()
}

/// Every selector that chooses among instances.
pub(crate) const ALGORITHMS: [&str; 12] = [
    "random",
    "round robin",
    "weighted random",
    "weighted round robin",
    "power of two",
    "five choices",
    "peak ewma",
    "ring hash",
    "maglev",
    "rendezvous",
    "bounded load",
    "sticky",
];

pub(crate) fn algorithm(name: &str) -> Box<dyn Selector> {
    match name {
        "random" => Box::new(Random::default()),
        "round robin" => Box::new(RoundRobin::default()),
        "weighted random" => Box::new(WeightedRandom::default()),
        "weighted round robin" => Box::new(WeightedRoundRobin::default()),
        "power of two" => Box::new(PowerOfTwo::default()),
        "five choices" => Box::new(PowerOfTwo::default().choices(5)),
        "peak ewma" => Box::new(PeakEwma::default()),
        "ring hash" => Box::new(RingHash::default()),
        "maglev" => Box::new(Maglev::default()),
        "rendezvous" => Box::new(Rendezvous::default()),
        "bounded load" => Box::new(BoundedLoad::default()),
        "sticky" => Box::new(Sticky::new(PowerOfTwo::default())),
        "ejection" => Box::new(OutlierEjection::new(PowerOfTwo::default())),
        _ => panic!("no selector {name}"),
    }
}
