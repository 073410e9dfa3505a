//! One choice.

use std::fmt;
use std::sync::Arc;

use crate::instance::{Address, Instance};
use crate::selector::{Member, Node, Outcome};

/// One choice: whom to call now. It counts as a call in flight until it is reported or dropped.
///
/// Report how the call went; a pick that is dropped unreported was cancelled, which says nothing about the instance.
#[must_use = "call the instance, then report how it went"]
pub struct Pick {
    node: Arc<Node>,
}

impl Pick {
    pub(super) const fn new(node: Arc<Node>) -> Self {
        Self { node }
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
    pub fn report(self, outcome: impl Into<Outcome>) {
        self.node.reach.record(outcome.into());
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("instance", &self.node.instance)
            .finish_non_exhaustive()
    }
}

/// Why there is nobody to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PickError {
    /// The registry has not answered yet.
    NotReady,
    /// The service has no instance.
    NoInstances,
    /// The service has instances, and none may be called: they are down, in maintenance, starting, draining, of
    /// weight 0 or left out by the selector.
    NoneEligible,
    /// Everybody who may be called is excluded by the request.
    Excluded,
}

impl fmt::Display for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "the registry has not answered yet; wait for the view, or try again",
            Self::NoInstances => "the service has no instance; is a server registered under this name?",
            Self::NoneEligible => {
                "no instance may be called: all are down, in maintenance, starting, draining or of weight 0"
            }
            Self::Excluded => "every instance that may be called is excluded by the request",
        })
    }
}

impl std::error::Error for PickError {}
