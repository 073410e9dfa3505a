//! A part of the instances that fits the parts of the other callers.

use super::subset::highest;
use crate::error::Result;
use crate::instance::Status;
use crate::selector::stage::{refused, within};
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage, hash};

/// Chooses among a part of the instances, so that all callers together call all instances alike, each keeping few
/// connections (Finagle's deterministic aperture).
///
/// Callers and instances are put on a ring, in the order of their ids' hashes. Of `p` callers, each has the `k/p` of
/// the ring from its own place on, `k` being the least that gives it 12 instances. Every place of the ring then has
/// exactly `k` callers. An instance that is partly inside has that part of its weight.
///
/// The callers are the instances of the service of [`Caller::key`](crate::Caller), which the registry knows. Without a
/// key, or while the caller is not among them, a random [`Subset`](super::Subset) of 12 takes its place.
#[derive(Clone, Copy, Debug)]
pub struct Aperture<S> {
    inner: S,
    least: usize,
    seed: u64,
}

impl<S: Selector> Aperture<S> {
    /// A part of at least 12 instances.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            least: 12,
            seed: fastrand::u64(..),
        }
    }

    /// The least number of instances. Default 12: fewer, and one that fails hurts.
    pub const fn least(mut self, least: usize) -> Self {
        self.least = least;
        self
    }
}

impl<S: Selector> Selector for Aperture<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let Some((place, callers)) = place(context) else {
            return highest(&self.inner, self.least, self.seed, candidates, context);
        };
        let len = candidates.len();
        let slices = (self.least * callers).div_ceil(len.max(1)).max(1);
        if slices >= callers {
            return self.inner.build(candidates, context);
        }
        let mut ring: Vec<_> = candidates
            .iter()
            .map(|one| (hash::instance(one.instance), *one))
            .collect();
        ring.sort_unstable_by_key(|(hash, one)| (*hash, one.slot));
        // In units of one part of `callers × len`: an instance is `callers` wide, a caller's part `slices × len`.
        let (begin, end) = (place * len, (place + slices) * len);
        let round = callers * len;
        let (mut inside, mut left_out) = (Vec::new(), Vec::new());
        for (at, (_, candidate)) in ring.iter().enumerate() {
            let (from, to) = (at * callers, (at + 1) * callers);
            let overlap = |shift: usize| {
                let (from, to) = (from + shift, to + shift);
                to.min(end).saturating_sub(from.max(begin))
            };
            match overlap(0) + overlap(round) {
                0 => left_out.push((candidate.member, "outside of the aperture")),
                part => inside.push(candidate.scaled(part as f32 / callers as f32)),
            }
        }
        inside.sort_unstable_by_key(|candidate| candidate.slot);
        self.inner.build(&inside, context).without(left_out)
    }

    fn needs(&self) -> Needs {
        self.inner.needs().peers()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        within("least", self.least, 1, usize::MAX >> 32)?;
        if !self.inner.needs().weights {
            return Err(refused(
                "an aperture has parts of instances, and the selector inside of it heeds no weights; \
                 use a weighted one",
            ));
        }
        Stage::Subset.inside(outer)?;
        self.inner.validate(Stage::Subset)
    }
}

/// Which of the callers this one is.
fn place(context: &Context<'_>) -> Option<(usize, usize)> {
    let key = context.caller.key.as_ref()?;
    let mut callers: Vec<_> = context
        .peers
        .iter()
        .filter(|peer| matches!(peer.status, Status::Up | Status::Warning))
        .map(|peer| (hash::instance(peer), &peer.id))
        .collect();
    callers.sort_unstable();
    let place = callers.iter().position(|(_, id)| **id == key.id)?;
    Some((place, callers.len()))
}
