//! Where picks find the plane: behind one atomic load, as long as it stays the same.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::plane::Plane;

/// Planes that a thread keeps, of as many balancers.
const KEPT: usize = 8;

static BALANCERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread read last. Keeping it saves the two writes of a load from `arc-swap`, half of the cost of a
    /// pick. A thread that picks no more keeps its last planes until it ends.
    static LAST: RefCell<[Option<Kept>; KEPT]> = const { RefCell::new([const { None }; KEPT]) };
}

struct Kept {
    of: u64,
    version: u64,
    plane: Arc<Plane>,
}

/// The plane of one balancer.
pub(super) struct Published {
    balancer: u64,
    /// Grows after the plane was replaced.
    version: AtomicU64,
    plane: ArcSwap<Plane>,
}

impl Published {
    pub(super) fn new(plane: Plane) -> Self {
        Self {
            balancer: BALANCERS.fetch_add(1, Ordering::Relaxed),
            version: AtomicU64::new(0),
            plane: ArcSwap::from_pointee(plane),
        }
    }

    pub(super) fn load(&self) -> Arc<Plane> {
        self.plane.load_full()
    }

    /// Replaces the plane, and gives back the one before: whoever drops it last pays for that.
    pub(super) fn store(&self, plane: Plane) -> Arc<Plane> {
        let before = self.plane.swap(Arc::new(plane));
        self.version.fetch_add(1, Ordering::Release);
        before
    }

    /// Calls `read` with the plane, once.
    #[inline]
    pub(super) fn read<T>(&self, read: impl Fn(&Plane) -> T) -> T {
        let kept = LAST.try_with(|last| {
            let last = last.try_borrow().ok()?;
            let kept = last[self.balancer as usize % KEPT].as_ref()?;
            let current =
                kept.of == self.balancer && kept.version == self.version.load(Ordering::Acquire);
            current.then(|| read(&kept.plane))
        });
        match kept {
            Ok(Some(result)) => result,
            // Another plane, or a thread that ends.
            _ => read(&self.keep()),
        }
    }

    #[cold]
    fn keep(&self) -> Arc<Plane> {
        // Before the plane: it may be newer than this says, never older.
        let version = self.version.load(Ordering::Acquire);
        let plane = self.plane.load_full();
        let kept = Kept {
            of: self.balancer,
            version,
            plane: plane.clone(),
        };
        // A picker that picks from another balancer is borrowed from here: then nothing is kept.
        let before = LAST.try_with(|last| {
            let mut last = last.try_borrow_mut().ok()?;
            last[self.balancer as usize % KEPT].replace(kept)
        });
        // What was kept may end here, which runs the code of selectors: not while it is borrowed.
        drop(before);
        plane
    }
}
