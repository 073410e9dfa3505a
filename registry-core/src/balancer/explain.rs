//! Why an instance was chosen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::plane::Plane;
use crate::discovery::Freshness;
use crate::instance::{Instance, ServiceName};
use crate::selector::{Held, Member, Node, PickRequest, Slot};

/// What a pick chose among. `Display` is a table for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The service.
    pub service: ServiceName,
    /// Whom the pick chose.
    pub chosen: Option<Member>,
    /// Every instance, in the order of the ids.
    pub instances: Vec<Explained>,
    /// Of the [`Snapshot`](crate::Snapshot) that was picked from.
    pub generation: u64,
    /// Whether the registry stands behind it, and since when it does not.
    pub freshness: Freshness,
    /// How long ago the picker was built.
    pub age: Duration,
}

/// One instance at the time of a pick.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explained {
    /// Who it is.
    pub member: Member,
    /// What it says.
    pub instance: Arc<Instance>,
    /// Its part of the calls that filters and weights offer, before loads are looked at: 0 to 1.
    pub share: f32,
    /// Which filter left it out.
    pub left_out: Option<&'static str>,
    /// Whether the request excluded it.
    pub excluded: bool,
    /// Calls of this process to it that were in flight before this pick.
    pub in_flight: usize,
    /// Its latency, where the selector heeds it and there was a report.
    pub latency: Option<Duration>,
    /// Reported successes and failures.
    pub reports: (u32, u32),
    /// Calls that failed one after the other until now.
    pub failing: u32,
}

impl Explanation {
    pub(super) fn of(
        plane: &Plane,
        request: &PickRequest<'_>,
        service: ServiceName,
        freshness: Freshness,
    ) -> Self {
        let now = Instant::now();
        let sum: f32 = plane.shares.iter().map(|(_, share)| share).sum();
        let explained = |(slot, nodes): (u32, &[Held])| {
            let candidate = Node::candidate(nodes, Slot(slot), plane.since[slot as usize]);
            let load = candidate.load();
            let member = candidate.member;
            let mut left_out = plane.left_out.iter();
            let mut shares = plane.shares.iter();
            Explained {
                member,
                instance: nodes[0].instance.clone(),
                share: shares
                    .find(|share| share.0 == Slot(slot))
                    .map_or(0.0, |share| share.1 / sum.max(f32::MIN_POSITIVE)),
                left_out: left_out.find(|one| one.0 == member).map(|one| one.1),
                excluded: !request.admits(member),
                in_flight: load.in_flight(),
                latency: load.latency(now),
                reports: (load.succeeded(), load.failed()),
                failing: nodes[0].reach.failing(),
            }
        };
        Self {
            service,
            chosen: None,
            instances: (0..).zip(plane.stripes()).map(explained).collect(),
            generation: plane.generation,
            freshness,
            age: now.saturating_duration_since(plane.built),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            generation,
            age,
            ..
        } = self;
        write!(
            f,
            "service {service}, generation {generation}, built {age:?} ago"
        )?;
        if let Freshness::Stale { since, reason } = &self.freshness {
            write!(f, ", stale for {:?}: {reason}", since.elapsed())?;
        }
        for one in &self.instances {
            let chosen = if self.chosen == Some(one.member) {
                "->"
            } else {
                "  "
            };
            write!(
                f,
                "\n{chosen} {} {}: share {:.1} %, {} in flight, {} ok, {} failed",
                one.instance.id,
                one.instance.address,
                one.share * 100.0,
                one.in_flight,
                one.reports.0,
                one.reports.1
            )?;
            if let Some(latency) = one.latency {
                write!(f, ", latency {latency:.1?}")?;
            }
            if let Some(why) = one.left_out {
                write!(f, ", left out: {why}")?;
            }
            if one.excluded {
                f.write_str(", excluded by the request")?;
            }
        }
        Ok(())
    }
}
