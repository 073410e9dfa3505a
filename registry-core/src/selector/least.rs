//! The best of a few that are drawn at random.

use super::alias::Alias;
use super::{Candidate, Member, PickRequest, Picker, Slot};

/// What competes in a draw: all that a comparison looks at, side by side.
pub(super) trait Contender: Send + Sync + 'static {
    fn new(candidate: &Candidate<'_>) -> Self;

    fn slot(&self) -> Slot;

    fn member(&self) -> Member;

    /// The time, as comparisons want it.
    fn ticks(&self, request: &PickRequest<'_>) -> u32;

    /// Whether this one should be called rather than the `other`; neither where they are alike.
    fn beats(&self, other: &Self, ticks: u32) -> bool;
}

/// Draws the first by weight and the others evenly: of those that are alike the first is chosen, so that without load
/// the weights alone decide, and exactly.
pub(super) struct Least<C> {
    contenders: Box<[C]>,
    alias: Alias,
    draws: u8,
}

impl<C: Contender> Least<C> {
    pub(super) fn new(candidates: &[Candidate<'_>], draws: u8) -> Self {
        Self {
            contenders: candidates.iter().map(C::new).collect(),
            alias: Alias::new(candidates.iter().map(|candidate| candidate.weight)),
            draws,
        }
    }

    #[cold]
    fn elsewhere(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let len = self.contenders.len();
        let (before, after) = self
            .contenders
            .split_at(super::hash::below(fastrand::u64(..), len));
        let ticks = self.contenders.first()?.ticks(request);
        after
            .iter()
            .chain(before)
            .filter(|one| request.admits(one.member()))
            .reduce(|best, one| if one.beats(best, ticks) { one } else { best })
            .map(C::slot)
    }
}

impl<C: Contender> Picker for Least<C> {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let len = self.contenders.len();
        let best = match &*self.contenders {
            [] => return None,
            [only] => only,
            contenders => {
                let mut random = fastrand::u64(..);
                let first = self.alias.draw(random);
                let mut best = &contenders[first];
                let ticks = best.ticks(request);
                for left in (1..self.draws).rev() {
                    // The lower half, which a draw without weights has not used.
                    random = if left == self.draws - 1 && self.alias.is_even() {
                        random << 32
                    } else {
                        fastrand::u64(..)
                    };
                    let other = super::hash::below(random, len - 1);
                    let other = &contenders[other + usize::from(other >= first)];
                    if other.beats(best, ticks) {
                        best = other;
                    }
                }
                best
            }
        };
        if request.admits(best.member()) {
            Some(best.slot())
        } else {
            self.elsewhere(request)
        }
    }
}
