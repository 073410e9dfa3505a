//! An instance that can be picked, and the picks of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::reach::Reach;
use super::stats::Stats;
use super::{Candidate, Member, Slot};
use crate::instance::Instance;

/// An instance as it is now, for the threads of one stripe. Every pick holds it, so that its reference count is the
/// count of calls in flight: a pick then writes to one place in memory, and only once.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) member: Member,
    pub(crate) instance: Arc<Instance>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) reach: Arc<Reach>,
    /// What the same instance was before its last changes, while calls to that may be in flight.
    older: Option<Box<Older>>,
    /// No other allocation reaches into the cache line of the reference count.
    _apart: [u64; 9],
}

/// Boxed by its owners: it is nearly always absent, and then costs one word in the memory that picks read.
#[derive(Clone, Debug, Default)]
struct Older(Vec<Weak<Node>>);

impl Node {
    pub(crate) const fn new(
        member: Member,
        instance: Arc<Instance>,
        stats: Arc<Stats>,
        reach: Arc<Reach>,
    ) -> Self {
        Self {
            member,
            instance,
            stats,
            reach,
            older: None,
            _apart: [0; 9],
        }
    }

    /// The same instance, which now says something else.
    pub(crate) fn changed(self: &Arc<Self>, instance: Arc<Instance>) -> Self {
        let mut older = self.still_called().unwrap_or_default();
        older.0.push(Arc::downgrade(self));
        Self {
            older: Some(older),
            ..Self::new(
                self.member,
                instance,
                self.stats.clone(),
                self.reach.clone(),
            )
        }
    }

    fn still_called(&self) -> Option<Box<Older>> {
        let mut older = self.older.clone()?;
        older.0.retain(|node| node.strong_count() > 0);
        (!older.0.is_empty()).then_some(older)
    }

    pub(crate) fn candidate(nodes: &[Arc<Self>], slot: Slot, since: Instant) -> Candidate<'_> {
        let node = &nodes[0];
        Candidate {
            slot,
            member: node.member,
            instance: &node.instance,
            since,
            weight: node.instance.weight.into(),
            nodes,
        }
    }
}

/// The calls of this process to one instance, for pickers to keep.
///
/// It holds no reference that counts, and survives every change of what the instance says.
#[derive(Clone, Debug)]
pub struct Load {
    now: Weak<Node>,
    stats: Arc<Stats>,
    rest: Option<Box<Rest>>,
}

/// Boxed, since nobody has it who heeds loads and was not changed lately.
#[derive(Clone, Debug)]
struct Rest {
    stripes: Vec<(Weak<Node>, Arc<Stats>)>,
    older: Vec<Weak<Node>>,
}

impl Load {
    pub(super) fn of(nodes: &[Arc<Node>]) -> Self {
        let older: Vec<_> = nodes
            .iter()
            .filter_map(|node| node.still_called())
            .flat_map(|older| older.0)
            .collect();
        let stripes = nodes[1..]
            .iter()
            .map(|node| (Arc::downgrade(node), node.stats.clone()));
        Self {
            now: Arc::downgrade(&nodes[0]),
            stats: nodes[0].stats.clone(),
            rest: (nodes.len() > 1 || !older.is_empty()).then(|| {
                Box::new(Rest {
                    stripes: stripes.collect(),
                    older,
                })
            }),
        }
    }

    /// How many calls are in flight: picked, and neither reported nor dropped. While the balancer takes over a change
    /// it may be one more for a moment, for all instances alike.
    #[inline]
    pub fn in_flight(&self) -> usize {
        // One reference is the balancer's own.
        let now = self.now.strong_count().saturating_sub(1);
        self.rest
            .as_ref()
            .map_or(now, |rest| now + rest.in_flight())
    }

    /// The peak-sensitive average of its latencies, less by what it has aged; `None` before the first report, or where no
    /// selector [`Needs`](super::Needs) it.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let seconds = self.stats.latency(self.stats.ticks(now))?;
        Some(Duration::from_secs_f32(seconds))
    }

    /// How many calls were reported as successes; starts again at 2³².
    pub fn succeeded(&self) -> u32 {
        self.all(Stats::succeeded)
    }

    /// How many calls were reported as failures, connect failures not among them; starts again at 2³².
    pub fn failed(&self) -> u32 {
        self.all(Stats::failed)
    }

    fn all(&self, count: impl Fn(&Stats) -> u32) -> u32 {
        let rest = self.rest.as_ref().map_or(&[][..], |rest| &rest.stripes);
        let others = rest.iter().map(|(_, stats)| count(stats));
        others.fold(count(&self.stats), u32::wrapping_add)
    }

    #[inline]
    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl Rest {
    #[cold]
    fn in_flight(&self) -> usize {
        let stripes = self.stripes.iter();
        let others = stripes.map(|(node, _)| node.strong_count().saturating_sub(1));
        let older = self.older.iter().map(Weak::strong_count);
        others.chain(older).sum()
    }
}

/// The calls of this process to all instances of a service.
#[derive(Clone, Debug)]
pub struct Total(Weak<Crowd>);

/// Held by every pick where a selector wants the total.
#[derive(Debug, Default)]
pub(crate) struct Crowd(());

impl Total {
    pub(crate) fn of(crowd: &Arc<Crowd>) -> Self {
        Self(Arc::downgrade(crowd))
    }

    /// How many calls are in flight; 0 where no selector [`Needs`](super::Needs) it.
    #[inline]
    pub fn in_flight(&self) -> usize {
        // Two references are the balancer's own: the task's, and that of what picks read.
        self.0.strong_count().saturating_sub(2)
    }
}
