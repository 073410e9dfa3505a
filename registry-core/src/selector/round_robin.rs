//! One after the other.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::{
    Built, Candidate, Context, Members, PickRequest, Picker, Selector, Slot, first_admitted,
    members,
};

/// Places kept at once; threads beyond that share them.
const STRIPES: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES);
}

/// Chooses one instance after the other: of the weights only 0 is heeded.
///
/// Each thread goes round on its own, from a random instance on, so that neither threads nor clients wait for each
/// other or move in step. Its place survives changes of the instances.
#[derive(Debug)]
pub struct RoundRobin {
    places: Arc<[Place; STRIPES]>,
}

/// The next place of a thread, alone in its cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Place(AtomicU32);

impl Place {
    /// Two threads that share a place may choose the same instance twice; that costs less than a shared counter.
    fn advance(&self) -> u32 {
        let place = self.0.load(Ordering::Relaxed);
        self.0.store(place.wrapping_add(1), Ordering::Relaxed);
        place
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        let place = |_| Place(AtomicU32::new(fastrand::u32(..)));
        Self {
            places: Arc::new(std::array::from_fn(place)),
        }
    }
}

impl Selector for RoundRobin {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        Built::new(RoundRobinPicker {
            places: self.places.clone(),
            members: members(candidates),
        })
    }
}

struct RoundRobinPicker {
    places: Arc<[Place; STRIPES]>,
    members: Members,
}

impl Picker for RoundRobinPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        match self.members.len() {
            0 => None,
            len => {
                let place = self.places[STRIPE.get()].advance();
                first_admitted(&self.members, place as usize % len, request)
            }
        }
    }
}
