//! One after the other, the heavy ones more often.

use std::sync::Arc;

use super::stripe::{Places, advance};
use super::{Built, Candidate, Context, Needs, PickRequest, Picker, Roster, Selector, Slot};

/// The largest stride.
const MOST: u32 = 65_535;
/// Rounds before the others are searched one after the other.
const ROUNDS: usize = 4;

/// Chooses one instance after the other, each as often as its weight says, evenly spread over time.
///
/// Static-stride scheduling (gRFC A58): in round `g` an instance of weight `w` of at most `M` has its turn when `w·g`
/// passes a multiple of `M`. Over any number of calls of one thread the share of an instance is off by less than a few
/// calls, in place of a random draw's `√n`. An instance of more than twice the mean weight has several turns in a
/// round, so that a pick takes the same time whatever the weights; there are at most twice as many turns as instances.
///
/// Each thread goes round on its own, from a random place on; the place survives changes of the instances.
#[derive(Debug, Default)]
pub struct WeightedRoundRobin {
    places: Arc<Places>,
}

impl Selector for WeightedRoundRobin {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let picker = WeightedRoundRobinPicker {
            places: self.places.clone(),
            turns: turns(candidates),
            roster: Roster::new(candidates),
        };
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().weights()
    }
}

struct WeightedRoundRobinPicker {
    places: Arc<Places>,
    turns: Box<[Turn]>,
    roster: Roster,
}

/// One chance in each round.
#[derive(Clone, Copy, Debug)]
struct Turn {
    at: u32,
    stride: u32,
}

impl Turn {
    #[inline]
    const fn is_taken(self, column: u32, round: u32) -> bool {
        // Half a stride between neighbours, so that not all have their turn in the same rounds.
        let offset = column as u64 * (MOST / 2) as u64;
        let reached = self.stride as u64 * round as u64 + offset;
        reached % MOST as u64 >= (MOST - self.stride) as u64
    }
}

fn turns(candidates: &[Candidate<'_>]) -> Box<[Turn]> {
    let sum: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
    let mean = sum / candidates.len().max(1) as f64;
    let mut columns = Vec::with_capacity(candidates.len());
    for (at, candidate) in (0..).zip(candidates) {
        let weight = f64::from(candidate.weight);
        let parts = (weight / (2.0 * mean)).ceil().max(1.0) as u32;
        for part in 0..parts {
            // Those of one instance are spread over the round.
            let order = if parts == 1 {
                f64::from(at) / candidates.len() as f64
            } else {
                (f64::from(part) + 0.5) / f64::from(parts)
            };
            columns.push((order, at, weight / f64::from(parts)));
        }
    }
    columns.sort_by(|one, other| one.0.total_cmp(&other.0));
    let heaviest = columns
        .iter()
        .fold(0.0, |most: f64, column| most.max(column.2));
    columns
        .into_iter()
        .map(|(_, at, weight)| Turn {
            at,
            stride: ((weight / heaviest * f64::from(MOST)).round() as u32).clamp(1, MOST),
        })
        .collect()
}

impl Picker for WeightedRoundRobinPicker {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let place = self.places.here();
        let len = self.turns.len() as u32;
        for _ in 0..self.turns.len() * ROUNDS {
            let now = advance(place);
            let (round, column) = (now / len, now % len);
            let turn = self.turns[column as usize];
            if turn.is_taken(column, round)
                && let Some(slot) = self.roster.admitted(turn.at as usize, request)
            {
                return Some(slot);
            }
        }
        // Nearly everybody is excluded.
        self.roster.first_admitted(0, request)
    }
}
