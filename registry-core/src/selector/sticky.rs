//! Calls of one key stay where the first one went.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stage::{refused, within};
use super::{
    Built, Candidate, Context, Member, Needs, PickRequest, Picker, Selector, Slot, Stage, hash,
};
use crate::error::Result;
use crate::instance::Status;

/// Lets another selector choose for the first call of a key, and keeps to that for the later ones, as long as the
/// instance may be called; also while it is draining or its weight is 0, when it gets no new keys.
///
/// Unlike a hash this heeds load when a key comes, and moves no key when an instance comes. It is the memory of one
/// process: where clients must agree, take [`RingHash`](super::RingHash) or [`Maglev`](super::Maglev). Keys share
/// 4,096 places, so that memory is bounded; those of one place go together. A request without a key goes where the
/// other selector says.
#[derive(Debug)]
pub struct Sticky<S> {
    inner: S,
    places: Arc<Places>,
}

impl<S: Selector> Sticky<S> {
    /// Keeps to what this selector chose.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            places: Arc::new(Places::new(4096)),
        }
    }

    /// How many places keys share: a power of two from 16 to 2²⁰, 8 bytes each. Default 4,096.
    pub fn places(mut self, places: usize) -> Self {
        self.places = Arc::new(Places::new(places));
        self
    }
}

impl<S: Selector> Selector for Sticky<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let retiring = context.all.iter().filter(|candidate| {
            candidate.instance.status == Status::Draining
                || candidate.instance.weight == 0 && candidate.instance.status == Status::Up
        });
        let mut known: Vec<_> = candidates
            .iter()
            .chain(retiring)
            .map(|candidate| (candidate.member, candidate.slot))
            .collect();
        known.sort_unstable();
        let mut by_slot: Vec<_> = known
            .iter()
            .map(|(member, slot)| (*slot, *member))
            .collect();
        by_slot.sort_unstable();
        let places = self.places.clone();
        self.inner.build(candidates, context).picker(|inner| {
            Box::new(StickyPicker {
                inner,
                places,
                by_member: known.into(),
                by_slot: by_slot.into(),
            })
        })
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        let places = self.places.0.len();
        within("places", places, 16, 1 << 20)?;
        if !places.is_power_of_two() {
            return Err(refused(format!(
                "{places} places are refused; allowed: a power of two"
            )));
        }
        Stage::Sticky.inside(outer)?;
        self.inner.validate(Stage::Sticky)
    }
}

/// Who was chosen for the keys of each place; 0 for nobody yet.
struct Places(Box<[AtomicU64]>);

impl Places {
    fn new(len: usize) -> Self {
        Self((0..len.min(1 << 20)).map(|_| AtomicU64::new(0)).collect())
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.0.len()).finish()
    }
}

struct StickyPicker {
    inner: Box<dyn Picker>,
    places: Arc<Places>,
    by_member: Box<[(Member, Slot)]>,
    by_slot: Box<[(Slot, Member)]>,
}

impl Picker for StickyPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        let Some(hash) = request.hash else {
            return self.inner.pick(request);
        };
        let place = &self.places.0[hash::below(hash::mix(hash), self.places.0.len())];
        let before = place.load(Ordering::Relaxed);
        if let Some((member, slot)) = self.find(before) {
            // A retry elsewhere moves no key: it may be one bad answer.
            return if request.admits(member) {
                Some(slot)
            } else {
                self.inner.pick(request)
            };
        }
        let slot = self.inner.pick(request)?;
        let Ok(at) = self.by_slot.binary_search_by_key(&slot, |entry| entry.0) else {
            return Some(slot);
        };
        let chosen = u64::from(self.by_slot[at].1.0) + 1;
        match place.compare_exchange(before, chosen, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Some(slot),
            // Another thread was first.
            Err(theirs) => self
                .find(theirs)
                .filter(|(member, _)| request.admits(*member))
                .map_or(Some(slot), |(_, slot)| Some(slot)),
        }
    }
}

impl StickyPicker {
    fn find(&self, place: u64) -> Option<(Member, Slot)> {
        let member = Member(u32::try_from(place.checked_sub(1)?).ok()?);
        let at = self
            .by_member
            .binary_search_by_key(&member, |entry| entry.0)
            .ok()?;
        Some(self.by_member[at])
    }
}
