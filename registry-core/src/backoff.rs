//! How long to wait before the next try.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind, Result};
use crate::time::NEVER;

/// First wait after a failure that may pass by itself.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait after such failures: a registry that is back is noticed within this.
const LAST: Duration = Duration::from_secs(5);
/// First and longest wait after a failure that somebody has to mend.
const SLOW: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// How long a try of a registry that is away keeps the next caller from trying.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// Exponential waits with equal jitter: a random time between half of the step and the step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure in a row: at most `longest`, unless the registry asks for more.
    pub(crate) fn after(&mut self, error: &Error, longest: Duration) -> Duration {
        let (first, last) = if error.is_temporary() {
            (FIRST, LAST)
        } else {
            SLOW
        };
        let step = first
            .saturating_mul(1 << self.failures.min(16))
            .min(last)
            .min(longest);
        self.failures = self.failures.saturating_add(1);
        let wait = step.mul_f64(0.5 + fastrand::f64() / 2.0);
        error
            .retry_after()
            .map_or(wait, |asked| wait.max(asked.min(SLOW.1)))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// One backoff for all that goes to one registry: while the registry is away, its callers try it one after the
/// other, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    moved: Notify,
    /// Who waits takes turns, so that a caller whose tries always fail does not keep the others from theirs.
    turns: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    backoff: Backoff,
    closed: Option<Closed>,
    /// Since when somebody is trying.
    probing: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    /// When it was closed, or the registry asked to be left alone until.
    since: Instant,
    until: Instant,
}

/// What the gate says to somebody who wants to call the registry.
#[derive(Debug)]
pub(crate) enum Passage {
    /// Go, and tell how it went.
    Go(Pass),
    /// Ask again at this time, or when the gate has moved.
    At(Instant),
}

/// The right to call the registry once. Dropped without an outcome, it lets the next caller try.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    probe: bool,
}

impl Gate {
    /// For a caller who waits no longer than this for the next try.
    pub(crate) fn ask(self: &Arc<Self>, longest: Duration) -> Passage {
        let mut state = self.lock();
        let Some(Closed { since, until }) = state.closed else {
            return Passage::Go(self.pass_anyway());
        };
        let until = until.min(since + longest);
        let now = Instant::now();
        // A try that hangs says nothing about the others.
        let free = state
            .probing
            .map_or(until, |since| until.max(since + PROBE_PATIENCE));
        if free > now {
            return Passage::At(free);
        }
        state.probing = Some(now);
        Passage::Go(Pass {
            gate: self.clone(),
            probe: true,
        })
    }

    /// Waits until it may go.
    pub(crate) async fn pass(self: &Arc<Self>) -> Pass {
        if self.lock().closed.is_none() {
            return self.pass_anyway();
        }
        let _turn = self.turns.lock().await;
        loop {
            let moved = self.moved.notified();
            match self.ask(NEVER) {
                Passage::Go(pass) => return pass,
                Passage::At(time) => {
                    let _ = timeout_at(time, moved).await;
                }
            }
        }
    }

    /// A pass for what cannot wait.
    pub(crate) fn pass_anyway(self: &Arc<Self>) -> Pass {
        Pass {
            gate: self.clone(),
            probe: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// How the call went. Only an error that says that the registry is away closes the gate; a call that lost its
    /// place before it began is one.
    pub(crate) fn settle<T>(mut self, result: &Result<T>) {
        let mut state = self.gate.lock();
        match result {
            Err(error) if is_away(error.kind()) => {
                // Of many calls that fail together only the first one counts.
                if self.probe || state.closed.is_none() {
                    let now = Instant::now();
                    let until = now + state.backoff.after(error, NEVER);
                    let since = error.retry_after().map_or(now, |_| until);
                    state.closed = Some(Closed { since, until });
                }
            }
            _ => {
                state.backoff.reset();
                state.closed = None;
            }
        }
        if std::mem::take(&mut self.probe) {
            state.probing = None;
        }
        drop(state);
        self.gate.moved.notify_waiters();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.gate.lock().probing = None;
            self.gate.moved.notify_waiters();
        }
    }
}

const fn is_away(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Lost
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn away() -> Error {
        Error::new(ErrorKind::Unavailable, "away")
    }

    #[test]
    fn waits_grow_to_their_cap_and_honour_what_is_asked() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.after(&away(), NEVER)).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[19] >= LAST / 2 && waits[19] <= LAST);
        assert!(backoff.after(&away(), SECOND) <= SECOND);
        backoff.reset();
        assert!(backoff.after(&away(), NEVER) <= FIRST);
        let asked = away().after(30 * SECOND);
        assert_eq!(backoff.after(&asked, SECOND), 30 * SECOND);
        assert!(backoff.after(&Error::new(ErrorKind::Denied, "no"), NEVER) >= SLOW.0 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_registry_is_away_one_of_many_tries_it() {
        let gate = Arc::new(Gate::default());
        let tries = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (gate, tries) = (gate.clone(), tries.clone());
                tokio::spawn(async move {
                    loop {
                        let pass = gate.pass().await;
                        tries.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(10)).await;
                        if start.elapsed() > 30 * SECOND {
                            return pass.settle(&Ok(()));
                        }
                        pass.settle::<()>(&Err(away()));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        // 50 at once at first and at the end; between them 200 ms growing to 5 s.
        let between = tries.load(Ordering::Relaxed) - 100;
        assert!((5..=20).contains(&between), "{between}");
        assert!(start.elapsed() < 36 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_long_need_not_unless_the_registry_asks_for_it() {
        let gate = Arc::new(Gate::default());
        for _ in 0..10 {
            gate.pass().await.settle::<()>(&Err(away()));
        }
        sleep(SECOND).await;
        assert!(matches!(gate.ask(2 * SECOND), Passage::At(_)));
        let Passage::Go(pass) = gate.ask(SECOND) else {
            panic!("after a second")
        };
        pass.settle::<()>(&Err(away().after(30 * SECOND)));
        sleep(29 * SECOND).await;
        assert!(matches!(gate.ask(SECOND), Passage::At(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_does_not_bar_the_others() {
        let gate = Arc::new(Gate::default());
        gate.pass().await.settle::<()>(&Err(away()));
        let probe = gate.pass().await;
        assert!(matches!(gate.ask(NEVER), Passage::At(_)));
        drop(probe);
        assert!(matches!(gate.ask(NEVER), Passage::Go(_)));
    }
}
