//! Doubts a registry that says, right after a fault, that most of a service is gone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::capability::Capability;
use crate::instance::InstanceId;
use crate::time::NEVER;

/// What goes within this time goes together.
const TOGETHER: Duration = Duration::from_secs(5);

/// What a registrar may need beyond the backend's window after an outage: its longest pause, and an attempt that hangs.
const RETURN: Duration = Duration::from_secs(10);

/// When the disappearance of instances is doubted.
///
/// A registry that restarted without its data answers correctly and wrongly at once: everybody is gone, and
/// everybody will be back as soon as they have registered again. Until then the last good instances are served.
/// What goes one by one, and whatever goes while there was no fault, is never delayed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct GuardPolicy {
    /// Doubt when more than this share of the instances is gone; 1 turns the guard off. Default 0.5.
    pub share: f64,
    /// How long after the first good read that follows a fault. Default 30 s.
    pub armed: Duration,
    /// How long what is gone must stay gone to be believed; `None` takes the window within which the backend's
    /// registrants with its default TTL come back, [`Windows::reregister`](crate::Windows), and the 10 s that they may need until they
    /// try again after an outage; or where the server cannot forget them the time that a new watch needs to see all. Set
    /// it where registrants wish for longer TTLs. Default `None`.
    pub hold: Option<Duration>,
}

impl Default for GuardPolicy {
    fn default() -> Self {
        Self {
            share: 0.5,
            armed: Duration::from_secs(30),
            hold: None,
        }
    }
}

impl GuardPolicy {
    /// Believes everything at once.
    pub const fn off() -> Self {
        Self {
            share: 1.0,
            armed: Duration::ZERO,
            hold: Some(Duration::ZERO),
        }
    }

    /// Sets the share.
    pub const fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Sets how long the guard stays armed.
    pub const fn armed(mut self, armed: Duration) -> Self {
        self.armed = armed;
        self
    }

    /// Sets how long what is gone must stay gone.
    pub const fn hold(mut self, hold: Duration) -> Self {
        self.hold = Some(hold);
        self
    }
}

/// The guard of one feed. It knows counts, ids and times, and decides.
#[derive(Debug)]
pub(super) struct Guard {
    policy: GuardPolicy,
    hold: Duration,
    /// The backend's faults may pass unseen, so that every read may follow one.
    always: bool,
    /// The end of the armed time; while the registry is away there is none yet.
    armed: Armed,
    /// How many instances there were when the guard was armed.
    baseline: usize,
    /// When instances were let go lately: what expires one by one after a fault is a mass loss too.
    let_go: VecDeque<Instant>,
    /// What is gone and still served, and until when.
    held: BTreeMap<InstanceId, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Armed {
    No,
    WhileAway,
    Until(Instant),
}

impl Guard {
    pub(super) fn new(policy: GuardPolicy, capability: &Capability) -> Self {
        let windows = capability.windows;
        let window = windows
            .reregister
            .map_or(windows.settle.saturating_add(windows.visible), |window| {
                window.at(capability.default_ttl).saturating_add(RETURN)
            });
        Self {
            policy,
            hold: policy.hold.unwrap_or(window).min(NEVER),
            always: !capability.faults_visible,
            armed: Armed::No,
            baseline: 0,
            let_go: VecDeque::new(),
            held: BTreeMap::new(),
        }
    }

    /// The watch ended while `served` instances were served.
    pub(super) fn fault(&mut self, served: usize) {
        self.armed = Armed::WhileAway;
        self.baseline = served;
        self.let_go.clear();
        // Their time begins anew with the next good read.
        self.held.clear();
    }

    /// These are gone from a good read while `served`, they included, are served. Gives those to believe it of; the
    /// others are held.
    pub(super) fn believe(
        &mut self,
        gone: Vec<InstanceId>,
        served: usize,
        resync: bool,
        now: Instant,
    ) -> Vec<InstanceId> {
        self.tick(served, resync, now);
        while self.let_go.front().is_some_and(|at| *at + TOGETHER <= now) {
            self.let_go.pop_front();
        }
        let new: Vec<_> = gone
            .into_iter()
            .filter(|id| !self.held.contains_key(id))
            .collect();
        let total = new.len() + self.held.len() + self.let_go.len();
        let mass = total as f64 > self.policy.share * self.baseline as f64;
        let graceful = !resync && total == 1;
        if self.armed == Armed::No || !mass || graceful || self.hold.is_zero() {
            self.let_go.extend(new.iter().map(|_| now));
            return new;
        }
        self.held
            .extend(new.into_iter().map(|id| (id, now + self.hold)));
        Vec::new()
    }

    /// It is there (again).
    pub(super) fn seen(&mut self, id: &InstanceId) {
        self.held.remove(id);
    }

    /// What has stayed gone for long enough.
    pub(super) fn release(&mut self, now: Instant) -> Vec<InstanceId> {
        let due: Vec<_> = self
            .held
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &due {
            self.held.remove(id);
        }
        due
    }

    pub(super) fn next_release(&self) -> Option<Instant> {
        self.held.values().min().copied()
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    fn tick(&mut self, served: usize, resync: bool, now: Instant) {
        match self.armed {
            Armed::WhileAway if resync => {
                self.armed = Armed::Until(now + self.policy.armed.min(NEVER))
            }
            Armed::Until(end) if end <= now => self.armed = Armed::No,
            _ => {}
        }
        if self.armed == Armed::No && self.always {
            self.armed = Armed::Until(now);
            self.baseline = served;
            self.let_go.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Window;

    const WINDOW: Duration = Duration::from_secs(10);
    const HOLD: Duration = Duration::from_secs(20);

    fn guard(always: bool) -> Guard {
        let mut capability = Capability::new();
        capability.windows.reregister = Some(Window::fixed(WINDOW));
        capability.faults_visible = !always;
        Guard::new(GuardPolicy::default(), &capability)
    }

    fn held(
        guard: &mut Guard,
        gone: std::ops::Range<u32>,
        served: usize,
        resync: bool,
        now: Instant,
    ) -> bool {
        let gone = ids(gone);
        guard.believe(gone.clone(), served, resync, now) != gone
    }

    fn ids(range: std::ops::Range<u32>) -> Vec<InstanceId> {
        range
            .map(|i| InstanceId::try_from(i.to_string()).unwrap())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_fault_nothing_is_held() {
        assert!(!held(&mut guard(false), 0..10, 10, true, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_fault_a_mass_loss_is_held_for_the_window() {
        let mut guard = guard(false);
        let now = Instant::now();
        guard.fault(10);
        assert!(
            !held(&mut guard, 0..5, 10, true, now),
            "half is not more than half"
        );
        assert!(held(&mut guard, 5..6, 5, true, now), "six of ten are");
        assert!(
            guard
                .release(now + HOLD - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(guard.release(now + HOLD), ids(5..6));
        assert_eq!(guard.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_is_released_and_a_new_fault_begins_anew() {
        let mut guard = guard(false);
        let now = Instant::now();
        guard.fault(4);
        assert!(held(&mut guard, 0..4, 4, true, now));
        guard.seen(&ids(0..1)[0]);
        assert_eq!(guard.held(), 3);
        guard.fault(4);
        assert!(
            guard.next_release().is_none(),
            "no time runs while the registry is away"
        );
        let later = now + 100 * HOLD;
        assert!(held(&mut guard, 1..4, 4, true, later));
        assert_eq!(guard.next_release(), Some(later + HOLD));
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_graceful_removal_is_never_delayed_and_many_are() {
        let mut guard = guard(false);
        let now = Instant::now();
        guard.fault(2);
        assert!(!held(&mut guard, 0..0, 2, true, now));
        assert!(!held(&mut guard, 0..1, 2, false, now), "the first of two");
        assert!(
            held(&mut guard, 1..2, 1, false, now),
            "then nobody would be left"
        );
        let mut guard = self::guard(false);
        guard.fault(1);
        assert!(!held(&mut guard, 0..0, 1, true, now));
        assert!(!held(&mut guard, 0..1, 1, false, now), "the only one");
        let disarmed = now + GuardPolicy::default().armed;
        let mut guard = self::guard(false);
        guard.fault(2);
        assert!(!held(&mut guard, 0..0, 2, true, now));
        assert!(
            !held(&mut guard, 0..2, 2, false, disarmed),
            "long after the fault"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_faults_pass_unseen_it_is_always_armed() {
        let mut guard = guard(true);
        let now = Instant::now();
        assert!(!held(&mut guard, 0..5, 10, true, now));
        assert!(held(&mut guard, 5..9, 5, true, now + HOLD));
    }
}
