//! What a pick costs beside a bare `arc-swap` load, in one run.
//!
//! `cargo bench -p registry-core --bench pick`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use registry_core::{
    Balancer, Discovery, Instance, Memory, PowerOfTwo, Random, Registration, Registry, RoundRobin,
    Selector,
};
use tokio::runtime::Runtime;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn picks(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("pick");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let bare = ArcSwap::from_pointee(0_usize);
    group.bench_function("bare arc-swap load", |bencher| {
        bencher.iter(|| black_box(**bare.load()))
    });
    for size in SIZES {
        let memory = Arc::new(Memory::new());
        runtime.block_on(fill(&memory, size));
        let mut bench = |name: &str, balancer: Balancer| {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| black_box(balancer.pick()))
            });
        };
        bench(
            "round robin",
            balancer(&runtime, &memory, RoundRobin::default()),
        );
        bench(
            "power of two",
            balancer(&runtime, &memory, PowerOfTwo::default()),
        );
        bench("random", balancer(&runtime, &memory, Random::default()));
    }
    group.finish();
}

async fn fill(memory: &Memory, size: usize) {
    for i in 0..size {
        let instance = Instance::new("service", "10.0.0.1:80").id(format!("{i:05}"));
        let registration = Registration::new(instance)
            .unwrap()
            .ttl(Duration::from_secs(86_400));
        memory.register(&registration).await.unwrap();
    }
}

fn balancer(runtime: &Runtime, memory: &Arc<Memory>, selector: impl Selector) -> Balancer {
    runtime
        .block_on(Discovery::new(memory.clone()).balancer("service", selector))
        .unwrap()
}

criterion_group!(benches, picks);
criterion_main!(benches);
