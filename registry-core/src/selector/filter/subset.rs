//! A few instances, always the same.

use crate::error::Result;
use crate::selector::stage::within;
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage, hash};

/// Chooses among a subset of the instances, so that a client of a large service keeps few connections.
///
/// The subset are the instances of the highest hash with the caller's key (gRFC A68): one more or less changes at most
/// one of them, and callers differ. Instances have about `callers × size / instances` callers each, at random: where
/// the caller's own service is registered, [`Aperture`](super::Aperture) shares them evenly.
#[derive(Clone, Copy, Debug)]
pub struct Subset<S> {
    inner: S,
    size: usize,
    seed: u64,
}

impl<S: Selector> Subset<S> {
    /// At most so many instances.
    pub fn new(size: usize, inner: S) -> Self {
        Self {
            inner,
            size,
            seed: fastrand::u64(..),
        }
    }

    /// What the subset depends on where the caller has no key. Default random: every process has a subset of its own.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl<S: Selector> Selector for Subset<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        highest(&self.inner, self.size, self.seed, candidates, context)
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        within("subset", self.size, 1, usize::MAX)?;
        Stage::Subset.inside(outer)?;
        self.inner.validate(Stage::Subset)
    }
}

/// Among the `size` of the highest hash.
pub(super) fn highest(
    inner: &impl Selector,
    size: usize,
    seed: u64,
    candidates: &[Candidate<'_>],
    context: &Context<'_>,
) -> Built {
    if candidates.len() <= size {
        return inner.build(candidates, context);
    }
    let seed = context.caller.key.as_ref().map_or(seed, |key| {
        hash::pair(
            hash::bytes(key.service.as_str().as_bytes()),
            hash::bytes(key.id.as_str().as_bytes()),
        )
    });
    let mut ranked: Vec<_> = candidates
        .iter()
        .map(|one| (hash::pair(hash::instance(one.instance), seed), *one))
        .collect();
    ranked.select_nth_unstable_by_key(size - 1, |(rank, _)| std::cmp::Reverse(*rank));
    let (chosen, others) = ranked.split_at(size);
    let mut chosen: Vec<_> = chosen.iter().map(|(_, candidate)| *candidate).collect();
    chosen.sort_unstable_by_key(|candidate| candidate.slot);
    let left_out = others
        .iter()
        .map(|(_, one)| (one.member, "outside of the subset"));
    inner.build(&chosen, context).without(left_out.collect())
}
