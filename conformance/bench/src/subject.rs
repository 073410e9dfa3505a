//! What is measured, and how.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

/// How long one sample takes.
const SAMPLE: Duration = Duration::from_millis(4);

/// Picks so many times.
pub type Picks = Box<dyn FnMut(u64) + Send>;

/// Something that picks. For each thread it makes what that thread calls.
pub struct Subject {
    pub name: &'static str,
    pub for_thread: Box<dyn Fn() -> Picks>,
}

/// Nanoseconds for one pick.
#[derive(Clone, Copy)]
pub struct Measured {
    pub name: &'static str,
    pub one_thread: f64,
    pub least: f64,
    /// Per thread, while two pick at the same time.
    pub two_threads: f64,
}

impl Subject {
    pub fn new<P: FnMut() + Send + 'static>(
        name: &'static str,
        make: impl Fn() -> P + 'static,
    ) -> Self {
        Self {
            name,
            for_thread: Box::new(move || {
                let mut pick = make();
                Box::new(move |rounds| (0..rounds).for_each(|_| pick()))
            }),
        }
    }
}

/// What nobody who reads a snapshot can go below.
pub fn bare_load() -> Subject {
    let shared = Arc::new(ArcSwap::from_pointee(0_usize));
    Subject::new("bare arc-swap load", move || {
        let shared = shared.clone();
        move || {
            black_box(**shared.load());
        }
    })
}

/// The median of samples that are taken in turns, so that what disturbs the machine disturbs all alike.
pub fn measure(subjects: &[Subject], samples: usize) -> Vec<Measured> {
    let mut alone: Vec<(Picks, u64)> = subjects
        .iter()
        .map(|subject| {
            let mut picks = (subject.for_thread)();
            let rounds = calibrate(&mut picks);
            (picks, rounds)
        })
        .collect();
    let mut times: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); subjects.len()];
    for _ in 0..samples {
        for (((picks, rounds), subject), (one, two)) in
            alone.iter_mut().zip(subjects).zip(&mut times)
        {
            let start = Instant::now();
            picks(*rounds);
            one.push(start.elapsed().as_nanos() as f64 / *rounds as f64);
            two.push(together(subject, *rounds));
        }
    }
    let measured = subjects.iter().zip(times).map(|(subject, (one, two))| {
        let least = one.iter().copied().fold(f64::INFINITY, f64::min);
        Measured {
            name: subject.name,
            one_thread: median(one),
            least,
            two_threads: median(two),
        }
    });
    measured.collect()
}

fn calibrate(picks: &mut Picks) -> u64 {
    let mut rounds = 16;
    loop {
        let start = Instant::now();
        picks(rounds);
        if start.elapsed() > SAMPLE / 4 {
            return rounds * 4;
        }
        rounds *= 2;
    }
}

fn together(subject: &Subject, rounds: u64) -> f64 {
    let barrier = Arc::new(Barrier::new(2));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (mut picks, barrier) = ((subject.for_thread)(), barrier.clone());
            thread::spawn(move || {
                picks(rounds / 8);
                barrier.wait();
                let start = Instant::now();
                picks(rounds);
                start.elapsed().as_nanos() as f64 / rounds as f64
            })
        })
        .collect();
    let times = threads
        .into_iter()
        .map(|thread| thread.join().expect("picks do not panic"));
    times.sum::<f64>() / 2.0
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
