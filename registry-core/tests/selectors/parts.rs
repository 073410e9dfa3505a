//! Retries, hedges, waiting, errors and explanations.

use std::time::Duration;

use registry_core::{
    Hedge, Memory, Outcome, PeakEwma, PickErrorKind, PickRequest, PowerOfTwo, Random, RetryBudget,
    RoundRobin, Status,
};
use tokio::time::{Instant, advance, sleep};

use crate::fleet::{Fleet, SECOND, id, instance, settle};

#[tokio::test(start_paused = true)]
async fn attempts_go_elsewhere_and_end() {
    let fleet = Fleet::of(&[1; 4]).await;
    let balancer = fleet.balancer(PowerOfTwo::default()).await;
    let tried: Vec<_> = balancer.attempts(3).map(|pick| pick.member()).collect();
    assert_eq!(tried.len(), 3);
    assert!(
        tried
            .iter()
            .enumerate()
            .all(|(i, one)| !tried[..i].contains(one))
    );
    let mut attempts = balancer.attempts(100);
    assert_eq!(attempts.by_ref().count(), 4, "everybody once");
    assert_eq!(attempts.error().unwrap().kind(), PickErrorKind::Excluded);
    // Nobody may try again, but everybody may try.
    let empty = RetryBudget::new(0.0, 0);
    for _ in 0..10 {
        let mut attempts = balancer.attempts(3).budget(&empty);
        assert_eq!(attempts.by_ref().count(), 1);
        assert!(attempts.error().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_allows_a_part_and_a_reserve() {
    let budget = RetryBudget::new(0.2, 10);
    let spend = || {
        std::iter::repeat_with(|| budget.withdraw())
            .take_while(|one| *one)
            .count()
    };
    assert_eq!(spend(), 10, "the reserve of the first second");
    (0..100).for_each(|_| budget.deposit());
    assert_eq!(spend(), 20, "a fifth of a hundred calls");
    advance(SECOND).await;
    assert_eq!(spend(), 10);
    advance(1000 * SECOND).await;
    assert_eq!(spend(), 200, "not more than that piles up");
    (0..10_000).for_each(|_| budget.deposit());
    assert_eq!(spend(), 200);
}

#[test]
fn a_hedge_waits_for_its_percentile() {
    fastrand::seed(14);
    let hedge = Hedge::default();
    let millis = |hedge: &Hedge| hedge.delay().as_secs_f32() * 1000.0;
    for _ in 0..19 {
        hedge.record(Duration::from_millis(5));
    }
    assert!(
        hedge.delay() > Duration::from_secs(86_400),
        "too little is known"
    );
    for _ in 0..5_000 {
        hedge.record(Duration::from_micros(fastrand::u64(0..100_000)));
    }
    assert!(
        (80.0..110.0).contains(&millis(&hedge)),
        "{}",
        millis(&hedge)
    );
    let before = millis(&hedge);
    for _ in 0..5_000 {
        hedge.record(Duration::from_micros(fastrand::u64(0..10_000)));
    }
    assert!(millis(&hedge) < before / 7.0, "{}", millis(&hedge));
    (0..10_000).for_each(|_| hedge.record(Duration::ZERO));
    assert_eq!(hedge.delay(), Duration::from_millis(1), "never sooner");
}

#[tokio::test(start_paused = true)]
async fn a_pick_waits_where_the_caller_says_so() {
    let fleet = Fleet::new();
    let balancer = fleet.balancer(RoundRobin::default()).await;
    let start = Instant::now();
    let error = balancer
        .pick_within(3 * SECOND, &PickRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), PickErrorKind::NoInstances);
    assert!(start.elapsed() >= 3 * SECOND && start.elapsed() < 4 * SECOND);
    let start = Instant::now();
    let come = async {
        sleep(SECOND).await;
        fleet.put(instance(0).status(Status::Starting)).await;
        sleep(SECOND).await;
        fleet.put(instance(0)).await;
    };
    let request = PickRequest::default();
    let (pick, ()) = tokio::join!(balancer.pick_within(60 * SECOND, &request), come);
    assert_eq!(pick.unwrap().instance().id.as_str(), id(0));
    assert!(start.elapsed() < 3 * SECOND, "as soon as it may be called");
    let start = Instant::now();
    drop(balancer.pick_within(60 * SECOND, &request).await.unwrap());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_error_names_the_service_and_why() {
    let fleet = Fleet::new();
    let balancer = fleet.balancer(Random::default()).await;
    let say = |request: &PickRequest<'_>| balancer.pick_with(request).unwrap_err().to_string();
    let plain = PickRequest::default();
    assert_eq!(
        say(&plain),
        "service service has no instance; is a server registered under this name?"
    );
    fleet.put(instance(0).status(Status::Draining)).await;
    fleet.put(instance(1).status(Status::Draining)).await;
    fleet.put(instance(2).weight(0)).await;
    settle().await;
    assert_eq!(
        say(&plain),
        "service service: none of 3 may be called: 2 draining, 1 weight 0"
    );
    fleet.put(instance(3)).await;
    settle().await;
    let member = balancer.pick().unwrap().member();
    assert_eq!(
        say(&plain.exclude(&[member])),
        "service service: all that may be called of 4 are excluded by the request"
    );
    let error = balancer.pick_excluding(&[member]).unwrap_err();
    assert_eq!(error.service().as_str(), "service");
}

#[tokio::test(start_paused = true)]
async fn an_explanation_says_what_a_pick_chose_among() {
    fastrand::seed(15);
    let fleet = Fleet::of(&[1, 3, 1]).await;
    fleet.put(instance(2).status(Status::Draining)).await;
    let balancer = fleet.balancer(PeakEwma::default()).await;
    for _ in 0..20 {
        let pick = balancer.pick().unwrap();
        advance(Duration::from_millis(20)).await;
        pick.report(Outcome::Success);
    }
    let held = balancer.pick().unwrap();
    let excluded = [held.member()];
    let (pick, explanation) = balancer.explain(&PickRequest::default().exclude(&excluded));
    let pick = pick.unwrap();
    assert_eq!(explanation.chosen, Some(pick.member()));
    assert_ne!(pick.member(), held.member());
    assert_eq!(
        explanation.generation,
        balancer.view().snapshot().generation
    );
    assert!(explanation.freshness.is_fresh());
    let shares: Vec<_> = explanation.instances.iter().map(|one| one.share).collect();
    assert_eq!(shares, [0.25, 0.75, 0.0]);
    let reasons: Vec<_> = explanation
        .instances
        .iter()
        .map(|one| one.left_out)
        .collect();
    assert_eq!(reasons, [None, None, Some("draining")]);
    let reports: u32 = explanation.instances.iter().map(|one| one.reports.0).sum();
    assert_eq!(reports, 20);
    for one in &explanation.instances {
        let is_held = one.member == held.member();
        assert_eq!(
            (one.in_flight, one.excluded),
            (usize::from(is_held), is_held)
        );
    }
    let text = explanation.to_string();
    assert!(
        text.contains("-> i00") && text.contains("left out: draining"),
        "{text}"
    );
    // A registry that is away makes it stale, with the reason.
    let memory: &Memory = &fleet.memory;
    memory.set_outage(true);
    sleep(60 * SECOND).await;
    let (_, explanation) = balancer.explain(&PickRequest::default());
    assert!(!explanation.freshness.is_fresh());
    assert!(explanation.to_string().contains("stale for"));
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_counted_over_threads() {
    let fleet = Fleet::of(&[1; 2]).await;
    let balancer = fleet.balancer(RoundRobin::default()).await;
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let balancer = balancer.clone();
            std::thread::spawn(move || {
                let pick = || balancer.pick().unwrap();
                (0..5).for_each(|_| pick().report(Outcome::Success));
                (0..10).map(|_| pick()).collect::<Vec<_>>()
            })
        })
        .collect();
    let held: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let in_flight = || {
        let (pick, explanation) = balancer.explain(&PickRequest::default());
        drop(pick);
        explanation
            .instances
            .iter()
            .map(|one| one.in_flight)
            .collect::<Vec<_>>()
    };
    assert_eq!(in_flight().iter().sum::<usize>(), 60);
    // Also through a change of what the instance says.
    fleet.put(instance(0).meta("a", "b")).await;
    settle().await;
    assert_eq!(in_flight().iter().sum::<usize>(), 60);
    let (_, explanation) = balancer.explain(&PickRequest::default());
    let reports: u32 = explanation.instances.iter().map(|one| one.reports.0).sum();
    assert_eq!(reports, 30);
    drop(held);
    assert_eq!(in_flight(), [0, 0]);
}
