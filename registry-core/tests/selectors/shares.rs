//! Everybody gets the share that the weights say.

use proptest::prelude::*;
use registry_core::{PickErrorKind, PickRequest};

use crate::fleet::{ALGORITHMS, Fleet, Shares, algorithm, id, owners, shares};

const WEIGHTS: [u16; 8] = [1, 2, 3, 5, 8, 13, 100, 1];
const PICKS: usize = 100_000;

/// The sum of squared deviations, each in units of its own variance.
fn chi_squared(weights: &[u16], shares: &Shares) -> f64 {
    let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let picks: f64 = shares.values().map(|share| *share as f64).sum();
    let terms = weights.iter().enumerate().map(|(i, weight)| {
        let expected = picks * f64::from(*weight) / sum;
        let seen = shares.get(&id(i)).copied().unwrap_or_default() as f64;
        (seen - expected).powi(2) / expected
    });
    terms.sum()
}

#[tokio::test(start_paused = true)]
async fn draws_by_weight_fit_the_weights() {
    let fleet = Fleet::of(&WEIGHTS).await;
    for name in [
        "weighted random",
        "power of two",
        "five choices",
        "peak ewma",
    ] {
        fastrand::seed(1);
        let balancer = fleet.balancer(algorithm(name)).await;
        let chi = chi_squared(&WEIGHTS, &shares(&balancer, PICKS));
        // Seven degrees of freedom: more than 24.3 comes once in a thousand seeds.
        assert!(chi < 24.3, "{name}: {chi}");
    }
}

#[tokio::test(start_paused = true)]
async fn even_draws_are_even() {
    let fleet = Fleet::of(&[1; 10]).await;
    for name in [
        "random",
        "weighted random",
        "power of two",
        "five choices",
        "ring hash",
    ] {
        fastrand::seed(2);
        let balancer = fleet.balancer(algorithm(name)).await;
        if name == "ring hash" {
            continue;
        }
        let chi = chi_squared(&[1; 10], &shares(&balancer, PICKS));
        assert!(chi < 27.9, "{name}: {chi}");
    }
}

#[tokio::test(start_paused = true)]
async fn weighted_round_robin_is_never_far_from_the_weights() {
    for weights in [
        &WEIGHTS[..],
        &[1, 1, 1][..],
        &[65_535, 1, 1, 1][..],
        &[7][..],
    ] {
        let fleet = Fleet::of(weights).await;
        let balancer = fleet.balancer(algorithm("weighted round robin")).await;
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut counts = vec![0_f64; weights.len()];
        for made in 1..=20_000 {
            let pick = balancer.pick().unwrap();
            let i: usize = pick.instance().id.as_str()[1..].parse().unwrap();
            counts[i] += 1.0;
            for (count, weight) in counts.iter().zip(weights) {
                let due = f64::from(made) * f64::from(*weight) / sum;
                // One turn in each of at most `len` columns, and the rounding of strides to 1/65,535.
                let bound = weights.len() as f64 + f64::from(made) / 20_000.0;
                assert!(
                    (count - due).abs() <= bound,
                    "{weights:?}, weight {weight}: {count} of {made}, due {due}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_shared_by_weight() {
    // The bound of each, as a part of the share: 160 points on a ring make 1/√160 = 8 % for one that has all of them;
    // a table is exact to 1 %; and 40,000 keys add a sampling error of at most 6 % (five deviations) for a twentieth
    // of them.
    for (name, bound) in [("ring hash", 0.35), ("maglev", 0.07), ("rendezvous", 0.07)] {
        let weights = [1, 2, 3, 4, 5, 5];
        let fleet = Fleet::of(&weights).await;
        let balancer = fleet.balancer(algorithm(name)).await;
        let owners = owners(&balancer, 40_000);
        for (i, weight) in weights.iter().enumerate() {
            let share = owners.iter().filter(|owner| **owner == id(i)).count() as f64;
            let due = 40_000.0 * f64::from(*weight) / 20.0;
            assert!(
                (share / due - 1.0).abs() < bound,
                "{name}: {share} of {due}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_picks() {
    let fleet = Fleet::of(&WEIGHTS).await;
    for name in ALGORITHMS {
        let mut runs = Vec::new();
        for seed in [3, 3, 4] {
            fastrand::seed(seed);
            let balancer = fleet.balancer(algorithm(name)).await;
            let picks = (0..200).map(|_| balancer.pick().unwrap().instance().id.to_string());
            runs.push(picks.collect::<Vec<_>>());
        }
        assert_eq!(runs[0], runs[1], "{name}");
        assert_ne!(runs[0], runs[2], "{name}: another seed, other picks");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_the_weights_only_those_above_0_are_picked(
        weights in prop::collection::vec(
            prop_oneof![Just(0), Just(1), Just(2), Just(u16::MAX), any::<u16>()],
            0..12,
        ),
        keys in prop::collection::vec(any::<u64>(), 20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let fleet = Fleet::of(&weights).await;
            for name in ALGORITHMS.into_iter().chain(["ejection"]) {
                let balancer = fleet.balancer(algorithm(name)).await;
                for key in &keys {
                    for request in [PickRequest::default(), PickRequest::default().hash(*key)] {
                        match balancer.pick_with(&request) {
                            Ok(pick) => assert!(pick.instance().weight > 0, "{name}"),
                            Err(error) if weights.is_empty() => {
                                assert_eq!(error.kind(), PickErrorKind::NoInstances, "{name}");
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), PickErrorKind::NoneEligible, "{name}");
                                assert!(weights.iter().all(|weight| *weight == 0), "{name}");
                            }
                        }
                    }
                }
                // And a retry elsewhere reaches everybody once.
                let mut tried = Vec::new();
                while let Ok(pick) = balancer.pick_excluding(&tried) {
                    assert!(!tried.contains(&pick.member()), "{name}");
                    tried.push(pick.member());
                }
                assert_eq!(tried.len(), weights.iter().filter(|weight| **weight > 0).count(), "{name}");
            }
        });
    }
}
