//! How one instance is chosen among many.
//!
//! A [`Selector`] is asked on every change of the instances, and builds a [`Picker`]; the picker is asked on every
//! call. What costs time is done in the former: a pick takes no lock, allocates nothing and makes no system call.

mod available;
mod node;
mod power_of_two;
mod random;
mod reach;
mod round_robin;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use available::Available;
pub use node::Load;
pub(crate) use node::Node;
pub use power_of_two::PowerOfTwo;
pub use random::Random;
pub use reach::Outcome;
pub(crate) use reach::Reach;
pub use round_robin::RoundRobin;

use crate::instance::{Instance, InstanceKey, Label};

/// Builds a picker for the instances of a service, on every change.
///
/// A selector may leave candidates out and give the others to another selector, also more than once in one build: that
/// is a filter. Slots stay valid throughout the build, and a picker that has nobody left says so with `None`. State that must
/// survive a change is keyed by [`Member`] and lives in the selector, or is its [`Load`].
pub trait Selector: Send + Sync + 'static {
    /// Builds a picker for these candidates. Called from one task, never during a pick.
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built;
}

impl Selector for Box<dyn Selector> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        (**self).build(candidates, context)
    }
}

/// Chooses one candidate per call.
pub trait Picker: Send + Sync {
    /// The slot of the chosen candidate, or `None` when there is none, or none that the request does not exclude.
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot>;
}

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
    /// Since when it is among the candidates.
    pub since: Instant,
    /// Its share of the calls relative to the others, after the filters so far; above 0.
    pub weight: f32,
    node: &'a Arc<Node>,
}

impl Candidate<'_> {
    /// The calls to it.
    pub fn load(&self) -> Load {
        Load::of(self.node)
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

/// What a selector built.
#[non_exhaustive]
pub struct Built {
    /// Chooses until the next change.
    pub picker: Box<dyn Picker>,
    /// When to build again although nothing changes.
    pub again: Option<Duration>,
    /// Who is not chosen, and why.
    pub left_out: Vec<(Member, &'static str)>,
}

/// What one call asks of a picker.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PickRequest<'a> {
    /// What calls that belong together have in common, for selectors that keep them together.
    pub hash: Option<u64>,
    /// Who must not be chosen: for a retry elsewhere.
    pub exclude: &'a [Member],
}

impl<'a> PickRequest<'a> {
    /// Sets what calls that belong together have in common.
    pub const fn hash(mut self, hash: u64) -> Self {
        self.hash = Some(hash);
        self
    }

    /// Sets who must not be chosen.
    pub const fn exclude(mut self, members: &'a [Member]) -> Self {
        self.exclude = members;
        self
    }

    /// Whether this member may be chosen.
    pub fn admits(&self, member: Member) -> bool {
        self.exclude.is_empty() || !self.exclude.contains(&member)
    }
}

impl Built {
    /// A picker that is good until the next change and leaves nobody out.
    pub fn new(picker: impl Picker + 'static) -> Self {
        Self {
            picker: Box::new(picker),
            again: None,
            left_out: Vec::new(),
        }
    }

    /// Builds again after this time at the latest.
    pub fn again(mut self, after: Duration) -> Self {
        self.again = Some(self.again.map_or(after, |sooner| sooner.min(after)));
        self
    }

    /// Adds somebody who is not chosen, and why.
    pub fn leave_out(mut self, member: Member, why: &'static str) -> Self {
        self.left_out.push((member, why));
        self
    }
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            again, left_out, ..
        } = self;
        f.debug_struct("Built")
            .field("again", again)
            .field("left_out", left_out)
            .finish_non_exhaustive()
    }
}

/// Slots and their members, in one block of memory.
type Members = Box<[(Slot, Member)]>;

fn members(candidates: &[Candidate<'_>]) -> Members {
    candidates
        .iter()
        .map(|candidate| (candidate.slot, candidate.member))
        .collect()
}

/// The first from `start` on that the request admits.
fn first_admitted(
    members: &[(Slot, Member)],
    start: usize,
    request: &PickRequest<'_>,
) -> Option<Slot> {
    let (slot, member) = *members.get(start)?;
    if request.admits(member) {
        return Some(slot);
    }
    let (before, after) = members.split_at(start);
    after
        .iter()
        .chain(before)
        .find(|(_, member)| request.admits(*member))
        .map(|(slot, _)| *slot)
}
