//! How one instance is chosen among many.
//!
//! A [`Selector`] is asked on every change of the instances, and builds a [`Picker`]; the picker is asked on every
//! call. What costs time is done in the former: a pick takes no lock, allocates nothing and makes no system call.
//!
//! # Which one
//!
//! | Calls are | Take | It |
//! | --- | --- | --- |
//! | to instances that may be slow or fail, the usual case | [`PeakEwma`] | avoids the slow and the failing within a few calls |
//! | long, or streams | [`PowerOfTwo`] | evens out calls in flight; put [`OutlierEjection`] around it |
//! | all alike, to instances all alike | [`RoundRobin`] | gives exactly even shares at the least cost |
//! | to instances of different size | [`WeightedRoundRobin`] | gives shares by weight, evenly over time |
//! | few, of very many clients | [`Random`], [`WeightedRandom`] | has no state that could move clients in step |
//! | better where the same key went before: caches | [`RingHash`] | moves the fewest keys; every client agrees |
//! | the same, with a key of many calls | [`BoundedLoad`] | overloads nobody |
//! | the same, with thousands of picks per change | [`Maglev`] | gives exact shares and one look into a table per pick |
//! | the same, to few instances | [`Rendezvous`] | gives exact shares, and a second choice that all agree on |
//! | to a session that lives in one instance | [`Sticky`] | moves no key while its instance is there |
//!
//! Selectors stand inside of others that leave instances out or change weights, in the order that [`Stage`] says:
//! [`Only`], [`OutlierEjection`], [`Tiers`], [`ZonePreference`], [`Subset`] or [`Aperture`], [`SlowStart`]:
//!
//! ```
//! use registry_core::{OutlierEjection, PeakEwma, SlowStart, ZonePreference};
//!
//! let selector = OutlierEjection::new(ZonePreference::new(SlowStart::new(PeakEwma::default())));
//! ```
//!
//! The status of instances, weight 0 and connect failures are always heeded, by the balancer.
//!
//! Randomness is that of `fastrand`: a thread that calls `fastrand::seed` before it makes selectors has the same picks
//! again for the same calls.

mod alias;
mod bounded_load;
mod built;
mod candidate;
mod filter;
mod hash;
mod least;
mod maglev;
mod node;
mod peak_ewma;
mod power_of_two;
mod random;
mod reach;
mod rendezvous;
mod request;
mod ring_hash;
mod roster;
mod round_robin;
mod stage;
mod stats;
mod sticky;
mod stripe;
mod weighted_random;
mod weighted_round_robin;

pub use bounded_load::BoundedLoad;
pub use built::{Built, Needs};
pub use candidate::{Caller, Candidate, Context, Member, Slot};
pub use filter::{Aperture, Only, OutlierEjection, SlowStart, Subset, Tiers, ZonePreference};
pub(crate) use filter::{Available, may_be_called};
pub use maglev::Maglev;
pub(crate) use node::{Crowd, Held, Node};
pub use node::{Load, Total};
pub use peak_ewma::PeakEwma;
pub use power_of_two::PowerOfTwo;
pub use random::Random;
pub use reach::Outcome;
pub(crate) use reach::Reach;
pub use rendezvous::Rendezvous;
pub use request::PickRequest;
pub use ring_hash::RingHash;
use roster::Roster;
pub use round_robin::RoundRobin;
pub use stage::Stage;
pub use stats::Smoothing;
pub(crate) use stats::Stats;
pub use sticky::Sticky;
pub(crate) use stripe::stripe;
pub use weighted_random::WeightedRandom;
pub use weighted_round_robin::WeightedRoundRobin;

use crate::error::Result;

/// Builds a picker for the instances of a service, on every change.
///
/// A selector may leave candidates out or change their weights and give them to another selector, also more than once
/// in one build: that is a filter. Slots stay valid throughout the build, and a picker that has nobody left says so
/// with `None`. State that must survive a change is keyed by [`Member`] and lives in the selector, or is its [`Load`].
pub trait Selector: Send + Sync + 'static {
    /// Builds a picker for these candidates. Called from one task, never during a pick.
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built;

    /// What it asks of the balancer; a filter adds to what the selector inside asks. Asked once. Default nothing.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether its settings are allowed, and its place inside of a filter of this stage; a filter asks the selector
    /// inside as well. Asked once, before it builds. Default yes.
    ///
    /// # Errors
    /// `Config`, with what is allowed.
    fn validate(&self, outer: Stage) -> Result<()> {
        Stage::Algorithm.inside(outer)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Selector for Box<dyn Selector> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        (**self).build(candidates, context)
    }

    fn needs(&self) -> Needs {
        (**self).needs()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        (**self).validate(outer)
    }
}

/// Chooses one candidate per call.
pub trait Picker: Send + Sync {
    /// The slot of the chosen candidate, or `None` when there is none, or none that the request does not exclude.
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot>;
}
