//! What picks read: built on every change, replaced at once.

use std::sync::Arc;

use tokio::time::Instant;

use super::error::{PickError, PickErrorKind, Scene};
use crate::instance::ServiceName;
use crate::selector::{Crowd, Held, Member, Node, PickRequest, Picker, Slot, stripe};

/// The instances, what is known of them, and how to choose.
pub(super) struct Plane {
    /// For each slot as many as there are stripes, side by side.
    pub(super) nodes: Arc<[Held]>,
    pub(super) picker: Box<dyn Picker>,
    /// The number of stripes, a power of two, less 1.
    pub(super) mask: usize,
    /// Whether picks read the clock.
    pub(super) timed: bool,
    /// What every pick holds as well, where a selector wants the total of calls.
    pub(super) crowd: Option<Arc<Crowd>>,
    pub(super) since: Arc<[Instant]>,
    pub(super) left_out: Vec<(Member, &'static str)>,
    pub(super) shares: Vec<(Slot, f32)>,
    /// Of the snapshot that this was built from.
    pub(super) generation: u64,
    pub(super) built: Instant,
    /// Why there is nobody, where there is nobody.
    pub(super) none: PickErrorKind,
    pub(super) scene: Arc<Scene>,
}

impl Plane {
    pub(super) fn empty(service: ServiceName) -> Self {
        Self {
            nodes: Arc::default(),
            picker: Box::new(Nobody),
            mask: 0,
            timed: false,
            crowd: None,
            since: Arc::default(),
            left_out: Vec::new(),
            shares: Vec::new(),
            generation: 0,
            built: Instant::now(),
            none: PickErrorKind::NotReady,
            scene: Arc::new(Scene::new(service, 0, &[])),
        }
    }

    /// `None` for a slot of another build, which a selector may have kept.
    #[inline]
    pub(super) fn node(&self, slot: Slot) -> Option<Arc<Node>> {
        let stripes = self.mask + 1;
        let at = slot.0 as usize * stripes + (stripe() & self.mask);
        self.nodes.get(at).map(|held| Arc::clone(held))
    }

    /// Those of one slot.
    pub(super) fn stripes(&self) -> impl Iterator<Item = &[Held]> {
        self.nodes.chunks_exact(self.mask + 1)
    }

    #[cold]
    pub(super) fn why_none(&self, request: &PickRequest<'_>) -> PickError {
        let excluded =
            !request.exclude.is_empty() && self.picker.pick(&PickRequest::default()).is_some();
        let kind = if excluded {
            PickErrorKind::Excluded
        } else {
            self.none
        };
        PickError::new(kind, self.scene.clone())
    }
}

struct Nobody;

impl Picker for Nobody {
    fn pick(&self, _request: &PickRequest<'_>) -> Option<Slot> {
        None
    }
}
