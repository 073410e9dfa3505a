//! The one of two that answers sooner.

use std::time::Duration;

use super::least::{Contender, Least};
use super::power_of_two::queues;
use super::stage::within;
use super::{
    Built, Candidate, Context, Load, Member, Needs, PickRequest, Selector, Slot, Smoothing, Stage,
};
use crate::error::Result;

/// Draws two instances at random and chooses the one whose latency, times the calls in flight for its weight, is less.
///
/// The latency is an average over about 10 s that goes up at once with a slow answer and down slowly, as in Finagle.
/// As in linkerd, a failed call counts as one of 5 s, and one that asks for a pause as that pause, so that an instance
/// that fails fast does not attract calls. While an instance is not called its latency ages towards 0, so that it is
/// tried again. One that was never heard of counts as quick as the other of the two.
///
/// Needs each pick to be reported. A pick and its report read the clock once each, which is no system call.
#[derive(Clone, Copy, Debug)]
pub struct PeakEwma {
    choices: u8,
    smoothing: Smoothing,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self {
            choices: 2,
            smoothing: Smoothing::default(),
        }
    }
}

impl PeakEwma {
    /// Draws so many, 2 to 10. Default 2.
    pub const fn choices(mut self, choices: u8) -> Self {
        self.choices = choices;
        self
    }

    /// A latency this old counts e times less than one of now, 1 ms to 1 h. Default 10 s.
    pub const fn decay(mut self, decay: Duration) -> Self {
        self.smoothing.decay = decay;
        self
    }

    /// What a failed call counts as at least, up to 5 min. Default 5 s: take more than the slowest good answer.
    pub const fn penalty(mut self, penalty: Duration) -> Self {
        self.smoothing.penalty = penalty;
        self
    }
}

impl Selector for PeakEwma {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        Built::new(Least::<Slow>::new(candidates, self.choices), candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().load().weights().latency(self.smoothing)
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        let (milli, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        within("choices", self.choices, 2, 10)?;
        within("decay", self.smoothing.decay, milli, hour)?;
        let longest = self.smoothing.longest;
        within("penalty", self.smoothing.penalty, Duration::ZERO, longest)?;
        Stage::Algorithm.inside(outer)
    }
}

struct Slow {
    load: Load,
    weight: f32,
    slot: Slot,
    member: Member,
}

impl Contender for Slow {
    fn new(candidate: &Candidate<'_>) -> Self {
        Self {
            load: candidate.load(),
            weight: candidate.weight,
            slot: candidate.slot,
            member: candidate.member,
        }
    }

    #[inline]
    fn slot(&self) -> Slot {
        self.slot
    }

    #[inline]
    fn member(&self) -> Member {
        self.member
    }

    #[inline]
    fn ticks(&self, request: &PickRequest<'_>) -> u32 {
        request.now.map_or(0, |now| self.load.stats().ticks(now))
    }

    #[inline]
    fn beats(&self, other: &Self, ticks: u32) -> bool {
        let (mine, theirs) = queues(
            (self.load.in_flight(), self.weight),
            (other.load.in_flight(), other.weight),
        );
        let latency = |one: &Self| one.load.stats().latency(ticks);
        match (latency(self), latency(other)) {
            (Some(my_latency), Some(their_latency)) => mine * my_latency < theirs * their_latency,
            _ => mine < theirs,
        }
    }
}
