//! Those that fail more than the others get no calls for a while.

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::ejections::{Records, Settings, State};
use super::probe::{Probe, ProbePicker};
use crate::error::Result;
use crate::selector::stage::within;
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage};

/// How often a probe is asked after, beside the reports that say so at once.
const LOOK: Duration = Duration::from_millis(250);
/// Leaves out instances that fail: 5 calls in a row, more than half of at least 50 calls within 10 s, or so that their
/// success rate is more than 1.9 standard deviations below the average of at least 5 instances (as gRFC A50).
///
/// At most a tenth of the instances are out at a time, and one of two or more. After 30 s one call is let through: if
/// it succeeds the instance is back, if it fails it is out for twice as long, up to 5 min.
///
/// Needs picks to be reported. A call that could not connect is no failure here: the balancer avoids such an instance
/// by itself.
pub struct OutlierEjection<S> {
    inner: S,
    settings: Settings,
    records: Mutex<Records>,
}

impl<S: Selector> OutlierEjection<S> {
    /// Ejects from what this selector chooses among.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            settings: Settings {
                consecutive: 5,
                interval: Duration::from_secs(10),
                least_calls: 50,
                base: Duration::from_secs(30),
                longest: Duration::from_secs(300),
                most: 0.1,
            },
            records: Mutex::default(),
        }
    }

    /// How many failures in a row eject, 1 to 10,000. Default 5.
    pub const fn consecutive(mut self, failures: u32) -> Self {
        self.settings.consecutive = failures;
        self
    }

    /// How long calls are counted before rates are compared, 100 ms to 10 min, and how many of an instance's it
    /// takes, at least 1. Default 10 s and 50.
    pub const fn window(mut self, interval: Duration, least_calls: u32) -> Self {
        self.settings.interval = interval;
        self.settings.least_calls = least_calls;
        self
    }

    /// How long an instance is out the first time, and at most, 100 ms to 1 h. Default 30 s and 5 min.
    pub const fn ejected_for(mut self, first: Duration, longest: Duration) -> Self {
        self.settings.base = first;
        self.settings.longest = longest;
        self
    }

    /// The part of the instances that may be out at a time, above 0 and at most 0.9. Default 0.1.
    pub const fn most_ejected(mut self, part: f32) -> Self {
        self.settings.most = part;
        self
    }
}

impl<S: Selector> Selector for OutlierEjection<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let now = context.now;
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut suspects = records.outliers(candidates, &self.settings, now);
        let in_a_row = candidates
            .iter()
            .map(|one| (one, one.node().reach.failing()));
        suspects.extend(
            in_a_row
                .filter(|(_, failing)| *failing >= self.settings.consecutive)
                .map(|(candidate, failing)| (candidate.member, -f64::from(failing))),
        );
        // The worst first: not all may be out.
        suspects.sort_by(|one, other| one.1.total_cmp(&other.1));
        records.review(candidates, &self.settings, now);
        let out = |records: &Records| {
            let ejected = records.ejected.values();
            ejected.filter(|one| !one.is_back()).count()
        };
        let most = match candidates.len() {
            0 | 1 => 0,
            len => ((len as f32 * self.settings.most) as usize).max(1),
        };
        for (member, _) in suspects {
            if out(&records) < most {
                records.eject(member, &self.settings, now);
            }
        }
        let mut next = records.began.unwrap_or(now) + self.settings.interval;
        // The usual case, without a copy.
        if out(&records) == 0 {
            drop(records);
            let again = next.saturating_duration_since(now);
            return self.inner.build(candidates, context).again(again);
        }
        let (mut kept, mut left_out, mut probes) =
            (Vec::with_capacity(candidates.len()), Vec::new(), Vec::new());
        for candidate in candidates {
            match records.ejected.get(&candidate.member).map(|one| &one.state) {
                None | Some(State::Back { .. }) => kept.push(*candidate),
                Some(State::Out { until }) => {
                    left_out.push((candidate.member, "ejected"));
                    next = next.min(*until);
                }
                Some(State::Probation { sent, .. }) => {
                    left_out.push((candidate.member, "on probation"));
                    next = next.min(now + LOOK);
                    probes.push(Probe {
                        slot: candidate.slot,
                        member: candidate.member,
                        sent: sent.clone(),
                    });
                }
            }
        }
        drop(records);
        let mut built = self.inner.build(&kept, context);
        if !probes.is_empty() {
            built = built.picker(|inner| {
                Box::new(ProbePicker {
                    inner,
                    left: AtomicUsize::new(probes.len()),
                    probes: probes.into(),
                })
            });
        }
        built
            .without(left_out)
            .again(next.saturating_duration_since(now))
    }

    fn needs(&self) -> Needs {
        self.inner.needs().failures(self.settings.consecutive)
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        let Settings {
            consecutive,
            interval,
            least_calls,
            base,
            longest,
            most,
        } = self.settings;
        let (short, hour) = (Duration::from_millis(100), Duration::from_secs(3600));
        within("failures in a row", consecutive, 1, 10_000)?;
        within("window", interval, short, hour / 6)?;
        within("calls in a window", least_calls, 1, u32::MAX)?;
        within("first ejection", base, short, hour)?;
        within("longest ejection", longest, base, hour)?;
        within("part that may be ejected", most, f32::MIN_POSITIVE, 0.9)?;
        Stage::Ejection.inside(outer)?;
        self.inner.validate(Stage::Ejection)
    }
}

impl<S: fmt::Debug> fmt::Debug for OutlierEjection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutlierEjection")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
