//! Calls of one key go to one instance, and few keys move.

use registry_core::{BoundedLoad, PickRequest, PowerOfTwo, Status, Sticky, ZonePreference};

use crate::fleet::{Fleet, algorithm, id, instance, owner, owners, settle};

const KEYS: usize = 20_000;
const HASHES: [&str; 4] = ["ring hash", "maglev", "rendezvous", "bounded load"];

fn moved(before: &[String], after: &[String]) -> usize {
    before
        .iter()
        .zip(after)
        .filter(|(one, other)| one != other)
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_removal_moves_the_keys_of_who_is_gone() {
    for name in HASHES {
        let fleet = Fleet::of(&[1; 20]).await;
        let balancer = fleet.balancer(algorithm(name)).await;
        let before = owners(&balancer, KEYS);
        fleet.remove(7).await;
        settle().await;
        let after = owners(&balancer, KEYS);
        let others = before
            .iter()
            .zip(&after)
            .filter(|(one, other)| **one != id(7) && one != other)
            .count();
        let had = before.iter().filter(|owner| **owner == id(7)).count();
        assert!(had > KEYS / 40 && !after.contains(&id(7)), "{name}");
        // A table moves others as well: as many again at most.
        let allowed = if name == "maglev" { had } else { 0 };
        assert!(others <= allowed, "{name}: {others} others moved");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_more_takes_its_share_and_moves_nobody_elses() {
    for name in HASHES {
        let fleet = Fleet::of(&[1; 20]).await;
        let balancer = fleet.balancer(algorithm(name)).await;
        let before = owners(&balancer, KEYS);
        fleet.put(instance(20)).await;
        settle().await;
        let after = owners(&balancer, KEYS);
        let taken = after.iter().filter(|owner| **owner == id(20)).count();
        let due = KEYS / 21;
        assert!(
            taken.abs_diff(due) < due * 2 / 5,
            "{name}: {taken} of {due}"
        );
        let others = moved(&before, &after) - taken;
        let allowed = if name == "maglev" { due } else { 0 };
        assert!(others <= allowed, "{name}: {others} others moved");
        // And back again.
        fleet.remove(20).await;
        settle().await;
        assert_eq!(owners(&balancer, KEYS), before, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_weight_that_changes_moves_the_keys_of_its_instance_only() {
    let fleet = Fleet::of(&[4; 10]).await;
    let balancer = fleet.balancer(algorithm("rendezvous")).await;
    let before = owners(&balancer, KEYS);
    fleet.put(instance(3).weight(2)).await;
    settle().await;
    let after = owners(&balancer, KEYS);
    let pairs = before.iter().zip(&after);
    let lost = pairs
        .filter(|(one, other)| one != other)
        .inspect(|(one, _)| assert_eq!(**one, id(3)));
    // It had a tenth, and has 2 of 38 parts.
    let due = KEYS / 10 - KEYS * 2 / 38;
    assert!(lost.count().abs_diff(due) < due / 5);
}

#[tokio::test(start_paused = true)]
async fn no_instance_is_loaded_above_its_bound() {
    fastrand::seed(5);
    let weights = [1, 1, 2, 4];
    let fleet = Fleet::of(&weights).await;
    let balancer = fleet.balancer(BoundedLoad::default()).await;
    let mut held = Vec::new();
    let mut load = [0_u32; 4];
    for made in 1..=400_u32 {
        // Two keys make all the calls.
        let request = PickRequest::default().key(if made % 3 == 0 { "cold" } else { "hot" });
        let pick = balancer.pick_with(&request).unwrap();
        let i: usize = pick.instance().id.as_str()[1..].parse().unwrap();
        load[i] += 1;
        held.push(pick);
        let bound = 1.25 * f64::from(made) * f64::from(weights[i]) / 8.0;
        assert!(f64::from(load[i]) <= bound.ceil(), "{load:?} at {made}");
    }
    drop(held);
    let request = PickRequest::default().key("hot");
    let first = balancer.pick_with(&request).unwrap().instance().id.clone();
    for _ in 0..100 {
        let pick = balancer.pick_with(&request).unwrap();
        assert_eq!(pick.instance().id, first, "without load it is a plain ring");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sticky_stays_until_its_instance_goes() {
    let fleet = Fleet::of(&[1; 5]).await;
    let balancer = fleet.balancer(Sticky::new(PowerOfTwo::default())).await;
    let before = owners(&balancer, 500);
    assert_eq!(owners(&balancer, 500), before);
    fleet.put(instance(5)).await;
    settle().await;
    assert_eq!(
        owners(&balancer, 500),
        before,
        "nobody moves to the new one"
    );
    // Its keys stay with one that drains; it gets no new ones.
    fleet.put(instance(2).status(Status::Draining)).await;
    settle().await;
    assert_eq!(owners(&balancer, 500), before);
    assert!((0..200).all(|_| balancer.pick().unwrap().instance().id.as_str() != id(2)));
    fleet.remove(2).await;
    settle().await;
    let after = owners(&balancer, 500);
    for (one, other) in before.iter().zip(&after) {
        assert!(one == other || *one == id(2) && *other != id(2));
    }
    // A retry elsewhere moves no key.
    let request = PickRequest::default().key("1");
    let first = balancer.pick_with(&request).unwrap();
    let exclude = [first.member()];
    let retry = balancer.pick_with(&request.exclude(&exclude)).unwrap();
    assert_ne!(retry.member(), first.member());
    assert_eq!(owner(&balancer, 1), first.instance().id.as_str());
}

#[tokio::test(start_paused = true)]
async fn keys_stay_when_calls_are_shared_out_among_zones() {
    use registry_core::{DiscoveryConfig, RingHash};
    let fleet = Fleet::new();
    for i in 0..12 {
        fleet
            .put(instance(i).zone(if i < 2 { "here" } else { "there" }))
            .await;
    }
    let config = DiscoveryConfig::default().caller(None, Some("here".parse().unwrap()));
    let balancer = fleet
        .balancer_as(config, ZonePreference::new(RingHash::default()))
        .await;
    let before = owners(&balancer, 500);
    assert_eq!(owners(&balancer, 500), before);
    assert!(before.iter().any(|owner| *owner > id(1)), "some overflow");
}
