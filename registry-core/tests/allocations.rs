//! A pick allocates nothing, reported or not, with or without somebody to exclude; and weights do not take memory.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    BoundedLoad, Discovery, Instance, Maglev, Memory, Outcome, OutlierEjection, PeakEwma,
    PickRequest, PowerOfTwo, Random, Registration, Registry, Rendezvous, RingHash, RoundRobin,
    Selector, SlowStart, Sticky, Tiers, WeightedRandom, WeightedRoundRobin, ZonePreference,
};

#[tokio::test]
async fn a_pick_allocates_nothing() {
    check(RoundRobin::default()).await;
    check(PowerOfTwo::default()).await;
    check(PowerOfTwo::default().choices(4)).await;
    check(Random::default()).await;
    check(WeightedRandom::default()).await;
    check(WeightedRoundRobin::default()).await;
    check(PeakEwma::default()).await;
    check(RingHash::default()).await;
    check(Maglev::default()).await;
    check(Rendezvous::default()).await;
    check(BoundedLoad::default()).await;
    check(Sticky::new(PowerOfTwo::default())).await;
    check(OutlierEjection::new(Tiers::metadata(
        "tier",
        ZonePreference::new(SlowStart::new(PeakEwma::default())),
    )))
    .await;
}

async fn check(selector: impl Selector) {
    let memory = filled(|_| 1).await;
    let balancer = Discovery::new(memory)
        .balancer("service", selector)
        .await
        .unwrap();
    // The thread's random generator and arc-swap's slot are made at their first use.
    balancer.pick().unwrap().report(Outcome::Success);
    let counted = allocation_counter::measure(|| {
        for key in 0..1000_u64 {
            let request = PickRequest::default().key(key.to_le_bytes());
            let pick = balancer.pick_with(&request).unwrap();
            let other = balancer.pick_excluding(&[pick.member()]).unwrap();
            assert_ne!(pick.address().as_str(), "");
            pick.report(Outcome::Success);
            drop(other);
            for pick in balancer.attempts(2) {
                drop(pick);
            }
            // Nobody left is no reason to allocate either.
            let excluded = balancer.attempts(8).count();
            assert_eq!(excluded, 8);
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(
        allocation_counter::measure(|| drop(Box::new(balancer.pick()))).count_total > 0,
        "the counter counts"
    );
}

#[test]
fn weights_take_no_memory() {
    let build = |selector: Box<dyn Selector>, weight: fn(usize) -> u16| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let discovery = Discovery::new(filled(weight).await);
            // The first watch is not what is measured.
            discovery
                .balancer("service", Random::default())
                .await
                .unwrap();
            let mut building = Box::pin(discovery.balancer("service", selector));
            let counted = allocation_counter::measure(|| {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                while building.as_mut().poll(&mut context).is_pending() {}
            });
            counted.bytes_max
        })
    };
    let selectors: [fn() -> Box<dyn Selector>; 6] = [
        || Box::new(WeightedRoundRobin::default()),
        || Box::new(WeightedRandom::default()),
        || Box::new(PowerOfTwo::default()),
        || Box::new(RingHash::default()),
        || Box::new(Maglev::default()),
        || Box::new(Rendezvous::default()),
    ];
    for (i, selector) in selectors.into_iter().enumerate() {
        let even = build(selector(), |_| 1);
        let mixed: [fn(usize) -> u16; 3] = [
            |_| u16::MAX,
            |i| if i == 0 { u16::MAX } else { 1 },
            |i| if i % 2 == 0 { u16::MAX } else { 1 },
        ];
        for weight in mixed {
            let weighted = build(selector(), weight);
            assert!(weighted < 3 * even, "{i}: {even} bytes, then {weighted}");
        }
    }
}

async fn filled(weight: impl Fn(usize) -> u16) -> Arc<Memory> {
    let memory = Arc::new(Memory::new());
    for i in 0..100 {
        let instance = Instance::new("service", "10.0.0.1:80")
            .id(i.to_string())
            .weight(weight(i));
        let registration = Registration::new(instance).unwrap();
        let registration = registration.ttl(Duration::from_secs(3600));
        memory.register(&registration).await.unwrap();
    }
    memory
}
