//! When to send a call a second time, before the first was answered.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How far one latency moves the estimate, as a part of it.
const STEP: f32 = 0.05;
/// Latencies before there is an estimate.
const ENOUGH: u32 = 20;

/// The latency that most calls keep to: after it, a second call to another instance cuts the tail (Dean, Barroso, "The
/// Tail at Scale", 2013) and costs few calls more.
///
/// The estimate goes up a little with each latency above and down with each below, so that it settles at the
/// percentile, to about a tenth of itself, and follows changes within some hundred calls. No lock, no clock.
///
/// ```no_run
/// # use registry_core::{Address, Balancer, Hedge, PickError};
/// # async fn call(_: &Address) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example(balancer: Balancer, hedge: Hedge) -> Result<(), PickError> {
/// let first = balancer.pick()?;
/// let mut reply = std::pin::pin!(call(first.address()));
/// let reply = match tokio::time::timeout(hedge.delay(), &mut reply).await {
///     Ok(reply) => reply,
///     Err(_) => {
///         let second = balancer.pick_excluding(&[first.member()])?;
///         tokio::select! {
///             reply = reply => reply,
///             reply = call(second.address()) => reply,
///         }
///     }
/// };
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Hedge {
    /// Seconds, as `f32`; 0 before the first.
    estimate: AtomicU32,
    seen: AtomicU32,
    percentile: f32,
    least: Duration,
}

impl Default for Hedge {
    fn default() -> Self {
        Self::new(0.95)
    }
}

impl Hedge {
    /// For this part of the latencies, 0.5 to 0.999. Default 0.95: at most one call in twenty is sent twice.
    pub const fn new(percentile: f32) -> Self {
        Self {
            estimate: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            percentile: percentile.clamp(0.5, 0.999),
            least: Duration::from_millis(1),
        }
    }

    /// Never hedges sooner than this. Default 1 ms.
    pub const fn least(mut self, least: Duration) -> Self {
        self.least = least;
        self
    }

    /// A call that was answered took so long.
    pub fn record(&self, took: Duration) {
        let took = took.as_secs_f32();
        let moved = |bits: u32| {
            let estimate = f32::from_bits(bits);
            let factor = if took > estimate {
                STEP * self.percentile
            } else {
                -STEP * (1.0 - self.percentile)
            };
            let next = if estimate == 0.0 {
                took
            } else {
                estimate * factor.exp()
            };
            Some(next.max(1e-6).to_bits())
        };
        // Never an error: the closure always has a value.
        let _ = self
            .estimate
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
        if self.seen.load(Ordering::Relaxed) < ENOUGH {
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How long to wait for the first call; without end before 20 latencies are known.
    pub fn delay(&self) -> Duration {
        if self.seen.load(Ordering::Relaxed) < ENOUGH {
            return crate::time::NEVER;
        }
        let estimate = f32::from_bits(self.estimate.load(Ordering::Relaxed));
        Duration::from_secs_f32(estimate).max(self.least)
    }
}
