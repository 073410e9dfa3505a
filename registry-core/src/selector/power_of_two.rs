//! The less busy one of two.

use std::sync::Arc;

use super::{
    Built, Candidate, Context, Members, PickRequest, Picker, Selector, Slot, Stats, first_admitted,
    members,
};

/// Draws two instances at random and chooses the one with fewer calls in flight for its weight.
///
/// Two are enough to keep the busiest instance close to the average (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001), and unlike a search for the least busy one it does not send everybody to the
/// same instance. Only calls of this process are counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerOfTwo {}

impl Selector for PowerOfTwo {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        Built::new(PowerOfTwoPicker {
            loads: candidates
                .iter()
                .map(|candidate| (candidate.stats.clone(), candidate.weight))
                .collect(),
            members: members(candidates),
        })
    }
}

struct PowerOfTwoPicker {
    loads: Box<[(Arc<Stats>, f32)]>,
    members: Members,
}

impl PowerOfTwoPicker {
    /// Whether the first is no busier than the second.
    fn is_idler(&self, first: usize, second: usize) -> bool {
        let ((first, first_weight), (second, second_weight)) =
            (&self.loads[first], &self.loads[second]);
        let load = |stats: &Stats| (stats.in_flight() + 1) as f32;
        load(first) * second_weight <= load(second) * first_weight
    }
}

impl Picker for PowerOfTwoPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let len = self.loads.len();
        if len < 2 {
            return first_admitted(&self.members, 0, request);
        }
        let first = fastrand::usize(..len);
        // One of the others, all with the same chance.
        let second = (first + fastrand::usize(1..len)) % len;
        let (chosen, other) = if self.is_idler(first, second) {
            (first, second)
        } else {
            (second, first)
        };
        if request.exclude.is_empty() {
            return Some(self.members[chosen].0);
        }
        if request.admits(self.members[chosen].1) {
            return Some(self.members[chosen].0);
        }
        first_admitted(&self.members, other, request)
    }
}
