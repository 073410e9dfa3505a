//! Any instance, all alike.

use super::{Built, Candidate, Context, PickRequest, Picker, Roster, Selector, Slot};

/// Chooses at random, all with the same chance: of the weights only 0 is heeded.
///
/// Keeps no state at all, so that any number of threads pick without meeting. Needs about ten calls per instance
/// before shares look even.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random {}

impl Selector for Random {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        Built::new(RandomPicker(Roster::new(candidates)), candidates)
    }
}

struct RandomPicker(Roster);

impl Picker for RandomPicker {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let start = super::hash::below(fastrand::u64(..), self.0.len());
        self.0.first_admitted(start, request)
    }
}
