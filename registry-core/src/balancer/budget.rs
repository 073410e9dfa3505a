//! How often calls may be tried again.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::time::Instant;

/// One call, in the units of the balance.
const CALL: f64 = 1000.0;
/// How many seconds of the reserve can pile up.
const SECONDS: f64 = 20.0;

/// Limits retries to a part of the calls, so that a service in trouble is not buried under them (Finagle's and tower's
/// retry budget): every call adds a part of a retry, and a few in a second are always there.
///
/// Share one among the calls to a service. No lock; a retry reads the clock.
#[derive(Debug)]
pub struct RetryBudget {
    balance: AtomicI64,
    /// Milliseconds after `began` for which the reserve has been paid.
    paid: AtomicU64,
    began: Instant,
    part: f64,
    per_second: f64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(0.2, 10)
    }
}

impl RetryBudget {
    /// Retries for this part of the calls, 0 to 10, and so many per second beside. Default 0.2 and 10. What is not used
    /// is kept, up to what the latter brings in 20 s.
    pub fn new(part: f64, per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            balance: AtomicI64::new((per_second * CALL) as i64),
            paid: AtomicU64::new(0),
            began: Instant::now(),
            part: part.clamp(0.0, 10.0),
            per_second,
        }
    }

    /// A call is made.
    pub fn deposit(&self) {
        self.add((self.part * CALL) as i64);
    }

    /// Whether it may be tried again; if so, that is taken from the budget.
    pub fn withdraw(&self) -> bool {
        let now = self.began.elapsed().as_millis() as u64;
        let paid = self.paid.fetch_max(now, Ordering::Relaxed);
        let reserve = now.saturating_sub(paid) as f64 / 1000.0 * self.per_second * CALL;
        self.add(reserve as i64);
        let one = CALL as i64;
        let take = |balance: i64| (balance >= one).then_some(balance - one);
        self.balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn add(&self, amount: i64) {
        let most = (SECONDS * self.per_second.max(1.0) * CALL) as i64;
        let before = self.balance.fetch_add(amount, Ordering::Relaxed);
        if before + amount > most {
            // Another thread may withdraw in between: then a little less is kept.
            self.balance.fetch_min(most, Ordering::Relaxed);
        }
    }
}
