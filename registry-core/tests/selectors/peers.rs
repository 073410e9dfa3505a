//! What other libraries do wrong here (defects that were read or seen in them), each as a test.

use registry_core::{
    Discovery, ErrorKind, PickErrorKind, PowerOfTwo, Random, RingHash, RoundRobin, SlowStart,
    Subset, WeightedRoundRobin,
};

use crate::fleet::{ALGORITHMS, Fleet, SECOND, algorithm, id, instance, owners, settle, shares};

/// pingora 0.8.1 panics, or its updates stop.
#[tokio::test(start_paused = true)]
async fn all_weights_of_0_are_an_error_and_end_with_the_next_change() {
    for name in ALGORITHMS {
        let fleet = Fleet::of(&[0, 0]).await;
        let balancer = fleet.balancer(algorithm(name)).await;
        let error = balancer.pick().unwrap_err();
        assert_eq!(error.kind(), PickErrorKind::NoneEligible, "{name}");
        assert_eq!(error.left_out(), [("weight 0", 2)], "{name}");
        fleet.put(instance(1).weight(3)).await;
        settle().await;
        assert_eq!(
            balancer.pick().unwrap().instance().id.as_str(),
            id(1),
            "{name}"
        );
    }
}

/// pingora and volo compare addresses alone.
#[tokio::test(start_paused = true)]
async fn a_change_of_metadata_alone_reaches_picks() {
    let fleet = Fleet::of(&[1]).await;
    let balancer = fleet.balancer(RoundRobin::default()).await;
    fleet.put(instance(0).meta("colour", "blue")).await;
    settle().await;
    let pick = balancer.pick().unwrap();
    assert_eq!(pick.instance().metadata.get("colour"), Some("blue"));
}

/// tower and tonic wait for ever, ginepro hangs.
#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let fleet = Fleet::new();
    for name in ALGORITHMS {
        let balancer = fleet.balancer(algorithm(name)).await;
        let start = tokio::time::Instant::now();
        assert_eq!(
            balancer.pick().unwrap_err().kind(),
            PickErrorKind::NoInstances,
            "{name}"
        );
        assert!(start.elapsed() < SECOND / 10, "{name}");
    }
}

/// Kitex seeds its hash for each process.
#[tokio::test(start_paused = true)]
async fn two_clients_choose_the_same_instance_for_a_key() {
    let (one, other) = (Fleet::new(), Fleet::new());
    for i in 0..9 {
        one.put(instance(i)).await;
        other.put(instance(8 - i).meta("of", "another")).await;
    }
    for name in ["ring hash", "maglev", "rendezvous", "bounded load"] {
        fastrand::seed(1);
        let here = one.balancer(algorithm(name)).await;
        fastrand::seed(2);
        let there = other.balancer(algorithm(name)).await;
        assert_eq!(owners(&here, 1000), owners(&there, 1000), "{name}");
    }
}

/// go-zero shuffles its subset with every change.
#[tokio::test(start_paused = true)]
async fn a_subset_changes_by_one_with_one_change() {
    let fleet = Fleet::of(&[1; 40]).await;
    let balancer = fleet
        .balancer(Subset::new(8, RoundRobin::default()).seed(3))
        .await;
    let chosen = |picks| shares(&balancer, picks).into_keys().collect::<Vec<_>>();
    let before = chosen(100);
    assert_eq!(before.len(), 8);
    fleet.put(instance(1).meta("unrelated", "change")).await;
    settle().await;
    assert_eq!(chosen(100), before);
    for gone in 0..40 {
        fleet.remove(gone).await;
        settle().await;
        let after = chosen(100);
        let kept = before.iter().filter(|id| after.contains(id)).count();
        let left = before.contains(&id(gone));
        assert_eq!(
            (kept, after.len()),
            (8 - usize::from(left), 8),
            "without {gone}"
        );
        fleet.put(instance(gone)).await;
        settle().await;
        assert_eq!(chosen(100), before);
    }
}

/// rust-zero-core's processes all begin with the same picks; so do round robins that begin at the first instance.
#[test]
fn clients_do_not_move_in_step() {
    let sequence = || {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let fleet = Fleet::of(&[1; 50]).await;
                let mut picks = Vec::new();
                for name in [
                    "random",
                    "round robin",
                    "weighted round robin",
                    "power of two",
                ] {
                    let balancer = fleet.balancer(algorithm(name)).await;
                    let pick = |_| balancer.pick().unwrap().instance().id.to_string();
                    picks.push((0..10).map(pick).collect::<Vec<_>>());
                }
                picks
            })
        })
        .join()
        .unwrap()
    };
    let (one, other) = (sequence(), sequence());
    for (one, other) in one.iter().zip(other) {
        assert_ne!(*one, other);
    }
}

/// gRPC's averages and Envoy's heap send the first calls of every client to the same instances.
#[tokio::test(start_paused = true)]
async fn the_first_pick_of_many_clients_is_spread() {
    let fleet = Fleet::of(&[1, 2, 3, 4]).await;
    let mut firsts = crate::fleet::Shares::new();
    for seed in 0..200 {
        fastrand::seed(seed);
        let balancer = fleet.balancer(WeightedRoundRobin::default()).await;
        let pick = balancer.pick().unwrap();
        *firsts.entry(pick.instance().id.to_string()).or_default() += 1;
    }
    for i in 0..4 {
        let due = 200 * (i + 1) / 10;
        let seen = firsts.get(&id(i)).copied().unwrap_or_default();
        assert!(seen.abs_diff(due) < 35, "{firsts:?}");
    }
}

/// Others ignore what they cannot honour.
#[tokio::test(start_paused = true)]
async fn slow_start_of_who_heeds_no_weights_is_refused() {
    let fleet = Fleet::of(&[1]).await;
    let discovery = Discovery::new(fleet.memory.clone());
    let error = discovery
        .balancer("service", SlowStart::new(Random::default()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let fine = discovery
        .balancer("service", SlowStart::new(PowerOfTwo::default()))
        .await;
    fine.unwrap();
    let fine = discovery
        .balancer("service", SlowStart::new(RingHash::default()))
        .await;
    fine.unwrap();
}
