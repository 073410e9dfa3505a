//! The least busy of two, or a few.

use super::least::{Contender, Least};
use super::stage::within;
use super::{Built, Candidate, Context, Load, Member, Needs, PickRequest, Selector, Slot, Stage};
use crate::error::Result;

/// Draws two instances at random and chooses the one with fewer calls in flight for its weight.
///
/// Two are enough to keep the busiest instance close to the average (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001), and unlike a search for the least busy one it does not send everybody to the
/// same instance. Only calls of this process are counted.
///
/// An instance that fails fast is never busy: put [`OutlierEjection`](super::OutlierEjection) around this, or take
/// [`PeakEwma`](super::PeakEwma).
#[derive(Clone, Copy, Debug)]
pub struct PowerOfTwo {
    choices: u8,
}

impl Default for PowerOfTwo {
    fn default() -> Self {
        Self { choices: 2 }
    }
}

impl PowerOfTwo {
    /// Draws so many, 2 to 10. Default 2: more find idle instances sooner when few clients have many calls each, and
    /// herd when many clients have few.
    pub const fn choices(mut self, choices: u8) -> Self {
        self.choices = choices;
        self
    }
}

impl Selector for PowerOfTwo {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let picker = Least::<Busy>::new(candidates, self.choices);
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().load().weights()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        within("choices", self.choices, 2, 10)?;
        Stage::Algorithm.inside(outer)
    }
}

struct Busy {
    load: Load,
    weight: f32,
    slot: Slot,
    member: Member,
}

impl Contender for Busy {
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
    fn ticks(&self, _request: &PickRequest<'_>) -> u32 {
        0
    }

    #[inline]
    fn beats(&self, other: &Self, _ticks: u32) -> bool {
        let (mine, theirs) = queues(
            (self.load.in_flight(), self.weight),
            (other.load.in_flight(), other.weight),
        );
        mine < theirs
    }
}

/// How long the queues of two instances would be with one more call, for their weights; equal when both are idle, where
/// weights have been heeded by the draw.
#[inline]
pub(super) fn queues(mine: (usize, f32), theirs: (usize, f32)) -> (f32, f32) {
    match (mine.0, theirs.0) {
        (0, 0) => (1.0, 1.0),
        (in_flight, others) => (
            (in_flight as f32 + 1.0) * theirs.1,
            (others as f32 + 1.0) * mine.1,
        ),
    }
}
