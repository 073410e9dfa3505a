//! Who may be picked at all.

use std::time::Duration;

use crate::error::Result;
use crate::instance::{Instance, Status};
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage};

/// Leaves out what cannot or should not be called: down, in maintenance, starting, draining, weight 0; and, while
/// there is anybody else, what could not be connected to lately.
pub(crate) struct Available {
    pub(crate) inner: Box<dyn Selector>,
}

impl Selector for Available {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let well = |one: &Candidate<'_>| {
            may_be_called(one.instance) && one.node().reach.avoid(context.now).is_none()
        };
        // The usual case, without a copy.
        if candidates.iter().all(well) {
            return self.inner.build(candidates, context);
        }
        let mut left_out = Vec::new();
        let mut again: Option<Duration> = None;
        let (mut reachable, mut unreachable) = (Vec::with_capacity(candidates.len()), Vec::new());
        for candidate in candidates {
            if let Some(why) = unavailable(candidate.instance) {
                left_out.push((candidate.member, why));
            } else if let Some(left) = candidate.node().reach.avoid(context.now) {
                again = Some(again.map_or(left, |sooner| sooner.min(left)));
                unreachable.push(*candidate);
            } else {
                reachable.push(*candidate);
            }
        }
        let mut built = if reachable.is_empty() {
            self.inner.build(&unreachable, context)
        } else {
            left_out.extend(
                unreachable
                    .iter()
                    .map(|candidate| (candidate.member, "unreachable")),
            );
            self.inner.build(&reachable, context)
        };
        if let Some(again) = again {
            built = built.again(again);
        }
        built.without(left_out)
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn validate(&self, _outer: Stage) -> Result<()> {
        self.inner.validate(Stage::Status)
    }
}

fn unavailable(instance: &Instance) -> Option<&'static str> {
    match instance.status {
        Status::Down => Some("down"),
        Status::Maintenance => Some("maintenance"),
        Status::Starting => Some("starting"),
        Status::Draining => Some("draining"),
        Status::Up | Status::Warning | Status::Unknown if instance.weight == 0 => Some("weight 0"),
        Status::Up | Status::Warning | Status::Unknown => None,
    }
}

/// Whether the instance itself wants calls.
pub(crate) fn may_be_called(instance: &Instance) -> bool {
    unavailable(instance).is_none()
}
