//! New instances get their share little by little.

use std::time::Duration;

use crate::error::Result;
use crate::selector::stage::{refused, within};
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage};

/// How often weights grow in a window.
const STEPS: u32 = 20;

/// Gives an instance that has just come a part of its weight, which grows to the whole, so that caches and compilers
/// warm up.
///
/// After a time `t` the part is `max(floor, (t/window)^(1/aggression))`, as in Envoy. An instance is new when this
/// process first sees it, and again when it may be called again after its status said otherwise. When all are new, as
/// for a client that starts, they share alike.
#[derive(Clone, Copy, Debug)]
pub struct SlowStart<S> {
    inner: S,
    window: Duration,
    floor: f32,
    aggression: f32,
}

impl<S: Selector> SlowStart<S> {
    /// New instances grow within 30 s.
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            window: Duration::from_secs(30),
            floor: 0.1,
            aggression: 1.0,
        }
    }

    /// How long it takes, 100 ms to 1 h. Default 30 s.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// The part to begin with, 0.01 to 1. Default 0.1.
    pub const fn floor(mut self, floor: f32) -> Self {
        self.floor = floor;
        self
    }

    /// 1 grows evenly, more grows fast at first; 0.1 to 10. Default 1.
    pub const fn aggression(mut self, aggression: f32) -> Self {
        self.aggression = aggression;
        self
    }
}

impl<S: Selector> Selector for SlowStart<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let part = |candidate: &Candidate<'_>| {
            let age = context.now.saturating_duration_since(candidate.since);
            (age < self.window).then(|| {
                let grown = age.as_secs_f32() / self.window.as_secs_f32();
                grown.powf(self.aggression.recip()).max(self.floor)
            })
        };
        let alike = |one: &Candidate<'_>| one.since == candidates[0].since;
        if candidates.iter().all(alike) || candidates.iter().all(|one| part(one).is_none()) {
            return self.inner.build(candidates, context);
        }
        let growing: Vec<_> = candidates
            .iter()
            .map(|candidate| candidate.scaled(part(candidate).unwrap_or(1.0)))
            .collect();
        let step = self.window / STEPS;
        self.inner.build(&growing, context).again(step)
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
        within("window", self.window, least, most)?;
        within("floor", self.floor, 0.01, 1.0)?;
        within("aggression", self.aggression, 0.1, 10.0)?;
        if !self.inner.needs().weights {
            return Err(refused(
                "slow start works by weights, and the selector inside of it heeds none; use a weighted one",
            ));
        }
        Stage::SlowStart.inside(outer)?;
        self.inner.validate(Stage::SlowStart)
    }
}
