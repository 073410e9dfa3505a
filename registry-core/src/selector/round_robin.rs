//! One after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Built, Candidate, Context, Members, PickRequest, Picker, Selector, Slot, first_admitted,
    members,
};

/// Chooses one instance after the other, from a random one on, so that many clients do not start with the same.
///
/// Its place survives changes of the instances.
#[derive(Debug)]
pub struct RoundRobin {
    next: Arc<AtomicUsize>,
}

impl Default for RoundRobin {
    fn default() -> Self {
        // Far from the wrap-around, where one instance would be skipped.
        Self {
            next: Arc::new(AtomicUsize::new(fastrand::u32(..) as usize)),
        }
    }
}

impl Selector for RoundRobin {
    fn build(&self, candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
        Built::new(RoundRobinPicker {
            next: self.next.clone(),
            members: members(candidates),
        })
    }
}

struct RoundRobinPicker {
    next: Arc<AtomicUsize>,
    members: Members,
}

impl Picker for RoundRobinPicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        match self.members.len() {
            0 => None,
            len => first_admitted(
                &self.members,
                self.next.fetch_add(1, Ordering::Relaxed) % len,
                request,
            ),
        }
    }
}
