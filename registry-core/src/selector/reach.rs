//! Whether an instance can be connected to and answers well, as far as the calls of this process tell.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// The instance answered that it wants no calls for this time, as `Retry-After` or `grpc-retry-pushback-ms` say: a
    /// failure that counts for as long as that where latencies are heeded.
    Throttled {
        /// How long.
        retry_after: Duration,
    },
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

/// The failures of one instance. Survives every change of what the instance says.
#[derive(Debug)]
pub(crate) struct Reach {
    /// Calls that failed one after the other.
    failing: AtomicU32,
    /// From how many on whoever builds wants to know; 0 for never.
    alarm: u32,
    /// Whether there are failures: what a report of success looks at.
    suspect: AtomicBool,
    failures: Mutex<Option<Failures>>,
    /// Wakes whoever builds pickers from this.
    changed: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    in_a_row: u32,
    last: Instant,
    rechecked: bool,
}

impl Reach {
    pub(crate) const fn new(changed: Arc<Notify>, alarm: u32) -> Self {
        Self {
            failing: AtomicU32::new(0),
            alarm,
            suspect: AtomicBool::new(false),
            failures: Mutex::new(None),
            changed,
        }
    }

    /// How long the instance should still be avoided.
    pub(crate) fn avoid(&self, now: Instant) -> Option<Duration> {
        if !self.suspect.load(Ordering::Relaxed) {
            return None;
        }
        let failures = (*self.lock())?;
        let avoid = AVOID
            .saturating_mul(1 << failures.in_a_row.saturating_sub(1).min(8))
            .min(AVOID_LONGEST);
        let left = (failures.last + avoid).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// How many calls failed one after the other.
    pub(crate) fn failing(&self) -> u32 {
        self.failing.load(Ordering::Relaxed)
    }

    /// The usual report, that all is well, reads two places that hardly ever change.
    #[inline]
    pub(crate) fn record(&self, outcome: Outcome) {
        let well = matches!(outcome, Outcome::Success)
            && !self.suspect.load(Ordering::Relaxed)
            && self.failing() == 0;
        if !well {
            self.learn(outcome);
        }
    }

    #[cold]
    fn learn(&self, outcome: Outcome) {
        let unreachable = matches!(outcome, Outcome::Unreachable);
        let mut news = unreachable;
        if unreachable {
            self.connect_failed();
        } else if self.suspect.load(Ordering::Relaxed) {
            // It was reached: whatever it answered, it is there.
            *self.lock() = None;
            self.suspect.store(false, Ordering::Relaxed);
            news = true;
        }
        let alarming = |failing| self.alarm > 0 && failing >= self.alarm;
        match outcome {
            Outcome::Success => news |= alarming(self.failing.swap(0, Ordering::Relaxed)),
            Outcome::Failure | Outcome::Throttled { .. } => {
                news |= alarming(self.failing.fetch_add(1, Ordering::Relaxed) + 1);
            }
            Outcome::Unreachable => {}
        }
        if news {
            self.changed.notify_one();
        }
    }

    /// Somebody who keeps connections beside the calls could connect, or could not.
    pub(crate) fn connected(&self, connected: bool) {
        if !connected {
            self.learn(Outcome::Unreachable);
        } else if self.suspect.load(Ordering::Relaxed) {
            *self.lock() = None;
            self.suspect.store(false, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    fn connect_failed(&self) {
        let mut failures = self.lock();
        let in_a_row = failures
            .map_or(0, |before| before.in_a_row)
            .saturating_add(1);
        *failures = Some(Failures {
            in_a_row,
            last: Instant::now(),
            rechecked: false,
        });
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// Whether connections failed since this was last asked.
    pub(crate) fn take_recheck(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
            && self
                .lock()
                .as_mut()
                .is_some_and(|failures| !std::mem::replace(&mut failures.rechecked, true))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
