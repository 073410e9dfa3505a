//! One check, again and again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Panel, Report, probe};
use crate::registration::{CheckKind, HealthCheck};
use crate::time::after;

/// One check's light on the panel.
pub(super) struct Light {
    panel: Arc<Panel>,
    kind: CheckKind,
    /// Answers in a row that it takes to pass, and to fail.
    passes: u16,
    failures: u16,
    failing: bool,
    /// Answers in a row that say the opposite.
    opposed: u16,
}

impl Light {
    pub(super) fn new(panel: Arc<Panel>, check: &HealthCheck) -> Self {
        Self {
            panel,
            kind: check.kind.clone(),
            passes: check.passes,
            failures: check.failures,
            failing: false,
            opposed: 0,
        }
    }

    /// Takes one answer.
    fn judge(&mut self, answer: Report) {
        if answer.is_err() == self.failing {
            self.opposed = 0;
            return;
        }
        self.opposed += 1;
        let wanted = match self.failing {
            true => self.passes,
            false => self.failures,
        };
        if self.opposed < wanted {
            return;
        }
        self.opposed = 0;
        self.failing = answer.is_err();
        let (panel, check) = (&self.panel, &self.kind);
        let others = match answer {
            Err(why) => {
                tracing::warn!(instance = %panel.key, ?check, %why, "a health check fails");
                panel.failing.fetch_add(1, Ordering::AcqRel)
            }
            Ok(()) => {
                tracing::info!(instance = %panel.key, ?check, "a health check passes again");
                panel.failing.fetch_sub(1, Ordering::AcqRel) - 1
            }
        };
        if others == 0 {
            (panel.moved)();
        }
    }
}

/// Asks at once and then each interval, less up to a tenth at random; never twice at the same time.
pub(super) async fn ask(mut light: Light, check: HealthCheck) {
    let clients = probe::Clients::default();
    loop {
        let begin = Instant::now();
        let answer = timeout(check.timeout, probe::probe(&check.kind, &clients)).await;
        let late = || Err(format!("no answer within {:?}", check.timeout));
        light.judge(answer.unwrap_or_else(|_| late()));
        let pause = check.interval.mul_f64(1.0 - fastrand::f64() / 10.0);
        sleep_until((begin + pause).min(after(pause))).await;
    }
}

/// Hears what the program says, which must not be silent for longer than this.
pub(super) async fn listen(mut light: Light, ttl: Duration, mut reports: watch::Receiver<Report>) {
    loop {
        let answer = match timeout(ttl, reports.changed()).await {
            Ok(Ok(())) => reports.borrow_and_update().clone(),
            // The registration is over.
            Ok(Err(_)) => return,
            Err(_) => Err(format!("the program has not reported for {ttl:?}")),
        };
        light.judge(answer);
    }
}
