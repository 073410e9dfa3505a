//! One choice.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::instance::{Address, Instance};
use crate::selector::{Member, Node, Outcome};

/// One choice: whom to call now. It counts as a call in flight until it is reported or dropped.
///
/// Report how the call went; a pick that is dropped unreported was cancelled, which says nothing about the instance.
#[must_use = "call the instance, then report how it went"]
pub struct Pick {
    node: Arc<Node>,
    /// Where a selector heeds latencies.
    began: Option<Instant>,
    _crowd: Option<Arc<()>>,
}

impl Pick {
    #[inline]
    pub(super) const fn new(
        node: Arc<Node>,
        began: Option<Instant>,
        crowd: Option<Arc<()>>,
    ) -> Self {
        Self {
            node,
            began,
            _crowd: crowd,
        }
    }

    /// Where to call.
    pub fn address(&self) -> &Address {
        &self.node.instance.address
    }

    /// Whom to call.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.node.instance
    }

    /// Who was chosen, to be excluded from a retry.
    pub fn member(&self) -> Member {
        self.node.member
    }

    /// Says how the call went: an [`Outcome`], or a reference to the call's `Result`, where every `Err` is a
    /// failure. An instance that could not be connected to is [`Outcome::Unreachable`]: it is avoided for a while, and
    /// the registry is asked to look again.
    #[inline]
    pub fn report(self, outcome: impl Into<Outcome>) {
        let outcome = outcome.into();
        self.node.stats.record(outcome, self.began);
        self.node.reach.record(outcome);
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("instance", &self.node.instance)
            .finish_non_exhaustive()
    }
}
