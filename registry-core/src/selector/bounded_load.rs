//! A ring on which nobody is overloaded.

use super::ring_hash::Ring;
use super::stage::within;
use super::{
    Built, Candidate, Context, Load, Needs, PickRequest, Picker, Roster, Selector, Slot, Stage,
    Total,
};
use crate::error::Result;

/// Sends calls of one key to the same instance, as [`RingHash`](super::RingHash), unless that has more than its share
/// of the calls in flight; then the next on the ring that has not.
///
/// Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016: no instance has more than
/// `⌈c·total·weight/weights⌉` calls of this process in flight, as far as threads that pick at the same moment see each
/// other. The pick counts all calls in flight in one place, which threads share.
#[derive(Clone, Copy, Debug)]
pub struct BoundedLoad {
    factor: f32,
}

impl Default for BoundedLoad {
    fn default() -> Self {
        Self { factor: 1.25 }
    }
}

impl BoundedLoad {
    /// How many times its share an instance may have, 1.01 to 10. Default 1.25: less spreads better, more moves fewer
    /// keys.
    pub const fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }
}

impl Selector for BoundedLoad {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let sum: f32 = candidates.iter().map(|one| one.weight).sum();
        let bounded = candidates.iter().map(|candidate| Bounded {
            load: candidate.load(),
            share: self.factor * candidate.weight / sum,
        });
        let picker = BoundedLoadPicker {
            total: context.total.clone(),
            bounded: bounded.collect(),
            ring: Ring::new(candidates),
            roster: Roster::new(candidates),
        };
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().load().total().weights()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        within("factor", self.factor, 1.01, 10.0)?;
        Stage::Algorithm.inside(outer)
    }
}

struct BoundedLoadPicker {
    total: Total,
    bounded: Box<[Bounded]>,
    ring: Ring,
    roster: Roster,
}

struct Bounded {
    load: Load,
    share: f32,
}

impl Picker for BoundedLoadPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let hash = request.spread();
        let with_this = self.total.in_flight() as f32 + 1.0;
        let has_room = |at: usize| {
            let bounded = &self.bounded[at];
            (bounded.load.in_flight() as f32) < (bounded.share * with_this).ceil()
        };
        let mut admitted = self
            .ring
            .from(hash)
            .filter_map(|at| self.roster.admitted(at, request).map(|slot| (at, slot)));
        let first = admitted.next()?;
        if has_room(first.0) {
            return Some(first.1);
        }
        // Nobody has room when those that have are excluded.
        let other = admitted.find(|(at, _)| has_room(*at));
        Some(other.unwrap_or(first).1)
    }
}
