//! An instance that can be picked, and the picks of it.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
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
// Beside the reference count what is read with it.
#[repr(C)]
pub(crate) struct Node {
    /// References that are no calls.
    held: AtomicU32,
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
            held: AtomicU32::new(0),
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
        older.0.retain(|node| calls(node) > 0);
        (!older.0.is_empty()).then_some(older)
    }

    /// The calls in flight.
    #[inline]
    fn in_flight(self: &Arc<Self>) -> usize {
        let held = self.held.load(Ordering::Relaxed) as usize;
        Arc::strong_count(self).saturating_sub(held)
    }

    pub(crate) fn candidate(nodes: &[Held], slot: Slot, since: Instant) -> Candidate<'_> {
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

/// A reference to a node that is no call, and is counted as such.
#[derive(Debug)]
pub(crate) struct Held(Arc<Node>);

impl Held {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        node.held.fetch_add(1, Ordering::Relaxed);
        Self(node)
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Deref for Held {
    type Target = Arc<Node>;
    fn deref(&self) -> &Arc<Node> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many calls hold a node that may be gone.
fn calls(node: &Weak<Node>) -> usize {
    // Held while it is looked at, so that this is no call either.
    node.upgrade().map_or(0, |node| Held::new(node).in_flight())
}

/// The calls of this process to one instance, for pickers to keep.
///
/// It survives every change of what the instance says.
#[derive(Clone, Debug)]
pub struct Load {
    now: Held,
    rest: Option<Box<Rest>>,
}

/// Boxed, since nobody has it who heeds loads and was not changed lately.
#[derive(Clone, Debug)]
struct Rest {
    stripes: Vec<Held>,
    older: Vec<Weak<Node>>,
}

impl Load {
    pub(super) fn of(nodes: &[Held]) -> Self {
        let older: Vec<_> = nodes
            .iter()
            .filter_map(|node| node.still_called())
            .flat_map(|older| older.0)
            .collect();
        Self {
            now: nodes[0].clone(),
            rest: (nodes.len() > 1 || !older.is_empty()).then(|| {
                Box::new(Rest {
                    stripes: nodes[1..].to_vec(),
                    older,
                })
            }),
        }
    }

    /// How many calls are in flight: picked, and neither reported nor dropped.
    #[inline]
    pub fn in_flight(&self) -> usize {
        let now = self.now.in_flight();
        self.rest
            .as_ref()
            .map_or(now, |rest| now + rest.in_flight())
    }

    /// The peak-sensitive average of its latencies, less by what it has aged; `None` before the first report, or where
    /// no selector [`Needs`](super::Needs) it.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let stats = self.stats();
        let seconds = stats.latency(stats.ticks(now))?;
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
        let others = rest.iter().map(|node| count(&node.stats));
        others.fold(count(self.stats()), u32::wrapping_add)
    }

    #[inline]
    pub(super) fn stats(&self) -> &Stats {
        &self.now.stats
    }
}

impl Rest {
    #[cold]
    fn in_flight(&self) -> usize {
        let stripes = self.stripes.iter();
        let others = stripes.map(|node| node.in_flight());
        let older = self.older.iter().map(calls);
        others.chain(older).sum()
    }
}

/// The calls of this process to all instances of a service.
#[derive(Clone, Debug)]
pub struct Total(Weak<()>);

/// What every pick holds a reference of, where a selector wants the total.
#[derive(Debug, Default)]
pub(crate) struct Crowd(Arc<()>);

impl Crowd {
    #[inline]
    pub(crate) fn join(&self) -> Arc<()> {
        self.0.clone()
    }

    pub(crate) fn total(&self) -> Total {
        Total(Arc::downgrade(&self.0))
    }
}

impl Total {
    /// How many calls are in flight; 0 where no selector [`Needs`](super::Needs) it.
    #[inline]
    pub fn in_flight(&self) -> usize {
        // One reference is the crowd's own.
        self.0.strong_count().saturating_sub(1)
    }
}
