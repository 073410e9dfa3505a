//! One registration that should be there, and what is known of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::handle::{RegistrationHandle, RegistrationState};
use super::readiness::Readiness;
use super::task::{Command, Edit, Request, closed};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{Checkup, Report};
use crate::instance::Instance;
use crate::registration::{HealthCheck, Held, Registered, Registration};
use crate::telemetry::Counted;
use crate::time::NEVER;

/// Two renewals are at least this far apart, however short a TTL was granted.
const SHORTEST_PERIOD: Duration = Duration::from_millis(50);
/// Time between two tries to publish what the checks say, when it is refused.
const VERDICT_PAUSE: Duration = Duration::from_secs(30);
/// Time between two tries to take an id whose owner may be dead.
const DISPUTE_PAUSE: Duration = Duration::from_secs(1);

/// What is known of one registration. What has to be done for it follows from this.
pub(super) struct Entry {
    /// Tells apart two registrations of one key.
    pub(super) serial: u64,
    /// What should be published.
    pub(super) desired: Arc<Registration>,
    /// What the registry took last, and what it made of it; `None` when it has to be registered.
    pub(super) held: Option<Held>,
    /// What the registry ever took last: where an update that is refused goes back to.
    pub(super) accepted: Option<Arc<Registration>>,
    /// When the registry last confirmed it.
    pub(super) confirmed: Instant,
    /// When something has to be done next.
    pub(super) due: Instant,
    pub(super) backoff: Backoff,
    /// A registration or deregistration is on its way; of one key there is never more than one.
    pub(super) busy: bool,
    /// It should go, and these want to know. From here there is no way back.
    pub(super) leaving: Option<Vec<oneshot::Sender<Result<()>>>>,
    pub(super) state: watch::Sender<RegistrationState>,
    counted: Counted,
    /// The registry has taken it once.
    taken: Arc<AtomicBool>,
    /// Who waits for the first attempt to publish what is desired.
    pub(super) waiting: Vec<Waiting>,
    /// Who wants this key next, once this registration is gone.
    pub(super) successor: Option<Request>,
    /// The checks that run on this side.
    checkup: Option<Checkup>,
    /// When what they say is tried again, after it was refused.
    pub(super) judge_at: Option<Instant>,
    /// When who asked for it does not wait any more.
    until: Instant,
    /// How long an id that somebody else holds is tried again.
    patience: Duration,
    /// When somebody else was first found to hold the id.
    disputed: Option<Instant>,
}

/// A caller, and what it waits to see published.
pub(super) struct Waiting {
    pub(super) wants: Arc<Registration>,
    pub(super) caller: Caller,
}

pub(super) enum Caller {
    Register(
        oneshot::Sender<Result<RegistrationHandle>>,
        RegistrationHandle,
    ),
    Update(oneshot::Sender<Result<()>>),
}

impl Caller {
    /// Answers. A caller that is gone drops the handle, and so deregisters what it never got to hold.
    fn answer(self, result: Result<()>) {
        match self {
            Self::Register(reply, handle) => drop(reply.send(result.map(|()| handle))),
            Self::Update(reply) => drop(reply.send(result)),
        }
    }
}

impl Entry {
    pub(super) fn new(
        serial: u64,
        desired: Arc<Registration>,
        until: Instant,
        patience: Duration,
    ) -> Self {
        let now = Instant::now();
        let reason = Error::new(ErrorKind::Unavailable, "not registered yet")
            .with("instance", desired.key());
        Self {
            serial,
            desired,
            held: None,
            accepted: None,
            confirmed: now,
            due: now,
            backoff: Backoff::default(),
            busy: false,
            leaving: None,
            state: watch::Sender::new(RegistrationState::Degraded { since: now, reason }),
            counted: Counted::new("degraded"),
            taken: Arc::default(),
            waiting: Vec::new(),
            successor: None,
            checkup: None,
            judge_at: None,
            until,
            patience,
            disputed: None,
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        Readiness::new(self.state.subscribe(), self.taken.clone())
    }

    /// Whether what should be published is what the registry has.
    pub(super) fn is_published(&self) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(&held.registration, &self.desired))
    }

    /// Whether somebody waits for its deregistration, who gets an attempt at once even while the registry is away.
    pub(super) fn is_awaited(&self) -> bool {
        self.leaving
            .as_ref()
            .is_some_and(|waiting| !waiting.is_empty())
    }

    /// The registry confirmed the registration: the next renewal is due after a third of the TTL, less a tenth at
    /// random, so that many registrants do not beat together. It is due at once where a loss was reported meanwhile.
    pub(super) fn confirm(
        &mut self,
        registered: Registered,
        published: Arc<Registration>,
        verify: Duration,
        lost: bool,
    ) {
        let now = Instant::now();
        self.confirmed = now;
        self.backoff.reset();
        self.accepted = Some(published.clone());
        self.held = Some(Held::new(published, registered));
        self.due = match lost {
            true => now,
            false => now + self.period(verify).mul_f64(1.0 - fastrand::f64() / 10.0),
        };
        if self.is_published() {
            self.counted.turns("registered");
            self.taken.store(true, Ordering::Release);
            self.state.send_if_modified(|state| {
                let changed = !matches!(state, RegistrationState::Registered);
                *state = RegistrationState::Registered;
                changed
            });
        } else {
            self.due = now;
        }
    }

    /// The time between two renewals.
    pub(super) fn period(&self, verify: Duration) -> Duration {
        let ttl = self.held.as_ref().and_then(|held| held.registered.ttl);
        ttl.map_or(verify, |ttl| ttl / 3)
            .clamp(SHORTEST_PERIOD, NEVER)
    }

    /// A renewal failed in a way that may pass. A registry that comes back may count the TTL from then on, so that a
    /// pause is no longer than while it is there.
    pub(super) fn renew_later(&mut self, error: &Error, verify: Duration) {
        self.due = Instant::now() + self.backoff.after(error, self.period(verify));
    }

    /// An attempt failed in a way that may pass, or that somebody has to mend: try again later.
    pub(super) fn retry_later(&mut self, error: &Error) {
        self.due = Instant::now() + self.backoff.after(error, NEVER);
    }

    /// No attempt is made while the registry is away, for this reason.
    pub(super) fn put_off(&mut self, reason: Option<&Error>) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(reason) = reason {
            self.degrade(Instant::now(), reason);
        }
        self.answer_away();
    }

    /// Those who wait need not do so until the registry is back, unless it said that somebody else holds the id: then
    /// it is not known yet whether they will get it.
    pub(super) fn answer_away(&mut self) {
        let ends = self.disputed.map(|since| since + self.patience);
        if ends.is_none_or(|end| end <= Instant::now()) {
            self.answer(None, &Ok(()));
        }
    }

    /// Somebody else holds the id: when to try again, while its owner may be dead and somebody waits.
    pub(super) fn dispute(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let end = *self.disputed.get_or_insert(now) + self.patience;
        let again = now + DISPUTE_PAUSE;
        (now < end && again < self.until).then(|| again.min(end))
    }

    /// It cannot be said any more that the registry has it.
    pub(super) fn degrade(&mut self, since: Instant, reason: &Error) {
        self.counted.turns("degraded");
        self.state.send_modify(|state| {
            let since = match state {
                RegistrationState::Degraded { since, .. } => *since,
                _ => since,
            };
            *state = RegistrationState::Degraded {
                since,
                reason: reason.clone(),
            };
        });
    }

    /// Whether the registry may have dropped it by now for want of a renewal.
    pub(super) fn is_overdue(&self) -> bool {
        let ttl = self.held.as_ref().and_then(|held| held.registered.ttl);
        ttl.is_some_and(|ttl| self.confirmed.elapsed() >= ttl)
    }

    /// Publishes an edited description from now on.
    pub(super) fn update(&mut self, edit: Edit, reply: oneshot::Sender<Result<()>>) {
        match self.edited(edit) {
            Ok(registration) => {
                self.desired = Arc::new(registration);
                self.due = Instant::now();
                let wants = self.desired.clone();
                self.waiting.push(Waiting {
                    wants,
                    caller: Caller::Update(reply),
                });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn edited(&self, edit: Edit) -> Result<Registration> {
        let key = self.desired.key();
        // A panic of the caller's closure must not end the task that serves everybody.
        let edited = catch_unwind(AssertUnwindSafe(|| edit(self.desired.described())));
        let panicked = |_| {
            Error::new(ErrorKind::Invalid, "the update's closure panicked").with("instance", &key)
        };
        let instance: Instance = edited.map_err(panicked)?.build()?;
        if !instance.is(&key) {
            let why = "an update cannot change the service or the id; register anew";
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", key));
        }
        self.desired.showing(instance, self.fails())
    }

    fn fails(&self) -> bool {
        self.checkup.as_ref().is_some_and(Checkup::fails)
    }

    /// Starts the checks that run on this side, which ask by a command to be [judged](Self::judge).
    pub(super) fn check(
        &mut self,
        checks: Vec<HealthCheck>,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) {
        let (key, serial) = (self.desired.key(), self.serial);
        let judge = {
            let key = key.clone();
            move || {
                let key = key.clone();
                // A task that is gone shows nothing any more.
                if let Some(commands) = commands.upgrade() {
                    let _ = commands.send(Command::Judge { key, serial });
                }
            }
        };
        self.checkup = Some(Checkup::start(key, checks, judge));
    }

    /// Hears what the program says of itself.
    pub(super) fn report(&self, report: Report) {
        if let Some(checkup) = &self.checkup {
            checkup.report(report);
        }
    }

    /// What the checks say may have been refused. What the registry has is kept, and they are heard again later.
    pub(super) fn judge_later(&mut self) {
        self.judge_at = self
            .checkup
            .as_ref()
            .map(|_| Instant::now() + VERDICT_PAUSE);
    }

    /// Publishes what the checks say, where that is something else than what should be published.
    pub(super) fn judge(&mut self) {
        self.judge_at = None;
        if self.leaving.is_some() {
            return;
        }
        let described = self.desired.described().build();
        let shown = described.and_then(|described| self.desired.showing(described, self.fails()));
        match shown {
            Ok(shown) if shown != *self.desired => {
                let before = std::mem::replace(&mut self.desired, Arc::new(shown));
                // Who waits for what it replaces waits for this.
                for waiting in &mut self.waiting {
                    if Arc::ptr_eq(&waiting.wants, &before) {
                        waiting.wants = self.desired.clone();
                    }
                }
                self.due = Instant::now();
            }
            // Never an error: it was valid before, and only its status is another one.
            _ => {}
        }
    }

    /// Fences the registration: from here it can only go.
    pub(super) fn leave(&mut self, reply: Option<oneshot::Sender<Result<()>>>) {
        self.due = Instant::now();
        self.leaving.get_or_insert_default().extend(reply);
        self.answer(None, &Err(closed("the registration was taken back")));
    }

    /// Whether somebody waits for the answer to the registration.
    pub(super) fn is_asked_for(&self) -> bool {
        let mut callers = self.waiting.iter().map(|waiting| &waiting.caller);
        callers.any(|caller| matches!(caller, Caller::Register(..)))
    }

    /// Whether nobody holds its handle, or ever will: its caller gave up while the first attempt was on its way.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut callers = self.waiting.iter().map(|waiting| &waiting.caller);
        callers.any(|caller| matches!(caller, Caller::Register(reply, _) if reply.is_closed()))
    }

    /// Answers those who wait for what was attempted, or for something before it; `None`: all.
    pub(super) fn answer(&mut self, attempted: Option<&Arc<Registration>>, result: &Result<()>) {
        let count = match attempted {
            None => self.waiting.len(),
            Some(attempted) => {
                let last = self
                    .waiting
                    .iter()
                    .rposition(|waiting| Arc::ptr_eq(&waiting.wants, attempted));
                last.map_or(0, |last| last + 1)
            }
        };
        for waiting in self.waiting.drain(..count) {
            waiting.caller.answer(result.clone());
        }
    }
}
