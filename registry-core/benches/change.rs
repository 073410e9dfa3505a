//! What one change of a service of 10,000 instances costs, from the registry's word to what picks read.
//!
//! `cargo bench -p registry-core --bench change`

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use registry_core::{
    Discovery, Instance, Memory, PowerOfTwo, Registration, Registry, RoundRobin, Selector,
};
use tokio::runtime::Builder;

const SIZE: usize = 10_000;

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one change of 10,000 instances, seen by a pick");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    group.bench_function("round robin", |bencher| {
        bencher.iter_custom(|rounds| run(rounds, RoundRobin::default()))
    });
    group.bench_function("power of two", |bencher| {
        bencher.iter_custom(|rounds| run(rounds, PowerOfTwo::default()))
    });
    group.finish();
}

/// The only instance that may be picked changes its weight `rounds` times.
fn run(rounds: u64, selector: impl Selector) -> Duration {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let memory = Arc::new(Memory::new());
        for i in 1..SIZE {
            register(&memory, &format!("{i:05}"), 1).await;
        }
        register(&memory, "00000", 1).await;
        let balancer = Discovery::new(memory.clone())
            .balancer("service", selector)
            .await
            .unwrap();
        let mut moved = balancer.view().moved();
        let mut spent = Duration::ZERO;
        for round in 0..rounds {
            moved.mark_unchanged();
            register(&memory, "00000", 2 + (round % 1000) as u16).await;
            let start = tokio::time::Instant::now();
            moved.changed().await.unwrap();
            // The balancer's task was woken before this one, and this thread runs them in turn.
            tokio::task::yield_now().await;
            spent += start.elapsed();
        }
        spent
    })
}

async fn register(memory: &Memory, id: &str, weight: u16) {
    let instance = Instance::new("service", "10.0.0.1:80")
        .id(id)
        .weight(weight);
    let registration = Registration::new(instance)
        .unwrap()
        .ttl(Duration::from_secs(86_400));
    memory.register(&registration).await.unwrap();
}

criterion_group!(benches, changes);
criterion_main!(benches);
