//! The balancer and the selectors against the memory backend, under paused time.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Scripted, eventually};
use registry_core::{
    Balancer, Built, Candidate, Capability, Context, Discovery, Instance, Memory, Outcome,
    PickErrorKind, PickRequest, Picker, PowerOfTwo, Random, Registration, Registry, RoundRobin,
    Selector, Slot, Status,
};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn register(registry: &dyn Registry, id: &str, status: Status, weight: u16) {
    let instance = Instance::new("greeter", "10.0.0.1:80")
        .id(id)
        .status(status)
        .weight(weight);
    registry
        .register(&Registration::new(instance).unwrap().ttl(HOUR))
        .await
        .unwrap();
}

async fn balancer(registry: &Arc<Scripted>, selector: impl Selector) -> Balancer {
    Discovery::new(registry.clone())
        .balancer("greeter", selector)
        .await
        .unwrap()
}

async fn among(ids: &[&str], selector: impl Selector) -> (Arc<Scripted>, Balancer) {
    let registry = Scripted::new();
    for id in ids {
        register(&*registry, id, Status::Up, 1).await;
    }
    let balancer = balancer(&registry, selector).await;
    (registry, balancer)
}

fn shares(balancer: &Balancer, picks: usize) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    for _ in 0..picks {
        *shares
            .entry(balancer.pick().unwrap().instance().id.to_string())
            .or_default() += 1;
    }
    shares
}

#[tokio::test(start_paused = true)]
async fn round_robin_gives_equal_shares_and_no_repeats() {
    let (_registry, balancer) = among(&["a", "b", "c"], RoundRobin::default()).await;
    assert!(shares(&balancer, 300).values().all(|share| *share == 100));
    let mut before = String::new();
    for _ in 0..30 {
        let id = balancer.pick().unwrap().instance().id.to_string();
        assert_ne!(id, before);
        before = id;
    }
}

#[tokio::test(start_paused = true)]
async fn random_gives_nearly_equal_shares() {
    let (_registry, balancer) = among(&["a", "b", "c", "d"], Random::default()).await;
    // 10,000 draws of chance 1/4: five standard deviations are 217.
    for (id, share) in shares(&balancer, 10_000) {
        assert!(share.abs_diff(2500) < 217, "{id}: {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn power_of_two_prefers_the_idle_one_for_its_weight() {
    let (_registry, balancer) = among(&["a", "b"], PowerOfTwo::default()).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(balancer.pick().unwrap());
    }
    let of_a = held
        .iter()
        .filter(|pick| pick.instance().id.as_str() == "a")
        .count();
    assert_eq!(
        of_a, 50,
        "with two instances the less busy one is always found"
    );
    drop(held);

    let registry = Scripted::new();
    register(&*registry, "a", Status::Up, 3).await;
    register(&*registry, "b", Status::Up, 1).await;
    let balancer = self::balancer(&registry, PowerOfTwo::default()).await;
    let held: Vec<_> = (0..100).map(|_| balancer.pick().unwrap()).collect();
    let of_a = held
        .iter()
        .filter(|pick| pick.instance().id.as_str() == "a")
        .count();
    assert!(of_a.abs_diff(75) <= 2, "{of_a} of 100 for weight 3 of 4");
    drop(held);
    // One call at a time, 10,000 draws of chance 3/4: five standard deviations are 217.
    let of_a = shares(&balancer, 10_000)["a"];
    assert!(
        of_a.abs_diff(7500) < 217,
        "{of_a} of 10,000 for weight 3 of 4"
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_called_is_left_out() {
    for (status, weight) in [
        (Status::Down, 1),
        (Status::Maintenance, 1),
        (Status::Draining, 1),
        (Status::Starting, 1),
        (Status::Up, 0),
    ] {
        let registry = Scripted::new();
        register(&*registry, "out", status, weight).await;
        let balancer = balancer(&registry, RoundRobin::default()).await;
        assert_eq!(
            balancer.pick().unwrap_err().kind(),
            PickErrorKind::NoneEligible,
            "{status} {weight}"
        );
        register(&*registry, "in", Status::Warning, 1).await;
        eventually(SECOND, "somebody to pick", async || {
            balancer.pick().is_ok().then_some(())
        })
        .await;
        assert_eq!(
            shares(&balancer, 10),
            HashMap::from([("in".to_owned(), 10)])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_to_pick_is_a_prompt_typed_error() {
    let registry = Scripted::new();
    let empty = balancer(&registry, PowerOfTwo::default()).await;
    assert_eq!(empty.pick().unwrap_err().kind(), PickErrorKind::NoInstances);
    registry.memory.set_outage(true);
    let unknown = Discovery::new(registry.clone())
        .balancer("greeter", Random::default())
        .await
        .unwrap();
    assert_eq!(unknown.pick().unwrap_err().kind(), PickErrorKind::NotReady);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_elsewhere_until_nobody_is_left() {
    for selector in 0..3 {
        let ids = ["a", "b", "c"];
        let (_registry, balancer) = match selector {
            0 => among(&ids, RoundRobin::default()).await,
            1 => among(&ids, Random::default()).await,
            _ => among(&ids, PowerOfTwo::default()).await,
        };
        for _ in 0..50 {
            let mut tried = Vec::new();
            for _ in 0..3 {
                let pick = balancer.pick_excluding(&tried).unwrap();
                assert!(!tried.contains(&pick.member()));
                tried.push(pick.member());
            }
            assert_eq!(
                balancer.pick_excluding(&tried).unwrap_err().kind(),
                PickErrorKind::Excluded
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_failure_is_avoided_for_a_while_and_rechecked() {
    let memory = Memory::new();
    let mut capability: Capability = memory.capability();
    capability.recheck = true;
    let registry = Scripted::with(memory, capability);
    register(&*registry, "a", Status::Up, 1).await;
    register(&*registry, "b", Status::Up, 1).await;
    let balancer = balancer(&registry, RoundRobin::default()).await;
    let fail = || {
        let pick = std::iter::repeat_with(|| balancer.pick().unwrap())
            .find(|pick| pick.instance().id.as_str() == "a");
        pick.unwrap().report(Outcome::Unreachable);
    };
    let avoided = || shares(&balancer, 20).len() == 1;
    fail();
    eventually(SECOND, "avoided", async || avoided().then_some(())).await;
    eventually(SECOND, "rechecked", async || {
        (Scripted::count(&registry.rechecks) == 1).then_some(())
    })
    .await;
    let start = Instant::now();
    eventually(6 * SECOND, "tried again", async || {
        (!avoided()).then_some(())
    })
    .await;
    assert!(start.elapsed() >= 4 * SECOND);
    fail();
    eventually(SECOND, "avoided again", async || avoided().then_some(())).await;
    let start = Instant::now();
    eventually(11 * SECOND, "tried again", async || {
        (!avoided()).then_some(())
    })
    .await;
    assert!(start.elapsed() >= 9 * SECOND, "twice as long");
    for _ in 0..2 {
        balancer.pick().unwrap().report(Outcome::Success);
    }
    fail();
    eventually(SECOND, "avoided", async || avoided().then_some(())).await;
    eventually(6 * SECOND, "a success ends the doubling", async || {
        (!avoided()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn when_all_are_unreachable_they_are_tried_all_the_same() {
    let (_registry, balancer) = among(&["a", "b"], RoundRobin::default()).await;
    for _ in 0..4 {
        balancer.pick().unwrap().report(Outcome::Unreachable);
        sleep(SECOND / 10).await;
    }
    assert_eq!(shares(&balancer, 20).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_keeps_connections_says_whom_calls_should_avoid() {
    let (_registry, balancer) = among(&["a", "b"], RoundRobin::default()).await;
    let picked = || shares(&balancer, 20).len();
    let a = balancer.view().snapshot().instances[0].id.clone();
    balancer.connected(&"nobody".try_into().unwrap(), false);
    balancer.connected(&a, false);
    eventually(SECOND, "avoided without a call", async || {
        (picked() == 1).then_some(())
    })
    .await;
    let start = Instant::now();
    balancer.connected(&a, true);
    eventually(SECOND, "called again at once", async || {
        (picked() == 2).then_some(())
    })
    .await;
    assert!(start.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_application_error_keeps_an_instance() {
    let (_registry, balancer) = among(&["a", "b"], RoundRobin::default()).await;
    for _ in 0..10 {
        balancer.pick().unwrap().report(&Err::<(), _>("500"));
    }
    sleep(SECOND).await;
    assert_eq!(shares(&balancer, 20).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_instance_survives_its_changes() {
    let (registry, balancer) = among(&["a", "b"], PowerOfTwo::default()).await;
    let busy: Vec<_> = (0..20).map(|_| balancer.pick().unwrap()).collect();
    drop(
        busy.into_iter()
            .filter(|pick| pick.instance().id.as_str() == "b")
            .collect::<Vec<_>>(),
    );
    let busy: Vec<_> = std::iter::repeat_with(|| balancer.pick().unwrap())
        .take(40)
        .filter(|pick| pick.instance().id.as_str() == "a")
        .collect();
    register(&*registry, "a", Status::Warning, 1).await;
    eventually(SECOND, "the change is seen", async || {
        (balancer.view().snapshot().instances[0].status == Status::Warning).then_some(())
    })
    .await;
    sleep(SECOND / 10).await;
    let pick = balancer.pick().unwrap();
    assert_eq!(
        pick.instance().id.as_str(),
        if busy.is_empty() { "a" } else { "b" }
    );
    assert!(!busy.is_empty(), "some calls to a are in flight");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_balancer_leaves_no_watch() {
    let registry = Scripted::new();
    let discovery = Discovery::new(registry.clone());
    drop(
        discovery
            .balancer("greeter", Random::default())
            .await
            .unwrap(),
    );
    sleep(SECOND).await;
    drop(
        discovery
            .balancer("greeter", Random::default())
            .await
            .unwrap(),
    );
    assert_eq!(
        Scripted::count(&registry.watches),
        2,
        "the first one's watch had ended"
    );
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_picked_long_ago_sees_what_is_new_and_counts_as_no_call() {
    let (registry, balancer) = among(&["a", "b"], PowerOfTwo::default()).await;
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let (answer, answered) = std::sync::mpsc::channel();
    let other = balancer.clone();
    let thread = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            let id = other.pick().map(|pick| pick.instance().id.to_string());
            answer.send(id.ok()).unwrap();
        }
    });
    let pick_there = || {
        ask.send(()).unwrap();
        answered.recv().unwrap()
    };
    pick_there().unwrap();
    for round in 0..20 {
        register(&*registry, "a", Status::Up, 2 + round).await;
        sleep(SECOND / 10).await;
        let (pick, explanation) = balancer.explain(&PickRequest::default());
        drop(pick);
        let in_flight: Vec<_> = explanation
            .instances
            .iter()
            .map(|one| one.in_flight)
            .collect();
        assert_eq!(in_flight, [0, 0], "the other thread keeps an old plane");
    }
    register(&*registry, "a", Status::Down, 1).await;
    sleep(SECOND / 10).await;
    assert_eq!(pick_there().as_deref(), Some("b"));
    drop(ask);
    thread.join().unwrap();
}

/// Tells on which thread its pickers end.
struct Mortal(Arc<std::sync::Mutex<Vec<std::thread::ThreadId>>>);

impl Selector for Mortal {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let slot = candidates.first().map(|candidate| candidate.slot);
        Built::new(MortalPicker(slot, self.0.clone()), candidates)
    }
}

struct MortalPicker(
    Option<Slot>,
    Arc<std::sync::Mutex<Vec<std::thread::ThreadId>>>,
);

impl Picker for MortalPicker {
    fn pick(&self, _request: &PickRequest<'_>) -> Option<Slot> {
        self.0
    }
}

impl Drop for MortalPicker {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(std::thread::current().id());
    }
}

#[tokio::test]
async fn no_pick_pays_for_the_end_of_a_plane() {
    let ends = Arc::default();
    let (registry, balancer) = among(&["a"], Mortal(Arc::clone(&ends))).await;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (told, picks) = (over.clone(), balancer.clone());
    let picking = std::thread::spawn(move || {
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            drop(picks.pick());
        }
    });
    for round in 0..50 {
        register(&*registry, "a", Status::Up, 2 + round).await;
        sleep(SECOND / 200).await;
    }
    let ended = ends.lock().unwrap().clone();
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    picking.join().unwrap();
    assert!(ended.len() > 40, "planes do end: {}", ended.len());
    let here = std::thread::current().id();
    assert!(ended.iter().all(|thread| *thread == here));
}
