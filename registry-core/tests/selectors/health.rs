//! Who fails or is slow gets fewer calls, never more.

use std::time::Duration;

use registry_core::{
    Balancer, Member, Outcome, OutlierEjection, PeakEwma, PickRequest, PowerOfTwo, RoundRobin,
    Selector,
};
use tokio::time::{Instant, advance, sleep};

use crate::fleet::{Fleet, SECOND, id, instance, settle, shares};

const MILLI: Duration = Duration::from_millis(1);

/// Asked as a retry, which is never a probe.
fn left_out(balancer: &Balancer, tried: &[Member]) -> Vec<(String, &'static str)> {
    let (_, explanation) = balancer.explain(&PickRequest::default().exclude(tried));
    let instances = explanation.instances.iter();
    instances
        .filter_map(|one| Some((one.instance.id.to_string(), one.left_out?)))
        .collect()
}

/// One call after the other, of which those to `failing` fail.
async fn calls(balancer: &Balancer, count: usize, failing: &str) -> usize {
    let mut failed = 0;
    for _ in 0..count {
        let pick = balancer.pick().unwrap();
        let fails = pick.instance().id.as_str() == failing;
        failed += usize::from(fails);
        sleep(MILLI).await;
        pick.report(if fails {
            Outcome::Failure
        } else {
            Outcome::Success
        });
    }
    failed
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_and_one_probe_brings_back() {
    let fleet = Fleet::of(&[1; 10]).await;
    let balancer = fleet
        .balancer(OutlierEjection::new(RoundRobin::default()))
        .await;
    let tried = [balancer.pick().unwrap().member()];
    let start = Instant::now();
    assert_eq!(calls(&balancer, 500, &id(4)).await, 5);
    assert_eq!(left_out(&balancer, &tried), [(id(4), "ejected")]);
    while start.elapsed() < 29 * SECOND {
        assert_eq!(
            calls(&balancer, 100, &id(4)).await,
            0,
            "at {:?}",
            start.elapsed()
        );
    }
    sleep(3 * SECOND).await;
    assert_eq!(left_out(&balancer, &tried), [(id(4), "on probation")]);
    assert_eq!(calls(&balancer, 300, &id(4)).await, 1, "one probe");
    let again = Instant::now();
    assert_eq!(left_out(&balancer, &tried), [(id(4), "ejected")]);
    sleep(55 * SECOND).await;
    assert_eq!(
        left_out(&balancer, &tried),
        [(id(4), "ejected")],
        "twice as long"
    );
    sleep(6 * SECOND).await;
    assert!(again.elapsed() > 60 * SECOND);
    // It is well now.
    calls(&balancer, 100, "nobody").await;
    settle().await;
    assert_eq!(left_out(&balancer, &tried), []);
    assert_eq!(shares(&balancer, 100)[&id(4)], 10);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_cancelled_is_sent_again() {
    let fleet = Fleet::of(&[1; 3]).await;
    let selector = OutlierEjection::new(RoundRobin::default()).ejected_for(2 * SECOND, 60 * SECOND);
    let balancer = fleet.balancer(selector).await;
    calls(&balancer, 50, &id(1)).await;
    sleep(2 * SECOND).await;
    assert_eq!(shares(&balancer, 50)[&id(1)], 1, "the probe, dropped");
    assert_eq!(shares(&balancer, 50).get(&id(1)), None);
    sleep(3 * SECOND).await;
    assert_eq!(shares(&balancer, 50)[&id(1)], 1, "another one");
}

#[tokio::test(start_paused = true)]
async fn at_most_a_stated_share_is_ejected() {
    for (most, out) in [(0.1, 1), (0.3, 3), (0.5, 5)] {
        let fleet = Fleet::of(&[1; 10]).await;
        let selector = OutlierEjection::new(RoundRobin::default()).most_ejected(most);
        let balancer = fleet.balancer(selector).await;
        let tried = [balancer.pick().unwrap().member()];
        for _ in 0..200 {
            balancer.pick().unwrap().report(Outcome::Failure);
            sleep(MILLI).await;
        }
        settle().await;
        assert_eq!(left_out(&balancer, &tried).len(), out);
        balancer.pick().unwrap().report(Outcome::Success);
    }
    let alone = Fleet::of(&[1]).await;
    let balancer = alone
        .balancer(OutlierEjection::new(RoundRobin::default()))
        .await;
    assert_eq!(calls(&balancer, 20, &id(0)).await, 20, "the only one stays");
}

#[tokio::test(start_paused = true)]
async fn a_rate_below_the_others_ejects() {
    fastrand::seed(8);
    let fleet = Fleet::of(&[1; 10]).await;
    // Rows of 50 are hardly ever seen.
    let selector = OutlierEjection::new(RoundRobin::default()).consecutive(50);
    let balancer = fleet.balancer(selector).await;
    let tried = [balancer.pick().unwrap().member()];
    let mut failed = 0;
    for call in 0..25_000 {
        let pick = balancer.pick().unwrap();
        // Every third call to one, every hundredth to the others.
        let bad = pick.instance().id.as_str() == id(6);
        let fails = fastrand::f32() < if bad { 0.33 } else { 0.01 };
        failed += usize::from(bad);
        sleep(MILLI).await;
        pick.report(if fails {
            Outcome::Failure
        } else {
            Outcome::Success
        });
        if call < 9_000 {
            assert_eq!(left_out(&balancer, &tried), []);
        }
    }
    assert_eq!(left_out(&balancer, &tried), [(id(6), "ejected")]);
    assert!(failed < 1_300, "out after the first window: {failed}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_connected_to_is_no_outlier() {
    let fleet = Fleet::of(&[1; 4]).await;
    let balancer = fleet
        .balancer(OutlierEjection::new(RoundRobin::default()))
        .await;
    let tried = [balancer.pick().unwrap().member()];
    for _ in 0..20 {
        let pick = balancer.pick().unwrap();
        let outcome = if pick.instance().id.as_str() == id(2) {
            Outcome::Unreachable
        } else {
            Outcome::Success
        };
        pick.report(outcome);
        sleep(MILLI).await;
    }
    settle().await;
    assert_eq!(left_out(&balancer, &tried), [(id(2), "unreachable")]);
    let (_, explanation) = balancer.explain(&PickRequest::default());
    let reports = explanation.instances[2].reports;
    assert_eq!(reports, (0, 0), "it never saw a call");
}

/// Calls at even intervals for ten minutes: `failing` answers at once with an error, the others well after 20 ms.
async fn share_of_the_failing(selector: impl Selector, failing: usize) -> f64 {
    fastrand::seed(9);
    let fleet = Fleet::of(&[1; 10]).await;
    let balancer = fleet.balancer(selector).await;
    let (mut flying, mut total) = (std::collections::VecDeque::new(), 0_usize);
    let mut bad = 0;
    for _ in 0..120_000 {
        let pick = balancer.pick().unwrap();
        let i: usize = pick.instance().id.as_str()[1..].parse().unwrap();
        total += 1;
        if i == failing {
            bad += 1;
            pick.report(Outcome::Failure);
        } else {
            flying.push_back((Instant::now() + 20 * MILLI, pick));
        }
        advance(5 * MILLI).await;
        while flying
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            flying.pop_front().unwrap().1.report(Outcome::Success);
        }
        tokio::task::yield_now().await;
    }
    f64::from(bad) / total as f64
}

#[tokio::test(start_paused = true)]
async fn who_fails_fast_never_gets_more_than_a_fair_share() {
    let p2c = share_of_the_failing(OutlierEjection::new(PowerOfTwo::default()), 3).await;
    let five =
        share_of_the_failing(OutlierEjection::new(PowerOfTwo::default().choices(5)), 3).await;
    let peak = share_of_the_failing(OutlierEjection::new(PeakEwma::default()), 3).await;
    let alone = share_of_the_failing(PeakEwma::default(), 3).await;
    assert!(
        p2c < 0.01 && five < 0.01 && peak < 0.01 && alone < 0.01,
        "{p2c} {five} {peak} {alone}"
    );
    // The check can fail: without ejection the failing one is never busy, and attracts calls.
    let attracted = share_of_the_failing(PowerOfTwo::default(), 3).await;
    assert!(attracted > 0.12, "{attracted}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_instance_is_avoided_and_tried_again() {
    fastrand::seed(10);
    let fleet = Fleet::of(&[1; 4]).await;
    let balancer = fleet.balancer(PeakEwma::default()).await;
    let run = async |count: usize, slow: Duration| {
        let mut picks = 0;
        for _ in 0..count {
            let pick = balancer.pick().unwrap();
            let is_slow = pick.instance().id.as_str() == id(0);
            picks += usize::from(is_slow);
            advance(if is_slow { slow } else { 10 * MILLI }).await;
            pick.report(Outcome::Success);
        }
        picks
    };
    let slow = run(1000, 500 * MILLI).await;
    assert!((1..=30).contains(&slow), "{slow}");
    // It is as quick as the others again: it is tried after half a minute, and then comes nearer to its share.
    run(15_000, 10 * MILLI).await;
    let fair = run(1000, 10 * MILLI).await;
    assert!((100..=400).contains(&fair), "{fair}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_was_asked_for_is_kept() {
    fastrand::seed(11);
    let fleet = Fleet::of(&[1; 3]).await;
    let balancer = fleet.balancer(PeakEwma::default()).await;
    let mut asked = false;
    let mut during = 0;
    for call in 0..8000 {
        let pick = balancer.pick().unwrap();
        let one = pick.instance().id.as_str() == id(1);
        advance(10 * MILLI).await;
        if one && !asked && call > 20 {
            asked = true;
            pick.report(Outcome::Throttled {
                retry_after: 100 * SECOND,
            });
        } else {
            during += usize::from(one && asked);
            pick.report(Outcome::Success);
        }
    }
    assert!(
        asked && during == 0,
        "{during} calls within 80 s of a pause of 100 s"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unknown_instance_counts_as_average() {
    fastrand::seed(12);
    let fleet = Fleet::of(&[1; 9]).await;
    let balancer = fleet.balancer(PeakEwma::default()).await;
    for _ in 0..500 {
        let pick = balancer.pick().unwrap();
        advance(10 * MILLI).await;
        pick.report(Outcome::Success);
    }
    fleet.put(instance(9)).await;
    settle().await;
    // None of these is answered yet: neither flooded nor starved.
    let held: Vec<_> = (0..500).map(|_| balancer.pick().unwrap()).collect();
    let new = held
        .iter()
        .filter(|pick| pick.instance().id.as_str() == id(9))
        .count();
    assert!((40..=60).contains(&new), "{new} of 500 calls to ten");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_survives_a_change_of_metadata() {
    fastrand::seed(13);
    let fleet = Fleet::of(&[1; 2]).await;
    let balancer = fleet.balancer(PeakEwma::default()).await;
    for round in 0..20 {
        let pick = balancer.pick().unwrap();
        let slow = pick.instance().id.as_str() == id(0);
        advance(if slow { SECOND } else { MILLI }).await;
        // While the call is in flight.
        fleet
            .put(instance(0).meta("round", round.to_string()))
            .await;
        settle().await;
        pick.report(Outcome::Success);
    }
    let (_, explanation) = balancer.explain(&PickRequest::default());
    let latency = explanation.instances[0].latency.unwrap();
    assert!(latency > SECOND / 10, "{latency:?}");
    let slow = shares(&balancer, 100)
        .get(&id(0))
        .copied()
        .unwrap_or_default();
    assert_eq!(slow, 0);
}
