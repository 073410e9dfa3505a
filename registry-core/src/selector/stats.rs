//! What is known of the calls to one instance.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long an instance is avoided after the first connect failure, doubled with each further one.
const AVOID: Duration = Duration::from_secs(5);
/// The longest such time.
const AVOID_LONGEST: Duration = Duration::from_secs(60);

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The instance answered.
    Success,
    /// The instance answered with an error, or its answer did not come.
    Failure,
    /// No connection to the instance could be made: it never saw the call.
    Unreachable,
}

impl<T, E> From<&Result<T, E>> for Outcome {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() {
            Self::Success
        } else {
            Self::Failure
        }
    }
}

/// What is known of the calls of this process to one instance. Survives every change of what the instance says.
#[derive(Debug)]
pub struct Stats {
    in_flight: AtomicU32,
    suspect: AtomicBool,
    unreachable: Mutex<Option<Unreachable>>,
    /// Wakes whoever builds pickers from this.
    changed: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
struct Unreachable {
    failures: u32,
    last: Instant,
    rechecked: bool,
}

impl Stats {
    pub(crate) const fn new(changed: Arc<Notify>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            suspect: AtomicBool::new(false),
            unreachable: Mutex::new(None),
            changed,
        }
    }

    /// Calls that were picked and have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How long the instance should still be avoided because connections to it failed.
    pub fn avoid(&self, now: Instant) -> Option<Duration> {
        if !self.suspect.load(Ordering::Relaxed) {
            return None;
        }
        let unreachable = (*self.lock())?;
        let avoid = AVOID
            .saturating_mul(1 << unreachable.failures.saturating_sub(1).min(8))
            .min(AVOID_LONGEST);
        let left = (unreachable.last + avoid).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, outcome: Outcome) {
        match outcome {
            Outcome::Unreachable => {
                let mut unreachable = self.lock();
                let failures = unreachable.map_or(0, |before| before.failures);
                *unreachable = Some(Unreachable {
                    failures: failures.saturating_add(1),
                    last: Instant::now(),
                    rechecked: false,
                });
                self.suspect.store(true, Ordering::Relaxed);
            }
            // It was reached: whatever it answered, it is there.
            Outcome::Success | Outcome::Failure if self.suspect.load(Ordering::Relaxed) => {
                *self.lock() = None;
                self.suspect.store(false, Ordering::Relaxed);
            }
            Outcome::Success | Outcome::Failure => return,
        }
        self.changed.notify_one();
    }

    /// Whether connections failed since this was last asked.
    pub(crate) fn take_recheck(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
            && self
                .lock()
                .as_mut()
                .is_some_and(|unreachable| !std::mem::replace(&mut unreachable.rechecked, true))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Unreachable>> {
        self.unreachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
