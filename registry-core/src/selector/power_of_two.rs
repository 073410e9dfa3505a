//! The less busy one of two.

use super::{Built, Candidate, Context, Load, Member, PickRequest, Picker, Selector, Slot};

/// Draws two instances at random and chooses the one with fewer calls in flight for its weight.
///
/// Two are enough to keep the busiest instance close to the average (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001), and unlike a search for the least busy one it does not send everybody to the
/// same instance. Only calls of this process are counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerOfTwo {}

impl Selector for PowerOfTwo {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let choices = candidates.iter().map(|candidate| Choice {
            load: candidate.load(),
            weight: candidate.weight,
            slot: candidate.slot,
            member: candidate.member,
        });
        Built::new(PowerOfTwoPicker {
            choices: choices.collect(),
        })
    }
}

struct PowerOfTwoPicker {
    choices: Box<[Choice]>,
}

/// All that a draw looks at, side by side.
struct Choice {
    load: Load,
    weight: f32,
    slot: Slot,
    member: Member,
}

impl Choice {
    /// The one with fewer calls for its weight; of two that are equal, each as often as its weight says.
    fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        let (mine, theirs) = (self.load() * other.weight, other.load() * self.weight);
        let chosen = if self.weight == other.weight {
            // The order of the two is random already.
            mine <= theirs
        } else {
            mine < theirs
                || mine == theirs && fastrand::f32() * (self.weight + other.weight) < self.weight
        };
        if chosen { self } else { other }
    }

    fn load(&self) -> f32 {
        self.load.in_flight() as f32
    }
}

impl PowerOfTwoPicker {
    #[cold]
    fn elsewhere(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let admitted = self
            .choices
            .iter()
            .filter(|choice| request.admits(choice.member));
        admitted.reduce(Choice::or).map(|choice| choice.slot)
    }
}

impl Picker for PowerOfTwoPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let chosen = match &*self.choices {
            [] => return None,
            [only] => only,
            choices => {
                let (first, second) = two_of(choices.len());
                let (first, second) = (&choices[first], &choices[second]);
                first.or(second)
            }
        };
        if request.admits(chosen.member) {
            Some(chosen.slot)
        } else {
            self.elsewhere(request)
        }
    }
}

/// Two different positions below `len`, which is at least 2; all pairs with the same chance, to 1 in 2³² ÷ `len`.
fn two_of(len: usize) -> (usize, usize) {
    let random = fastrand::u64(..);
    let below = |random: u64, len: usize| (((random & 0xffff_ffff) * len as u64) >> 32) as usize;
    let first = below(random, len);
    let second = below(random >> 32, len - 1);
    (first, second + usize::from(second >= first))
}
