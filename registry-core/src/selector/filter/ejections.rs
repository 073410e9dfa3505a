//! Who was ejected, for how long, and how the probe went.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::selector::{Candidate, Member};

/// A success rate this close to the average is no outlier, however alike the others are.
const CLOSE: f64 = 0.05;

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) consecutive: u32,
    pub(super) interval: Duration,
    pub(super) least_calls: u32,
    pub(super) base: Duration,
    pub(super) longest: Duration,
    pub(super) most: f32,
}

#[derive(Default)]
pub(super) struct Records {
    /// The reports until the window began.
    window: HashMap<Member, (u32, u32)>,
    pub(super) began: Option<Instant>,
    /// Those that were ever out, as long as that matters.
    pub(super) ejected: BTreeMap<Member, Ejected>,
}

pub(super) struct Ejected {
    times: u32,
    pub(super) state: State,
}

pub(super) enum State {
    Out {
        until: Instant,
    },
    Probation {
        since: Instant,
        sent: Arc<AtomicBool>,
        reports: (u32, u32),
    },
    Back {
        since: Instant,
    },
}

impl Records {
    /// Once in a window: those whose rate of success is too low, and that rate.
    pub(super) fn outliers(
        &mut self,
        candidates: &[Candidate<'_>],
        settings: &Settings,
        now: Instant,
    ) -> Vec<(Member, f64)> {
        let began = *self.began.get_or_insert(now);
        if now < began + settings.interval && now > began {
            return Vec::new();
        }
        self.began = Some(now);
        let before = std::mem::take(&mut self.window);
        let mut rates = Vec::new();
        for candidate in candidates {
            let reports = reports(candidate);
            if let Some(before) = before.get(&candidate.member) {
                let (well, badly) = since(reports, *before);
                let calls = well.saturating_add(badly);
                if calls >= settings.least_calls {
                    rates.push((candidate.member, f64::from(well) / f64::from(calls)));
                }
            }
            self.window.insert(candidate.member, reports);
        }
        let len = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / len;
        let squares = rates.iter().map(|(_, rate)| (rate - mean).powi(2));
        let deviation = (squares.sum::<f64>() / len).sqrt();
        let line = if rates.len() >= 5 {
            (mean - 1.9 * deviation).min(mean - CLOSE)
        } else {
            0.0
        };
        rates.retain(|(_, rate)| *rate < line || *rate < 0.5);
        rates
    }

    /// Lets time and probes have their say.
    pub(super) fn review(
        &mut self,
        candidates: &[Candidate<'_>],
        settings: &Settings,
        now: Instant,
    ) {
        if self.ejected.is_empty() {
            return;
        }
        let mut present = BTreeMap::new();
        for candidate in candidates {
            if self.ejected.contains_key(&candidate.member) {
                present.insert(candidate.member, reports(candidate));
            }
        }
        self.ejected.retain(|member, ejected| {
            present
                .get(member)
                .is_some_and(|reports| ejected.review(*reports, settings, now))
        });
    }

    pub(super) fn eject(&mut self, member: Member, settings: &Settings, now: Instant) {
        let ejected = self.ejected.entry(member).or_insert(Ejected {
            times: 0,
            state: State::Back { since: now },
        });
        if ejected.is_back() {
            ejected.eject(settings, now);
        }
    }
}

impl Ejected {
    pub(super) const fn is_back(&self) -> bool {
        matches!(self.state, State::Back { .. })
    }

    fn eject(&mut self, settings: &Settings, now: Instant) {
        let doubled = settings.base.saturating_mul(1 << self.times.min(16));
        self.times += 1;
        let until = now + doubled.min(settings.longest);
        self.state = State::Out { until };
    }

    /// Whether it matters any longer.
    fn review(&mut self, reports: (u32, u32), settings: &Settings, now: Instant) -> bool {
        match &self.state {
            State::Out { until } if now >= *until => {
                self.state = State::Probation {
                    since: now,
                    sent: Arc::default(),
                    reports,
                };
            }
            State::Out { .. } => {}
            State::Probation {
                since: began,
                sent,
                reports: before,
            } => match since(reports, *before) {
                (0, 0) => {
                    // The probe was cancelled, or hangs: another one.
                    if sent.load(Ordering::Relaxed) && now >= *began + settings.base {
                        self.state = State::Probation {
                            since: now,
                            sent: Arc::default(),
                            reports,
                        };
                    }
                }
                (_, 0) => self.state = State::Back { since: now },
                _ => self.eject(settings, now),
            },
            State::Back { since } => return now < *since + settings.longest,
        }
        true
    }
}

fn reports(candidate: &Candidate<'_>) -> (u32, u32) {
    let stats = candidate.nodes.iter().map(|node| &node.stats);
    stats.fold((0, 0), |(well, badly), stats| {
        (
            u32::wrapping_add(well, stats.succeeded()),
            u32::wrapping_add(badly, stats.failed()),
        )
    })
}

const fn since(now: (u32, u32), before: (u32, u32)) -> (u32, u32) {
    (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1))
}
