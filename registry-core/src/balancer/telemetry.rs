//! What the balancer tells about itself: see [`Balancer`](super::Balancer).

use std::time::Duration;

use super::plane::Plane;
use crate::discovery::View;

/// How often.
pub(super) const PERIOD: Option<Duration> = if cfg!(feature = "metrics") {
    Some(Duration::from_secs(5))
} else {
    None
};

/// What was told before, to tell the difference.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    #[cfg(feature = "metrics")]
    told: told::Told,
}

#[cfg(not(feature = "metrics"))]
impl Telemetry {
    pub(super) const fn built(&mut self) {}

    pub(super) const fn tell(&mut self, _view: &View, _plane: &Plane) {}
}

#[cfg(feature = "metrics")]
mod told {
    use std::collections::{BTreeMap, HashMap};

    use metrics::{counter, gauge};

    use super::{Plane, Telemetry, View};
    use crate::discovery::Freshness;
    use crate::selector::{Member, Node, Slot};

    #[derive(Debug, Default)]
    pub(super) struct Told {
        builds: u64,
        reports: HashMap<Member, (u32, u32)>,
        reasons: BTreeMap<&'static str, u32>,
    }

    impl Telemetry {
        pub(in super::super) const fn built(&mut self) {
            self.told.builds += 1;
        }

        pub(in super::super) fn tell(&mut self, view: &View, plane: &Plane) {
            let service = view.service().as_str().to_owned();
            let labels = [("service", service.clone())];
            let (mut well, mut badly, mut in_flight, mut instances) = (0_u64, 0_u64, 0, 0_u32);
            let mut reports = HashMap::new();
            for (slot, nodes) in (0..).zip(plane.stripes()) {
                let load = Node::candidate(nodes, Slot(slot), plane.built).load();
                let member = nodes[0].member;
                let now = (load.succeeded(), load.failed());
                let before = self.told.reports.get(&member).copied().unwrap_or_default();
                well += u64::from(now.0.wrapping_sub(before.0));
                badly += u64::from(now.1.wrapping_sub(before.1));
                in_flight += load.in_flight();
                instances += 1;
                reports.insert(member, now);
            }
            self.told.reports = reports;
            let outcome = |outcome| [("service", service.clone()), ("outcome", outcome)];
            counter!("registry_calls_total", &outcome("success".to_owned())).increment(well);
            counter!("registry_calls_total", &outcome("failure".to_owned())).increment(badly);
            counter!("registry_picker_builds_total", &labels)
                .increment(std::mem::take(&mut self.told.builds));
            gauge!("registry_instances", &labels).set(instances);
            gauge!("registry_calls_in_flight", &labels).set(in_flight as f64);
            let stale = match &view.snapshot().freshness {
                Freshness::Fresh => 0.0,
                Freshness::Stale { since, .. } => since.elapsed().as_secs_f64(),
            };
            gauge!("registry_stale_seconds", &labels).set(stale);
            // A reason that is over is told once more, as 0.
            self.told.reasons.values_mut().for_each(|count| *count = 0);
            for (_, reason) in &plane.left_out {
                *self.told.reasons.entry(reason).or_default() += 1;
            }
            for (reason, count) in &self.told.reasons {
                let labels = [
                    ("service", service.clone()),
                    ("reason", (*reason).to_owned()),
                ];
                gauge!("registry_instances_left_out", &labels).set(*count);
            }
            self.told.reasons.retain(|_, count| *count > 0);
        }
    }
}
