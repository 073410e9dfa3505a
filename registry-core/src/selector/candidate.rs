//! Who may be chosen, and what a selector knows beside that.

use std::sync::Arc;

use tokio::time::Instant;

use super::node::{Held, Load, Node, Total};
use crate::instance::{Instance, InstanceKey, Label};

/// An instance that may be chosen.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// What a picker returns to choose it.
    pub slot: Slot,
    /// Who it is, across changes.
    pub member: Member,
    /// What it says.
    pub instance: &'a Instance,
    /// Since when it can be called.
    pub since: Instant,
    /// Its share of the calls relative to the others, after the filters so far; above 0.
    pub weight: f32,
    /// One for each stripe of threads.
    pub(super) nodes: &'a [Held],
}

impl Candidate<'_> {
    /// The calls to it.
    pub fn load(&self) -> Load {
        Load::of(self.nodes)
    }

    /// The same with this part of its weight.
    pub fn scaled(mut self, part: f32) -> Self {
        self.weight *= part;
        self
    }

    pub(super) fn node(&self) -> &Node {
        &self.nodes[0]
    }
}

/// A position among the candidates of one build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub(crate) u32);

/// An instance across changes: equal for one service and id, as long as the instance stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(pub(crate) u32);

/// What a selector may want to know beside the candidates.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// Who picks.
    pub caller: &'a Caller,
    /// The instances of the caller's own service, itself included, where a selector [`Needs`](super::Needs) them and
    /// the caller has a key; else none.
    pub peers: &'a [Arc<Instance>],
    /// Every instance that the filters of instances let through, whatever its status and health; its weight may be 0.
    pub all: &'a [Candidate<'a>],
    /// The calls to all of them, counted where a selector [`Needs`](super::Needs) it.
    pub total: &'a Total,
}

/// Who picks.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Caller {
    /// The caller's own registration.
    pub key: Option<InstanceKey>,
    /// The failure domain that it runs in.
    pub zone: Option<Label>,
}
