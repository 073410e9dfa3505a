//! The instance that follows a key on a ring.

use super::{Built, Candidate, Context, Needs, PickRequest, Picker, Roster, Selector, Slot, hash};

/// Points of an instance of average weight.
const POINTS: f64 = 160.0;
/// Most points of a ring: an instance has fewer where there are more than 6,500 of them.
const MOST_POINTS: f64 = 1_048_576.0;

/// Sends calls of one key to the same instance, as ketama does: instances have points on a ring, as many as their
/// weight says, and the first one clockwise from the key is chosen.
///
/// Every client chooses the same instance for a key. One instance more or less of `n` moves about `1/n` of the keys,
/// and only from or to that one. Shares are off by about 8 % (160 points each). Built in `O(V log V)` for `V` points;
/// a pick takes the same time whatever their number. A request without a key goes anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingHash {}

impl Selector for RingHash {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let picker = RingPicker {
            ring: Ring::new(candidates),
            roster: Roster::new(candidates),
        };
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().weights()
    }
}

struct RingPicker {
    ring: Ring,
    roster: Roster,
}

impl Picker for RingPicker {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        self.ring
            .from(request.spread())
            .find_map(|at| self.roster.admitted(at, request))
    }
}

/// Points in the order of their hashes, and where to begin looking for one.
pub(super) struct Ring {
    points: Box<[Point]>,
    starts: Box<[u32]>,
    /// How far a hash is shifted to be a position in `starts`.
    shift: u32,
}

/// The upper half of the hash above, the position of its owner below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point(u64);

impl Ring {
    pub(super) fn new(candidates: &[Candidate<'_>]) -> Self {
        let len = candidates.len() as f64;
        let sum: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
        // A power of two: the mean moves with every change, and with it all points would.
        let mean = (sum / len.max(1.0)).log2().round().exp2();
        let each = POINTS.min((MOST_POINTS / len.max(1.0)).log2().floor().exp2());
        let mut points = Vec::new();
        for (at, candidate) in (0..).zip(candidates) {
            let own = hash::instance(candidate.instance);
            let count = (f64::from(candidate.weight) / mean * each).round().max(1.0) as u64;
            points.extend((0..count).map(|point| {
                let at: u32 = at;
                Point(hash::pair(own, point) & !u64::from(u32::MAX) | u64::from(at))
            }));
        }
        points.sort_unstable();
        let bits = points.len().next_power_of_two().ilog2().max(1);
        let shift = 64 - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut next = 0_u32;
        for start in 0..1_u64 << bits {
            while points
                .get(next as usize)
                .is_some_and(|point| point.0 >> shift < start)
            {
                next += 1;
            }
            starts.push(next);
        }
        Self {
            points: points.into(),
            starts: starts.into(),
            shift,
        }
    }

    /// The owners of the points from this hash on, once round.
    #[inline]
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let mut first = self.starts[(hash >> self.shift) as usize] as usize;
        while self.points.get(first).is_some_and(|point| point.0 < hash) {
            first += 1;
        }
        let (before, after) = self.points.split_at(first);
        after
            .iter()
            .chain(before)
            .map(|point| (point.0 & u64::from(u32::MAX)) as usize)
    }
}
