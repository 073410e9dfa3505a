//! An instance that can be picked, and the picks of it.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::reach::Reach;
use super::{Candidate, Member, Slot};
use crate::instance::Instance;

/// An instance as it is now. Every pick holds it, so that its reference count is the count of calls in flight: a
/// pick then writes to one place in memory, and only once.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) member: Member,
    pub(crate) since: Instant,
    pub(crate) instance: Arc<Instance>,
    pub(crate) reach: Arc<Reach>,
    /// What the same instance was before its last changes, while calls to that may be in flight.
    older: Option<Box<Older>>,
}

/// Boxed by its owners: it is nearly always absent, and then costs one word in the memory that picks read.
#[derive(Clone, Debug, Default)]
struct Older(Vec<Weak<Node>>);

impl Node {
    pub(crate) const fn new(
        member: Member,
        since: Instant,
        instance: Arc<Instance>,
        reach: Arc<Reach>,
    ) -> Self {
        Self {
            member,
            since,
            instance,
            reach,
            older: None,
        }
    }

    /// The same instance, which now says something else.
    pub(crate) fn changed(self: &Arc<Self>, instance: Arc<Instance>) -> Self {
        let mut older = self.still_called().unwrap_or_default();
        older.0.push(Arc::downgrade(self));
        Self {
            member: self.member,
            since: self.since,
            instance,
            reach: self.reach.clone(),
            older: Some(older),
        }
    }

    fn still_called(&self) -> Option<Box<Older>> {
        let mut older = self.older.clone()?;
        older.0.retain(|node| node.strong_count() > 0);
        (!older.0.is_empty()).then_some(older)
    }

    pub(crate) fn candidate(self: &Arc<Self>, slot: Slot) -> Candidate<'_> {
        Candidate {
            slot,
            member: self.member,
            instance: &self.instance,
            since: self.since,
            weight: self.instance.weight.into(),
            node: self,
        }
    }
}

/// The calls of this process to one instance, for pickers to keep.
///
/// It holds no reference that counts, and survives every change of what the instance says.
#[derive(Clone, Debug)]
pub struct Load {
    now: Weak<Node>,
    older: Option<Box<Older>>,
}

impl Load {
    pub(super) fn of(node: &Arc<Node>) -> Self {
        Self {
            now: Arc::downgrade(node),
            older: node.still_called(),
        }
    }

    /// How many calls are in flight: picked, and neither reported nor dropped. While the balancer takes over a change
    /// it may be one more for a moment, for all instances alike.
    pub fn in_flight(&self) -> usize {
        // One reference is the balancer's own.
        let now = self.now.strong_count().saturating_sub(1);
        let older = self
            .older
            .as_ref()
            .map_or(0, |older| older.0.iter().map(Weak::strong_count).sum());
        now + older
    }
}
