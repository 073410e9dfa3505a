//! Health checks that run on this side, for registries that do not run them.

#[cfg(feature = "health")]
mod command;
#[cfg(feature = "health")]
mod probe;
#[cfg(feature = "health")]
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::capability::{Capability, Check};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::InstanceKey;
use crate::registration::{CheckKind, HealthCheck, Registration};

/// What a program said of itself, for [`CheckKind::Ttl`].
pub(crate) type Report = Result<(), String>;

/// The checks of one registration that run here. They end with this.
#[derive(Debug)]
pub(crate) struct Checkup {
    panel: Arc<Panel>,
    reports: watch::Sender<Report>,
    _running: JoinSet<()>,
}

/// How the checks of one registration stand.
struct Panel {
    key: InstanceKey,
    failing: AtomicUsize,
    /// Called when that changes between none and some.
    #[cfg_attr(not(feature = "health"), expect(dead_code, reason = "none runs"))]
    moved: Box<dyn Fn() + Send + Sync>,
}

/// Takes from a registration the checks that run here: those that the registry does not run. Without the feature `health`
/// none does, and the registry refuses them.
pub(crate) fn take(
    registration: &Registration,
    capability: &Capability,
    commands: bool,
) -> Result<(Registration, Vec<HealthCheck>)> {
    let mut registration = registration.clone();
    if !cfg!(feature = "health") {
        return Ok((registration, Vec::new()));
    }
    let native = |check: &HealthCheck| capability.checks.contains(&Check::from(&check.kind));
    let (native, ours): (Vec<_>, Vec<_>) = registration.checks.drain(..).partition(native);
    registration.checks = native;
    for check in &ours {
        admit(check, commands).map_err(|error| error.with("instance", registration.key()))?;
    }
    Ok((registration, ours))
}

fn admit(check: &HealthCheck, commands: bool) -> Result<()> {
    check.admit()?;
    let refused = |why: &str| Err(Error::new(ErrorKind::Invalid, why));
    match &check.kind {
        CheckKind::Http(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
            refused("the URL of a check is refused; it begins with http:// or https://")
        }
        CheckKind::Command(command) if command.first().is_none_or(String::is_empty) => {
            refused("the command of a check is refused; it names a program")
        }
        CheckKind::Command(_) if !commands => Err(Error::new(
            ErrorKind::Config,
            "a check that runs a command is refused; allow it with RegistrarConfig::command_checks",
        )),
        _ => Ok(()),
    }
}

impl Checkup {
    /// Starts the checks. `moved` is called when they begin to fail, and when all pass again.
    #[cfg_attr(
        not(feature = "health"),
        expect(unused_mut, unused_variables, reason = "none runs")
    )]
    pub(crate) fn start(
        key: InstanceKey,
        checks: Vec<HealthCheck>,
        moved: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let panel = Arc::new(Panel {
            key,
            failing: AtomicUsize::new(0),
            moved: Box::new(moved),
        });
        let reports = watch::Sender::new(Ok(()));
        let mut running = JoinSet::new();
        #[cfg(feature = "health")]
        for check in checks {
            let light = run::Light::new(panel.clone(), &check);
            match check.kind {
                CheckKind::Ttl => {
                    let reports = reports.subscribe();
                    running.spawn(run::listen(light, check.interval, reports));
                }
                _ => drop(running.spawn(run::ask(light, check))),
            }
        }
        Self {
            panel,
            reports,
            _running: running,
        }
    }

    /// Whether one of them fails.
    pub(crate) fn fails(&self) -> bool {
        self.panel.failing.load(Ordering::Acquire) > 0
    }

    /// What the program says of itself.
    pub(crate) fn report(&self, report: Report) {
        self.reports.send_modify(|last| *last = report);
    }
}

impl std::fmt::Debug for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Panel")
            .field("key", &self.key)
            .field("failing", &self.failing)
            .finish_non_exhaustive()
    }
}
