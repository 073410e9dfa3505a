//! This workspace.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Balancer, BoundedLoad, Discovery, Instance, Maglev, Memory, Outcome, OutlierEjection, PeakEwma,
    PickRequest, PowerOfTwo, Random, Registration, Registry, Rendezvous, RingHash, RoundRobin,
    Selector, SlowStart, Sticky, WeightedRandom, WeightedRoundRobin,
};

use crate::subject::Subject;

const DAY: Duration = Duration::from_secs(86_400);

/// How an instance is chosen, and what is done with the pick.
pub async fn subjects(size: usize) -> Vec<Subject> {
    let even = filled(size, |_| 1).await;
    let weighted = filled(size, |i| 1 + (i % 10) as u16).await;
    let mut subjects = vec![
        dropped("round robin", &even, RoundRobin::default()).await,
        dropped("random", &even, Random::default()).await,
        dropped("power of two", &even, PowerOfTwo::default()).await,
        dropped(
            "weighted round robin",
            &weighted,
            WeightedRoundRobin::default(),
        )
        .await,
        dropped("weighted random", &weighted, WeightedRandom::default()).await,
        dropped("weighted power of two", &weighted, PowerOfTwo::default()).await,
        reported("round robin, reported", &even, RoundRobin::default()).await,
        reported("power of two, reported", &even, PowerOfTwo::default()).await,
        reported("peak EWMA, reported", &even, PeakEwma::default()).await,
        reported(
            "peak EWMA in ejection and slow start, reported",
            &even,
            OutlierEjection::new(SlowStart::new(PeakEwma::default())),
        )
        .await,
        keyed("ring hash", &even, RingHash::default()).await,
        keyed("Maglev", &even, Maglev::default()).await,
        keyed("bounded load", &even, BoundedLoad::default()).await,
        keyed(
            "sticky power of two",
            &even,
            Sticky::new(PowerOfTwo::default()),
        )
        .await,
    ];
    if size <= 1_000 {
        subjects.push(keyed("rendezvous", &even, Rendezvous::default()).await);
    }
    subjects
}

/// A registry with so many instances.
pub async fn filled(size: usize, weight: impl Fn(usize) -> u16) -> Arc<Memory> {
    let memory = Arc::new(Memory::new());
    for i in 0..size {
        register(&memory, i, weight(i)).await;
    }
    memory
}

pub async fn register(memory: &Memory, i: usize, weight: u16) {
    let instance = Instance::new("service", "10.0.0.1:80")
        .id(format!("{i:05}"))
        .weight(weight);
    let registration = Registration::new(instance).expect("valid").ttl(DAY);
    memory
        .register(&registration)
        .await
        .expect("memory answers");
}

pub async fn balancer(memory: &Arc<Memory>, selector: impl Selector) -> Balancer {
    let discovery = Discovery::new(memory.clone());
    discovery
        .balancer("service", selector)
        .await
        .expect("memory answers")
}

async fn dropped(name: &'static str, memory: &Arc<Memory>, selector: impl Selector) -> Subject {
    let balancer = balancer(memory, selector).await;
    Subject::new(name, move || {
        let balancer = balancer.clone();
        move || {
            let _ = black_box(balancer.pick());
        }
    })
}

async fn reported(name: &'static str, memory: &Arc<Memory>, selector: impl Selector) -> Subject {
    let balancer = balancer(memory, selector).await;
    Subject::new(name, move || {
        let balancer = balancer.clone();
        move || {
            if let Ok(pick) = black_box(balancer.pick()) {
                pick.report(Outcome::Success);
            }
        }
    })
}

async fn keyed(name: &'static str, memory: &Arc<Memory>, selector: impl Selector) -> Subject {
    let balancer = balancer(memory, selector).await;
    Subject::new(name, move || {
        let balancer = balancer.clone();
        let mut key = 0_u64;
        move || {
            key = key.wrapping_add(1);
            let _ = black_box(balancer.pick_with(&PickRequest::default().hash(key)));
        }
    })
}
