//! What the reports of calls to one instance say.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::reach::Outcome;

/// One tick of the time that is kept beside a latency: 61 µs, so that 32 bits last for three days.
const TICKS_PER_SECOND: u64 = 16_384;
/// The shortest latency: differences below are noise.
const FLOOR: f32 = 0.000_1;

/// How latencies are smoothed, and what a failed call counts as.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Smoothing {
    /// A latency this old counts e times less than one of now. Default 10 s.
    pub decay: Duration,
    /// The least latency that a failed call counts as, so that failing fast attracts nobody. Default 5 s.
    pub penalty: Duration,
    /// The most that an instance can ask for with [`Outcome::Throttled`]. Default 300 s.
    pub longest: Duration,
}

impl Default for Smoothing {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            penalty: Duration::from_secs(5),
            longest: Duration::from_secs(300),
        }
    }
}

/// The reports of the threads of one stripe. Survives every change of what the instance says.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Seconds as `f32` above, ticks since `epoch` below; 0 while unknown.
    latency: AtomicU64,
    succeeded: AtomicU32,
    failed: AtomicU32,
    smoothing: Option<Smoothing>,
    /// The logarithm of what one tick leaves of a latency.
    aging: f32,
    epoch: Instant,
    /// No other allocation reaches into the cache line of the counters.
    _apart: [u64; 8],
}

impl Stats {
    pub(crate) fn new(smoothing: Option<Smoothing>, epoch: Instant) -> Self {
        let decay = smoothing.unwrap_or_default().decay.as_secs_f32();
        Self {
            aging: -1.0 / (decay * TICKS_PER_SECOND as f32),
            latency: AtomicU64::new(0),
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            smoothing,
            epoch,
            _apart: [0; 8],
        }
    }

    #[inline]
    pub(crate) fn record(&self, outcome: Outcome, began: Option<Instant>) {
        match outcome {
            Outcome::Success => count(&self.succeeded),
            Outcome::Failure | Outcome::Throttled { .. } => count(&self.failed),
            // It never saw the call: `Reach` has the say.
            Outcome::Unreachable => {}
        }
        if let (Some(smoothing), Some(began)) = (self.smoothing, began) {
            let now = Instant::now();
            let took = now.saturating_duration_since(began);
            let seen = match outcome {
                Outcome::Success => took,
                Outcome::Failure | Outcome::Unreachable => took.max(smoothing.penalty),
                Outcome::Throttled { retry_after } => took
                    .max(smoothing.penalty)
                    .max(retry_after.min(smoothing.longest)),
            };
            self.smooth(seen.as_secs_f32().max(FLOOR), now);
        }
    }

    /// Up at once, down slowly: a peak must be felt before the average would show it. As Finagle's Peak-EWMA.
    fn smooth(&self, seen: f32, now: Instant) {
        let ticks = self.ticks(now);
        let blend = |packed: u64| {
            let (before, at) = unpack(packed);
            let after = if before == 0.0 || seen >= before {
                seen
            } else {
                let kept = self.kept(ticks, at);
                before.mul_add(kept, seen * (1.0 - kept))
            };
            Some(pack(after, ticks))
        };
        // Never an error: the closure always has a value.
        let _ = self
            .latency
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, blend);
    }

    /// In seconds, less by what it has aged since the last report; `None` before the first.
    #[inline]
    pub(crate) fn latency(&self, ticks: u32) -> Option<f32> {
        let (seconds, at) = unpack(self.latency.load(Ordering::Relaxed));
        (seconds != 0.0).then(|| seconds * self.kept(ticks, at))
    }

    /// The time as [`latency`](Self::latency) wants it: equal for all instances of a balancer.
    #[inline]
    pub(crate) fn ticks(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.epoch);
        let part = u64::from(since.subsec_nanos()) * TICKS_PER_SECOND / 1_000_000_000;
        // Wraps; `kept` knows.
        since
            .as_secs()
            .wrapping_mul(TICKS_PER_SECOND)
            .wrapping_add(part) as u32
    }

    #[inline]
    fn kept(&self, now: u32, at: u32) -> f32 {
        let passed = now.wrapping_sub(at);
        // The report may be newer than the time of the pick.
        if passed > u32::MAX / 2 {
            return 1.0;
        }
        (passed as f32 * self.aging).exp()
    }

    pub(crate) fn succeeded(&self) -> u32 {
        self.succeeded.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u32 {
        self.failed.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[inline]
fn pack(seconds: f32, ticks: u32) -> u64 {
    u64::from(seconds.to_bits()) << 32 | u64::from(ticks)
}

#[inline]
const fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}
