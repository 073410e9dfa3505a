//! A pick allocates nothing, reported or not, with or without somebody to exclude.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Discovery, Instance, Memory, Outcome, PowerOfTwo, Random, Registration, Registry, RoundRobin,
    Selector,
};

#[tokio::test]
async fn a_pick_allocates_nothing() {
    check(RoundRobin::default()).await;
    check(PowerOfTwo::default()).await;
    check(Random::default()).await;
}

async fn check(selector: impl Selector) {
    let memory = Arc::new(Memory::new());
    for i in 0..100 {
        let instance = Instance::new("service", "10.0.0.1:80").id(i.to_string());
        memory
            .register(
                &Registration::new(instance)
                    .unwrap()
                    .ttl(Duration::from_secs(3600)),
            )
            .await
            .unwrap();
    }
    let balancer = Discovery::new(memory)
        .balancer("service", selector)
        .await
        .unwrap();
    // The thread's random generator and arc-swap's slot are made at their first use.
    balancer.pick().unwrap().report(Outcome::Success);
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let pick = balancer.pick().unwrap();
            let other = balancer.pick_excluding(&[pick.member()]).unwrap();
            assert_ne!(pick.address().as_str(), "");
            pick.report(Outcome::Success);
            drop(other);
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(
        allocation_counter::measure(|| drop(Box::new(balancer.pick()))).count_total > 0,
        "the counter counts"
    );
}
