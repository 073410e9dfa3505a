//! What a change costs, and whether picks feel it.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_core::{
    BoundedLoad, Maglev, OutlierEjection, PeakEwma, PowerOfTwo, Rendezvous, RingHash, RoundRobin,
    Selector, WeightedRandom, WeightedRoundRobin,
};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::ours::{balancer, filled, register};

const SIZE: usize = 10_000;

/// Of one selector, with 10,000 instances.
pub struct Rebuild {
    pub name: &'static str,
    /// From a change of one instance to what picks read.
    pub median: Duration,
    /// The slowest of a thousand picks without and with a change every 10 ms.
    pub quiet: Duration,
    pub busy: Duration,
}

pub fn measure(rounds: usize) -> Vec<Rebuild> {
    vec![
        one("round robin", rounds, RoundRobin::default),
        one("weighted round robin", rounds, WeightedRoundRobin::default),
        one("weighted random", rounds, WeightedRandom::default),
        one("power of two", rounds, PowerOfTwo::default),
        one("peak EWMA", rounds, PeakEwma::default),
        one("peak EWMA in ejection", rounds, || {
            OutlierEjection::new(PeakEwma::default())
        }),
        one("rendezvous", rounds, Rendezvous::default),
        one("ring hash", rounds, RingHash::default),
        one("bounded load", rounds, BoundedLoad::default),
        one("Maglev", rounds, Maglev::default),
    ]
}

fn one<S: Selector>(name: &'static str, rounds: usize, selector: impl Fn() -> S) -> Rebuild {
    let quiet = slowest_picks(selector(), Duration::from_secs(3600));
    let busy = slowest_picks(selector(), Duration::from_millis(10));
    Rebuild {
        name,
        median: rebuild(rounds, selector()),
        quiet,
        busy,
    }
}

/// Where one thread does all, the time that the balancer's task takes when it is woken.
fn rebuild(rounds: usize, selector: impl Selector) -> Duration {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let memory = filled(SIZE, |_| 1).await;
        let balancer = balancer(&memory, selector).await;
        let mut moved = balancer.view().moved();
        let mut spent: Vec<Duration> = Vec::new();
        for round in 0..rounds {
            moved.mark_unchanged();
            register(&memory, round % SIZE, 2 + (round % 10) as u16).await;
            let start = Instant::now();
            moved.changed().await.expect("the view lives");
            // The balancer's task was woken before this one, and this thread runs them in turn.
            tokio::task::yield_now().await;
            spent.push(start.elapsed());
        }
        spent.sort();
        spent[spent.len() / 2]
    })
}

/// Times every pick for a second.
fn slowest_picks(selector: impl Selector, pause: Duration) -> Duration {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime");
    let memory = runtime.block_on(filled(SIZE, |_| 1));
    let balancer = runtime.block_on(balancer(&memory, selector));
    let over = Arc::new(AtomicBool::new(false));
    let told = over.clone();
    let changes = runtime.spawn(async move {
        for round in 0.. {
            tokio::select! {
                () = sleep(pause) => {}
                () = sleep(Duration::from_secs(1)) => break,
            }
            if told.load(Ordering::Relaxed) {
                break;
            }
            register(&memory, round % SIZE, 2 + (round % 10) as u16).await;
        }
    });
    let mut times = Vec::with_capacity(1 << 22);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) && times.len() < times.capacity() {
        let before = Instant::now();
        let _ = black_box(balancer.pick());
        times.push(before.elapsed());
    }
    over.store(true, Ordering::Relaxed);
    runtime.block_on(changes).expect("changes do not panic");
    times.sort();
    times[times.len() - 1 - times.len() / 1000]
}
