//! Memory of its own for each thread, so that threads do not fight for it.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Places kept at once; threads beyond that share them.
const STRIPES: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// The number of this thread: those of threads that start one after the other differ by 1.
#[inline]
pub(crate) fn stripe() -> usize {
    STRIPE.with(|stripe| *stripe)
}

/// A counter for each thread, from a random number on, so that neither threads nor clients move in step.
#[derive(Debug)]
pub(super) struct Places([Place; STRIPES]);

/// The next place of a thread, alone in its cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Place(AtomicU32);

impl Default for Places {
    fn default() -> Self {
        Self(std::array::from_fn(|_| {
            Place(AtomicU32::new(fastrand::u32(..)))
        }))
    }
}

impl Places {
    /// Of this thread.
    #[inline]
    pub(super) fn here(&self) -> &AtomicU32 {
        &self.0[stripe() % STRIPES].0
    }
}

/// Counts up. Two threads that share a place may see the same number; that costs less than a shared counter.
#[inline]
pub(super) fn advance(place: &AtomicU32) -> u32 {
    let now = place.load(Ordering::Relaxed);
    place.store(now.wrapping_add(1), Ordering::Relaxed);
    now
}
