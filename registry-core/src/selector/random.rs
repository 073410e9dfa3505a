//! Any instance, all alike.

use super::{
    Built, Candidate, Context, Members, PickRequest, Picker, Selector, Slot, first_admitted,
    members,
};

/// Chooses at random, all with the same chance: of the weights only 0 is heeded.
///
/// Keeps no state at all, so that any number of threads pick without meeting. Needs about ten calls per instance
/// before shares look even.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random {}

impl Selector for Random {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        Built::new(RandomPicker {
            members: members(candidates),
        })
    }
}

struct RandomPicker {
    members: Members,
}

impl Picker for RandomPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        match self.members.len() {
            0 => None,
            len => first_admitted(&self.members, fastrand::usize(..len), request),
        }
    }
}
