//! What picks read: built on every change, replaced at once.

use std::sync::Arc;

use super::pick::PickError;
use crate::selector::{Node, PickRequest, Picker, Slot};

/// The instances, what is known of them, and how to choose.
pub(super) struct Plane {
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) picker: Box<dyn Picker>,
    /// Why there is nobody, where there is nobody.
    pub(super) none: PickError,
}

impl Plane {
    pub(super) fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            picker: Box::new(Nobody),
            none: PickError::NotReady,
        }
    }

    /// `None` for a slot of another build, which a selector may have kept.
    pub(super) fn node(&self, slot: Slot) -> Option<Arc<Node>> {
        self.nodes.get(slot.0 as usize).cloned()
    }

    #[cold]
    pub(super) fn why_none(&self, request: &PickRequest<'_>) -> PickError {
        if request.exclude.is_empty() || self.picker.pick(&PickRequest::default()).is_none() {
            self.none
        } else {
            PickError::Excluded
        }
    }
}

struct Nobody;

impl Picker for Nobody {
    fn pick(&self, _request: &PickRequest<'_>) -> Option<Slot> {
        None
    }
}
