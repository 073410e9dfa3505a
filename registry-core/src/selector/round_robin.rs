//! One after the other.

use std::sync::Arc;

use super::stripe::{Places, advance};
use super::{Built, Candidate, Context, PickRequest, Picker, Roster, Selector, Slot};

/// Chooses one instance after the other: of the weights only 0 is heeded.
///
/// Each thread goes round on its own, from a random instance on, so that neither threads nor clients wait for each
/// other or move in step. Its place survives changes of the instances.
#[derive(Debug, Default)]
pub struct RoundRobin {
    places: Arc<Places>,
}

impl Selector for RoundRobin {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let picker = RoundRobinPicker {
            places: self.places.clone(),
            roster: Roster::new(candidates),
        };
        Built::new(picker, candidates)
    }
}

struct RoundRobinPicker {
    places: Arc<Places>,
    roster: Roster,
}

impl Picker for RoundRobinPicker {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let place = advance(self.places.here());
        let at = place.checked_rem(self.roster.len() as u32)?;
        self.roster.first_admitted(at as usize, request)
    }
}
