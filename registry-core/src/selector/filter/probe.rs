//! One call to see whether an instance is well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::selector::{Member, PickRequest, Picker, Slot};

/// Sends one call to each instance on probation, and all others where the selector inside says.
pub(super) struct ProbePicker {
    pub(super) inner: Box<dyn Picker>,
    pub(super) probes: Box<[Probe]>,
    /// Probes that were not sent, at most.
    pub(super) left: AtomicUsize,
}

pub(super) struct Probe {
    pub(super) slot: Slot,
    pub(super) member: Member,
    /// Survives builds, so that it stays one call.
    pub(super) sent: Arc<AtomicBool>,
}

impl Picker for ProbePicker {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        if self.left.load(Ordering::Relaxed) > 0
            && let Some(slot) = self.probe(request)
        {
            return Some(slot);
        }
        self.inner.pick(request)
    }
}

impl ProbePicker {
    #[cold]
    fn probe(&self, request: &PickRequest<'_>) -> Option<Slot> {
        // A retry is not for trying out.
        if !request.exclude.is_empty() {
            return None;
        }
        let probe = self.probes.iter().find(|probe| {
            request.admits(probe.member) && !probe.sent.swap(true, Ordering::Relaxed)
        });
        if probe.is_none() {
            self.left.store(0, Ordering::Relaxed);
        }
        probe.map(|probe| probe.slot)
    }
}
