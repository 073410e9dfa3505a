//! An instance: two workers and a queue.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;

use crate::scenario::{AFFLICTED, Trouble};

const WORKERS: usize = 2;
/// Every call takes this, and as much again on average.
const LEAST: Duration = Duration::from_millis(10);
const COLD_CALLS: usize = 300;

#[derive(Debug)]
pub(crate) struct Server {
    random: Rng,
    busy: usize,
    queue: VecDeque<usize>,
    served: usize,
}

/// What becomes of a call that comes.
pub(crate) enum Reception {
    /// It is answered after this time.
    Served(Duration),
    /// It waits for a worker.
    Queued,
    /// It is answered at once, with an error.
    Failed,
}

impl Server {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            busy: 0,
            queue: VecDeque::new(),
            served: 0,
        }
    }

    pub(crate) fn receive(&mut self, call: usize, i: usize, trouble: Trouble) -> Reception {
        if trouble == Trouble::Fails && i == AFFLICTED {
            return Reception::Failed;
        }
        if self.busy == WORKERS {
            self.queue.push_back(call);
            return Reception::Queued;
        }
        self.busy += 1;
        Reception::Served(self.work(i, trouble))
    }

    /// A worker is free: the next call that waits, and when it is answered.
    pub(crate) fn finish(&mut self, i: usize, trouble: Trouble) -> Option<(usize, Duration)> {
        let Some(next) = self.queue.pop_front() else {
            self.busy -= 1;
            return None;
        };
        Some((next, self.work(i, trouble)))
    }

    /// 10 ms, and an exponential time of 10 ms on average.
    fn work(&mut self, i: usize, trouble: Trouble) -> Duration {
        self.served += 1;
        let usual = LEAST + LEAST.mul_f64(-(1.0 - self.random.f64()).ln());
        match trouble {
            Trouble::Slow if i == AFFLICTED => usual * 20,
            Trouble::Cold if i == AFFLICTED && self.served <= COLD_CALLS => usual * 10,
            _ => usual,
        }
    }
}
