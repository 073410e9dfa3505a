//! What a selector builds, and what it asks for.

use std::fmt;
use std::time::Duration;

use super::{Candidate, Member, Picker, Slot, Smoothing};

/// What a selector built.
#[non_exhaustive]
pub struct Built {
    /// Chooses until the next change.
    pub picker: Box<dyn Picker>,
    /// When to build again although nothing changes.
    pub again: Option<Duration>,
    /// Who is not chosen, and why.
    pub left_out: Vec<(Member, &'static str)>,
    /// Who may be chosen, with the share of the calls that the filters and weights offer, relative to the others.
    pub shares: Vec<(Slot, f32)>,
}

impl Built {
    /// A picker among these candidates that is good until the next change.
    pub fn new(picker: impl Picker + 'static, candidates: &[Candidate<'_>]) -> Self {
        Self {
            picker: Box::new(picker),
            again: None,
            left_out: Vec::new(),
            shares: candidates
                .iter()
                .map(|candidate| (candidate.slot, candidate.weight))
                .collect(),
        }
    }

    /// Builds again after this time at the latest.
    pub fn again(mut self, after: Duration) -> Self {
        self.again = Some(self.again.map_or(after, |sooner| sooner.min(after)));
        self
    }

    /// Adds somebody who is not chosen, and why.
    pub fn leave_out(mut self, member: Member, why: &'static str) -> Self {
        self.left_out.push((member, why));
        self
    }

    /// Chooses with this picker instead.
    pub(super) fn picker(mut self, wrap: impl FnOnce(Box<dyn Picker>) -> Box<dyn Picker>) -> Self {
        self.picker = wrap(self.picker);
        self
    }

    /// Adds those who are not chosen.
    pub(super) fn without(mut self, left_out: Vec<(Member, &'static str)>) -> Self {
        self.left_out.extend(left_out);
        self
    }
}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            again,
            left_out,
            shares,
            picker: _,
        } = self;
        f.debug_struct("Built")
            .field("again", again)
            .field("left_out", left_out)
            .field("shares", shares)
            .finish_non_exhaustive()
    }
}

/// What a selector asks of the balancer. All of it costs something on every call, so that nothing is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Needs {
    /// It reads [`Load::in_flight`](super::Load::in_flight) in picks: threads share the counters, in place of one each.
    pub load: bool,
    /// It reads latencies: a pick then reads the clock.
    pub latency: Option<Smoothing>,
    /// It reads [`Total`](super::Total).
    pub total: bool,
    /// It reads [`Context::peers`](super::Context::peers).
    pub peers: bool,
    /// It heeds [`Candidate::weight`] beyond 0: what works by weights can be put around it.
    pub weights: bool,
    /// Build again when so many calls in a row to one instance failed; 0 for never.
    pub failures: u32,
}

impl Needs {
    /// Reads the calls in flight.
    pub const fn load(mut self) -> Self {
        self.load = true;
        self
    }

    /// Reads latencies.
    pub const fn latency(mut self, smoothing: Smoothing) -> Self {
        self.latency = Some(smoothing);
        self
    }

    /// Reads the total of the calls in flight.
    pub const fn total(mut self) -> Self {
        self.total = true;
        self
    }

    /// Reads who else calls.
    pub const fn peers(mut self) -> Self {
        self.peers = true;
        self
    }

    /// Heeds weights.
    pub const fn weights(mut self) -> Self {
        self.weights = true;
        self
    }

    /// Builds again after so many failures in a row.
    pub const fn failures(mut self, in_a_row: u32) -> Self {
        self.failures = in_a_row;
        self
    }
}
