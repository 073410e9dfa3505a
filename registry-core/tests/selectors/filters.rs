//! Filters leave out and share out as they say.

use std::collections::BTreeMap;
use std::time::Duration;

use registry_core::{
    Aperture, Balancer, Discovery, DiscoveryConfig, Endpoint, ErrorKind, Instance, Only,
    OutlierEjection, PickErrorKind, PickRequest, PowerOfTwo, Random, Registration, Registry,
    RoundRobin, Selector, SlowStart, Status, Sticky, Subset, Tiers, WeightedRandom, ZonePreference,
};
use tokio::time::sleep;

use crate::fleet::{Fleet, SECOND, id, instance, settle, shares};

/// What filters and weights offer to each instance.
fn offered(balancer: &Balancer) -> BTreeMap<String, f32> {
    let (_, explanation) = balancer.explain(&PickRequest::default());
    let shares = explanation.instances.iter();
    shares
        .map(|one| (one.instance.id.to_string(), one.share))
        .collect()
}

fn near(one: f32, other: f32) -> bool {
    (one - other).abs() < 1e-3
}

#[tokio::test(start_paused = true)]
async fn only_those_of_a_kind_are_picked() {
    let fleet = Fleet::new();
    fleet.put(instance(0).version("1")).await;
    fleet
        .put(instance(1).version("2").meta("tier", "gold"))
        .await;
    fleet
        .put(instance(2).endpoint(Endpoint::new("Greeter.Hello".parse().unwrap())))
        .await;
    let only = async |selector| {
        let balancer = fleet.balancer(selector).await;
        shares(&balancer, 20).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(only(Only::version("1", Random::default())).await, [id(0)]);
    assert_eq!(
        only(Only::metadata("tier", "gold", Random::default())).await,
        [id(1)]
    );
    assert_eq!(
        only(Only::endpoint("Greeter.Hello", Random::default())).await,
        [id(2)]
    );
    // Two of them, and nobody is both.
    let both = Only::version("1", Only::metadata("tier", "gold", Random::default()));
    let balancer = fleet.balancer(both).await;
    let error = balancer.pick().unwrap_err();
    assert_eq!(error.kind(), PickErrorKind::NoneEligible);
    assert_eq!(
        error.to_string(),
        "service service: none of 3 may be called: 1 other metadata, 2 other version"
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_that_makes_no_sense_is_refused() {
    let fleet = Fleet::of(&[1]).await;
    let discovery = Discovery::new(fleet.memory.clone());
    let p2c = PowerOfTwo::default;
    let wrong: Vec<(&str, Box<dyn Selector>)> = vec![
        (
            "zone in slow start",
            Box::new(SlowStart::new(ZonePreference::new(p2c()))),
        ),
        (
            "ejection in zone",
            Box::new(ZonePreference::new(OutlierEjection::new(p2c()))),
        ),
        ("twice", Box::new(SlowStart::new(SlowStart::new(p2c())))),
        (
            "two subsets",
            Box::new(Subset::new(3, Aperture::new(p2c()))),
        ),
        (
            "kind in zone",
            Box::new(ZonePreference::new(Only::version("1", p2c()))),
        ),
        (
            "slow start in sticky",
            Box::new(Sticky::new(SlowStart::new(p2c()))),
        ),
        (
            "tiers in zone",
            Box::new(ZonePreference::new(Tiers::metadata("tier", p2c()))),
        ),
        ("one choice", Box::new(p2c().choices(1))),
        ("an empty subset", Box::new(Subset::new(0, p2c()))),
        (
            "an aperture of even ones",
            Box::new(Aperture::new(RoundRobin::default())),
        ),
        (
            "no window",
            Box::new(SlowStart::new(p2c()).window(Duration::ZERO)),
        ),
        (
            "all ejected",
            Box::new(OutlierEjection::new(p2c()).most_ejected(1.0)),
        ),
        ("odd places", Box::new(Sticky::new(p2c()).places(1000))),
        (
            "not a number",
            Box::new(Tiers::metadata("tier", p2c()).headroom(f64::NAN)),
        ),
    ];
    for (what, selector) in wrong {
        let error = discovery.balancer("service", selector).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{what}");
    }
    let all = OutlierEjection::new(Tiers::metadata(
        "tier",
        ZonePreference::new(Subset::new(3, SlowStart::new(Sticky::new(p2c())))),
    ));
    let all = Only::version("1", Only::metadata("a", "b", all));
    discovery.balancer("service", all).await.unwrap();
}

/// Callers `c0`, … of service `client` in these zones.
async fn callers(fleet: &Fleet, zones: &[&str]) {
    for (i, zone) in zones.iter().enumerate() {
        let caller = Instance::new("client", "10.0.0.2:80")
            .id(format!("c{i}"))
            .zone(*zone);
        let registration = Registration::new(caller).unwrap().ttl(3600 * SECOND);
        fleet.memory.register(&registration).await.unwrap();
    }
}

fn caller(i: usize, zone: &str) -> DiscoveryConfig {
    let key = Instance::new("client", "10.0.0.2:80")
        .id(format!("c{i}"))
        .build()
        .unwrap()
        .key();
    DiscoveryConfig::default().caller(Some(key), Some(zone.parse().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn zones_take_their_own_calls_and_overflow_in_proportion() {
    // Unequal on both sides, and a zone with instances but no callers.
    let callers_in = ["a", "a", "a", "a", "b", "b", "c"];
    let instances_in = ["a", "a", "b", "b", "b", "b", "c", "d", "d"];
    let fleet = Fleet::new();
    callers(&fleet, &callers_in).await;
    for (i, zone) in instances_in.iter().enumerate() {
        fleet.put(instance(i).zone(*zone)).await;
    }
    let mut load = BTreeMap::new();
    for (i, zone) in callers_in.iter().enumerate() {
        let selector = ZonePreference::new(RoundRobin::default());
        let balancer = fleet.balancer_as(caller(i, zone), selector).await;
        let offered = offered(&balancer);
        let home: f32 = instances_in
            .iter()
            .enumerate()
            .filter(|(_, theirs)| *theirs == zone)
            .map(|(i, _)| offered[&id(i)])
            .sum();
        // 2/9 of the instances for 4/7 of the calls; more than enough; 1/9 for 1/7.
        let due = match *zone {
            "a" => (2.0 / 9.0) / (4.0 / 7.0),
            "b" => 1.0,
            _ => (1.0 / 9.0) / (1.0 / 7.0),
        };
        assert!(near(home, due), "{zone}: {home}, due {due}");
        for (instance, share) in offered {
            *load.entry(instance).or_insert(0.0) += share;
        }
        // And picks follow.
        let picked = shares(&balancer, 9_000);
        let home: usize = instances_in
            .iter()
            .enumerate()
            .filter(|(_, theirs)| *theirs == zone)
            .map(|(i, _)| picked.get(&id(i)).copied().unwrap_or_default())
            .sum();
        assert!((home as f32 / 9_000.0 - due).abs() < 0.03, "{zone}");
    }
    for (instance, load) in load {
        assert!(
            near(load, 7.0 / 9.0),
            "{instance} is called as much as any other: {load}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_zone_without_anybody_well_is_no_preference() {
    let fleet = Fleet::new();
    fleet.put(instance(0).zone("here")).await;
    fleet.put(instance(1).zone("there")).await;
    fleet.put(instance(2).zone("there")).await;
    let selector = ZonePreference::new(Random::default());
    let config = DiscoveryConfig::default().caller(None, Some("here".parse().unwrap()));
    let balancer = fleet.balancer_as(config, selector).await;
    // Of two zones each has half of the callers, as far as is known, and here is a third of the instances.
    assert!(
        near(offered(&balancer)[&id(0)], 2.0 / 3.0),
        "{:?}",
        offered(&balancer)
    );
    fleet
        .put(instance(0).zone("here").status(Status::Down))
        .await;
    settle().await;
    assert_eq!(shares(&balancer, 100).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_finds_the_other_zone_where_home_is_tried() {
    let fleet = Fleet::new();
    fleet.put(instance(0).zone("here").weight(9)).await;
    fleet.put(instance(1).zone("there")).await;
    let config = DiscoveryConfig::default().caller(None, Some("here".parse().unwrap()));
    let balancer = fleet
        .balancer_as(config, ZonePreference::new(Random::default()))
        .await;
    assert_eq!(shares(&balancer, 100).len(), 1);
    let first = balancer.pick().unwrap();
    let retry = balancer.pick_excluding(&[first.member()]).unwrap();
    assert_eq!(retry.instance().id.as_str(), id(1));
}

#[tokio::test(start_paused = true)]
async fn tiers_spill_by_what_is_well_and_panic_when_little_is() {
    let fleet = Fleet::new();
    for i in 0..20 {
        fleet
            .put(instance(i).meta("tier", if i < 10 { "0" } else { "1" }))
            .await;
    }
    let balancer = fleet
        .balancer(Tiers::metadata("tier", Random::default()))
        .await;
    let first = |offered: &BTreeMap<String, f32>| -> f32 {
        offered
            .iter()
            .filter(|(name, _)| **name < id(10))
            .map(|(_, share)| share)
            .sum()
    };
    let down = async |from: usize, to: usize| {
        for i in from..to {
            let tier = if i < 10 { "0" } else { "1" };
            fleet
                .put(instance(i).meta("tier", tier).status(Status::Down))
                .await;
        }
        settle().await;
    };
    assert!(near(first(&offered(&balancer)), 1.0));
    down(0, 2).await;
    assert!(
        near(first(&offered(&balancer)), 1.0),
        "8 of 10 have the headroom for all"
    );
    down(2, 5).await;
    assert!(
        near(first(&offered(&balancer)), 0.7),
        "5 of 10 take 1.4 times a half"
    );
    assert!(offered(&balancer)[&id(0)] == 0.0);
    down(5, 10).await;
    assert!(near(first(&offered(&balancer)), 0.0));
    // Now 2 of 10 are well in the second tier: with 0.28 of the calls in all, it is called whole.
    down(10, 18).await;
    let panicking = offered(&balancer);
    assert!(
        near(panicking[&id(10)], 0.1) && near(panicking[&id(19)], 0.1),
        "{panicking:?}"
    );
    // What does not want calls is left alone even then.
    fleet
        .put(instance(10).meta("tier", "1").status(Status::Draining))
        .await;
    settle().await;
    assert!(near(offered(&balancer)[&id(10)], 0.0));
}

#[tokio::test(start_paused = true)]
async fn apertures_of_all_callers_cover_all_instances_evenly() {
    for (callers_in, instances_in, least) in [(5, 40, 12), (7, 31, 3), (40, 10, 3), (3, 100, 12)] {
        let fleet = Fleet::of(&vec![1; instances_in]).await;
        callers(&fleet, &vec!["a"; callers_in]).await;
        let mut load = BTreeMap::new();
        for i in 0..callers_in {
            let selector = Aperture::new(WeightedRandom::default()).least(least);
            let balancer = fleet.balancer_as(caller(i, "a"), selector).await;
            let offered = offered(&balancer);
            let size = offered.values().filter(|share| **share > 0.0).count();
            assert!(size >= least.min(instances_in), "{size}");
            let slices = (least * callers_in)
                .div_ceil(instances_in)
                .clamp(1, callers_in);
            assert!(
                size <= (slices * instances_in).div_ceil(callers_in) + 1,
                "{size}"
            );
            for (instance, share) in offered {
                *load.entry(instance).or_insert(0.0) += share;
            }
        }
        for load in load.values() {
            assert!(
                near(*load, callers_in as f32 / instances_in as f32),
                "{load}"
            );
        }
    }
    // Who is not among the callers, or has no key, has a subset.
    let fleet = Fleet::of(&[1; 40]).await;
    let balancer = fleet
        .balancer_as(caller(9, "a"), Aperture::new(WeightedRandom::default()))
        .await;
    assert_eq!(
        offered(&balancer)
            .values()
            .filter(|share| **share > 0.0)
            .count(),
        12
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_instance_gets_its_share_little_by_little() {
    let fleet = Fleet::of(&[1; 3]).await;
    let balancer = fleet
        .balancer(SlowStart::new(WeightedRandom::default()))
        .await;
    assert!(
        near(offered(&balancer)[&id(0)], 1.0 / 3.0),
        "all are new: all are alike"
    );
    sleep(60 * SECOND).await;
    fleet.put(instance(3)).await;
    settle().await;
    let part = |balancer: &Balancer| {
        let offered = offered(balancer);
        offered[&id(3)] / offered[&id(0)]
    };
    assert!(near(part(&balancer), 0.1), "{}", part(&balancer));
    sleep(15 * SECOND).await;
    assert!((part(&balancer) - 0.5).abs() < 0.06, "{}", part(&balancer));
    sleep(16 * SECOND).await;
    assert!(near(part(&balancer), 1.0));
    // Being called again is being new; another label is not.
    fleet.put(instance(3).meta("a", "b")).await;
    settle().await;
    assert!(near(part(&balancer), 1.0));
    fleet.put(instance(3).status(Status::Starting)).await;
    settle().await;
    fleet.put(instance(3)).await;
    settle().await;
    assert!(near(part(&balancer), 0.1));
}
