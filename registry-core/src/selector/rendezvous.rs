//! The instance that wants a key most.

use super::{Built, Candidate, Context, Member, Needs, PickRequest, Picker, Selector, Slot, hash};

/// Sends calls of one key to the same instance: the one whose hash with the key is highest (Thaler, Ravishankar, "Using
/// Name-Based Mappings to Increase Hit Rates", 1998), weights by `-w/ln(h)`.
///
/// Every client chooses the same instance for a key, shares are exactly as the weights say, and one instance more or
/// less moves the fewest keys that there can be, also when a weight changes. A retry goes to the key's second choice,
/// the same for every client. A pick looks at every instance: for more than a hundred take
/// [`RingHash`](super::RingHash) or [`Maglev`](super::Maglev). A request without a key goes anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rendezvous {}

impl Selector for Rendezvous {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        let bidders = candidates.iter().map(|candidate| Bidder {
            hash: hash::instance(candidate.instance),
            weight: f64::from(candidate.weight),
            slot: candidate.slot,
            member: candidate.member,
        });
        let picker = RendezvousPicker {
            bidders: bidders.collect(),
        };
        Built::new(picker, candidates)
    }

    fn needs(&self) -> Needs {
        Needs::default().weights()
    }
}

struct RendezvousPicker {
    bidders: Box<[Bidder]>,
}

struct Bidder {
    hash: u64,
    weight: f64,
    slot: Slot,
    member: Member,
}

impl Picker for RendezvousPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let key = request.spread();
        let bid = |bidder: &Bidder| {
            let unit = hash::unit(hash::pair(bidder.hash, key));
            -bidder.weight / unit.ln()
        };
        self.bidders
            .iter()
            .filter(|bidder| request.admits(bidder.member))
            .map(|bidder| (bid(bidder), bidder.slot))
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, slot)| slot)
    }
}
