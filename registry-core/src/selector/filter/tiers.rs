//! The best tier that is well enough.

use std::collections::BTreeMap;
use std::fmt;

use super::may_be_called;
use super::split::{self, Group};
use crate::error::Result;
use crate::instance::{Instance, Status};
use crate::selector::stage::within;
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage};

/// Calls the instances of the first tier while enough of them are well, and spills to the next ones in proportion as
/// they are not.
///
/// A tier of which a part `h` is well takes `min(1, 1.4·h)` of the calls, those after it share what is left. When all
/// tiers together cannot take all calls, one of which less than half is well is called whole, as if all its instances
/// were well, so that the few that are do not fall under the load of all (panic, as Envoy has it). Well is what may be
/// called and is neither unreachable nor ejected; an instance that is starting, draining, in maintenance or of weight
/// 0 is not counted.
pub struct Tiers<S> {
    inner: S,
    of: Box<dyn Fn(&Instance) -> u32 + Send + Sync>,
    headroom: f64,
    panic: f64,
}

/// One tier.
#[derive(Default)]
struct Tier<'a> {
    well: Vec<Candidate<'a>>,
    all: Vec<Candidate<'a>>,
}

impl<S: Selector> Tiers<S> {
    /// Tiers by number: the lowest is called first.
    pub fn new(of: impl Fn(&Instance) -> u32 + Send + Sync + 'static, inner: S) -> Self {
        Self {
            inner,
            of: Box::new(of),
            headroom: 1.4,
            panic: 0.5,
        }
    }

    /// Tiers by the number that the metadata has for this key; without one it is 0.
    pub fn metadata(key: impl Into<String>, inner: S) -> Self {
        let key = key.into();
        let tier = move |instance: &Instance| instance.metadata.get(&key)?.parse().ok();
        Self::new(move |instance| tier(instance).unwrap_or(0), inner)
    }

    /// How many times its usual calls an instance can take, 1 to 10. Default 1.4.
    pub const fn headroom(mut self, headroom: f64) -> Self {
        self.headroom = headroom;
        self
    }

    /// The part of a tier that must be well lest all of it is called, 0 (never) to 1. Default 0.5.
    pub const fn panic_threshold(mut self, part: f64) -> Self {
        self.panic = part;
        self
    }
}

impl<S: Selector> Selector for Tiers<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let mut tiers: BTreeMap<u32, Tier<'_>> = BTreeMap::new();
        for candidate in candidates {
            let tier = tiers.entry((self.of)(candidate.instance)).or_default();
            tier.well.push(*candidate);
        }
        for candidate in context.all {
            let down = candidate.instance.status == Status::Down && candidate.weight > 0.0;
            if down || may_be_called(candidate.instance) {
                let tier = tiers.entry((self.of)(candidate.instance)).or_default();
                tier.all.push(*candidate);
            }
        }
        let health = |tier: &Tier<'_>| (weight(&tier.well) / weight(&tier.all)).min(1.0);
        let can_take: f64 = tiers
            .values()
            .map(|tier| (health(tier) * self.headroom).min(1.0))
            .sum();
        let mut left: f64 = 1.0;
        let groups = tiers.into_values().map(|tier| {
            let part = (health(&tier) * self.headroom).min(1.0);
            let panics = can_take < 1.0 && health(&tier) < self.panic;
            let share = if can_take >= 1.0 {
                part.min(left)
            } else if can_take > 0.0 {
                part / can_take
            } else {
                weight(&tier.all)
            };
            left = (left - share).max(0.0);
            Group {
                share,
                standby: "later tier",
                candidates: if panics { tier.all } else { tier.well },
            }
        });
        let groups = groups.collect();
        split::build(&self.inner, groups, context)
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        within("headroom", self.headroom, 1.0, 10.0)?;
        within("panic threshold", self.panic, 0.0, 1.0)?;
        Stage::Tiers.inside(outer)?;
        self.inner.validate(Stage::Tiers)
    }
}

fn weight(candidates: &[Candidate<'_>]) -> f64 {
    candidates
        .iter()
        .map(|candidate| f64::from(candidate.weight))
        .sum()
}

impl<S: fmt::Debug> fmt::Debug for Tiers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers")
            .field("inner", &self.inner)
            .field("headroom", &self.headroom)
            .field("panic", &self.panic)
            .finish_non_exhaustive()
    }
}
