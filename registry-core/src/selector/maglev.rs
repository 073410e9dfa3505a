//! The instance that a table says for a key.

use super::{Built, Candidate, Context, Needs, PickRequest, Picker, Roster, Selector, Slot, hash};

/// Primes: the smallest of at least 100 entries for each instance is taken.
const SIZES: [usize; 4] = [65_537, 262_147, 1_048_583, 4_194_319];
/// Entries that are tried before the others are searched one after the other.
const TRIES: u64 = 16;

/// Sends calls of one key to the same instance, by a table (Eisenbud et al., "Maglev: A Fast and Reliable Software
/// Network Load Balancer", NSDI 2016).
///
/// Every client chooses the same instance for a key. Shares are within 1 % of the weights; a pick is one look into the
/// table. One instance more or less of `n` moves about `1/n` of the keys and up to as many again that need not move,
/// where [`RingHash`](super::RingHash) moves no other. The table has 4 bytes for each of 65,537 entries, and more than
/// 100 for each instance up to 4 million; when it grows all keys move. A request without a key goes anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Maglev {}

impl Selector for Maglev {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let picker = MaglevPicker {
            table: table(candidates),
            roster: Roster::new(candidates),
        };
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().weights()
    }
}

struct MaglevPicker {
    table: Box<[u32]>,
    roster: Roster,
}

impl Picker for MaglevPicker {
    #[inline]
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let hash = request.spread();
        let at = *self.table.get(hash::below(hash, self.table.len()))?;
        self.roster
            .admitted(at as usize, request)
            .or_else(|| self.elsewhere(hash, request))
    }
}

impl MaglevPicker {
    /// Other entries of the same key, so that also those who are excluded by many clients have their calls spread.
    #[cold]
    fn elsewhere(&self, hash: u64, request: &PickRequest<'_>) -> Option<Slot> {
        let entry = |try_| hash::below(hash::pair(hash, try_), self.table.len());
        (0..TRIES)
            .find_map(|try_| {
                self.roster
                    .admitted(self.table[entry(try_)] as usize, request)
            })
            .or_else(|| {
                let start = hash::below(hash, self.roster.len());
                self.roster.first_admitted(start, request)
            })
    }
}

/// The way of an instance through the table.
struct Way {
    at: usize,
    skip: usize,
    /// Entries that it takes in a round, and what is left of them.
    part: f64,
    credit: f64,
}

fn table(candidates: &[Candidate<'_>]) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    if candidates.is_empty() {
        return Box::default();
    }
    let size = SIZES
        .into_iter()
        .find(|size| *size >= 100 * candidates.len())
        .unwrap_or(SIZES[SIZES.len() - 1]);
    let sum: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
    let mut ways: Vec<Way> = candidates
        .iter()
        .map(|candidate| {
            let own = hash::instance(candidate.instance);
            Way {
                at: hash::below(own, size),
                skip: 1 + hash::below(hash::mix(own), size - 1),
                part: f64::from(candidate.weight) / sum * candidates.len() as f64,
                credit: 0.0,
            }
        })
        .collect();
    let mut table = vec![FREE; size].into_boxed_slice();
    let mut left = size;
    loop {
        for (owner, way) in (0..).zip(&mut ways) {
            way.credit += way.part;
            while way.credit >= 1.0 {
                way.credit -= 1.0;
                while table[way.at] != FREE {
                    way.at = (way.at + way.skip) % size;
                }
                table[way.at] = owner;
                left -= 1;
                if left == 0 {
                    return table;
                }
            }
        }
    }
}
