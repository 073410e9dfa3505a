//! Any instance, as often as its weight says.

use super::alias::Alias;
use super::{Built, Candidate, Context, Needs, PickRequest, Picker, Roster, Selector, Slot};

/// Draws before the others are searched one after the other.
const DRAWS: usize = 8;

/// Chooses at random, each instance with the chance that its weight says.
///
/// A draw takes the same time whatever the number of instances and their weights (alias method). The share of an
/// instance of chance `p` in `n` calls is off by `√(p(1−p)/n)` on average; where that is too much, take
/// [`WeightedRoundRobin`](super::WeightedRoundRobin).
#[derive(Clone, Copy, Debug, Default)]
pub struct WeightedRandom {}

impl Selector for WeightedRandom {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let picker = WeightedRandomPicker {
            alias: Alias::new(candidates.iter().map(|candidate| candidate.weight)),
            roster: Roster::new(candidates),
        };
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().weights()
    }
}

struct WeightedRandomPicker {
    alias: Alias,
    roster: Roster,
}

impl Picker for WeightedRandomPicker {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let at = self.alias.draw(fastrand::u64(..));
        self.roster
            .admitted(at, request)
            .or_else(|| self.elsewhere(request))
    }
}

impl WeightedRandomPicker {
    #[cold]
    fn elsewhere(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let mut draws = (0..DRAWS).map(|_| self.alias.draw(fastrand::u64(..)));
        draws
            .find_map(|at| self.roster.admitted(at, request))
            .or_else(|| {
                let start = super::hash::below(fastrand::u64(..), self.roster.len());
                self.roster.first_admitted(start, request)
            })
    }
}
