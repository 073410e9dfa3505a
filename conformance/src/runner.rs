//! Makes trials of cases and runs them.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::{Builder, Handle};
use tokio::time::timeout;

use crate::case::{Case, Failure, Outcome};
use crate::fixture::{self, Backend, Existing};
use crate::suite::cases;
use crate::wait::eventually;
use crate::world::World;

/// Cases mostly wait, so that many run side by side.
const THREADS: usize = 16;

/// No case takes longer, but for what the windows of a slow registry add.
const LIMIT: Duration = Duration::from_secs(60);

/// So many windows may pass in a case.
const WINDOWS: u32 = 4;

/// How long the tasks of a case may outlive it: dropped handles are given time to clean up at the server.
const AFTERMATH: Duration = Duration::from_secs(10);

/// The topic whose cases run one at a time, with nothing beside them.
const ALONE: &str = "scale";

/// Runs the suite on these backends, as the `main` of a test with `harness = false`. It understands the arguments of
/// every Rust test: a filter such as `memory::watch::`, `--list`, `--test-threads` (default 16).
///
/// Environment: `REGISTRY_TEST_REQUIRE` lists backends, separated by commas, that fail where they would be ignored.
/// `REGISTRY_TEST_<NAME>_URL` names a server to use in place of the fixture's own.
pub fn run(backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> ExitCode {
    if let Some(order) = fixture::order() {
        return fixture::obey(&order, backends.into_iter().collect());
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
    let alone = Arc::new(RwLock::new(()));
    let mut trials: Vec<(bool, Trial)> = Vec::new();
    for backend in backends {
        let backend = Existing::or(backend);
        // A backend `etcd-cluster` is required where `etcd` is.
        let plugin = backend.name().split('-').next().unwrap_or_default();
        let required = required
            .split(',')
            .any(|name| [plugin, backend.name()].contains(&name.trim()));
        let missing = Arc::new(OnceLock::new());
        for case in applicable(&*backend) {
            let (backend, missing, alone) = (backend.clone(), missing.clone(), alone.clone());
            let name = format!("{}::{}", backend.name(), case.name());
            let trial = Trial::ignorable_test(name, move || {
                match missing.get_or_init(|| backend.missing()) {
                    Some(reason) if required => {
                        return Err(format!("required, and cannot run: {reason}").into());
                    }
                    Some(reason) => return Ok(Completion::ignored_with(reason)),
                    None => {}
                }
                // A poisoned lock guards nothing but the order.
                let outcome = if case.topic() == ALONE {
                    let _alone = alone.write();
                    execute(&backend, &case)
                } else {
                    let _beside_others = alone.read();
                    execute(&backend, &case)
                };
                match outcome {
                    Ok(()) => Ok(Completion::Completed),
                    Err(failure) => Err(Failed::from(failure.message())),
                }
            });
            trials.push((case.topic() == ALONE, trial));
        }
    }
    trials.sort_by_key(|(alone, _)| *alone);
    let trials = trials.into_iter().map(|(_, trial)| trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs one case, by its [name](Case::name), on a backend.
///
/// # Errors
/// Why it failed; also when there is no such case, or it cannot be asked of this backend.
pub fn check(backend: &Arc<dyn Backend>, name: &str) -> Outcome {
    let case = applicable(&**backend)
        .find(|case| case.name() == name)
        .ok_or_else(|| {
            Failure::new(format!("no case {name} can be asked of {}", backend.name()))
        })?;
    execute(backend, &case)
}

fn applicable(backend: &dyn Backend) -> impl Iterator<Item = Case> {
    let (capability, faults) = (backend.capability(), backend.faults());
    let (elsewhere, topics) = (backend.asked_elsewhere(), backend.topics());
    cases().filter(move |case| {
        let asked = |faults: &_| case.applies(&capability, faults);
        let wanted = topics.is_none_or(|topics| topics.contains(&case.topic()));
        wanted && asked(&faults) && !elsewhere.as_ref().is_some_and(asked)
    })
}

/// Runs a case in a runtime of its own, holds its history against the laws and sees that no task is left.
fn execute(backend: &Arc<dyn Backend>, case: &Case) -> Outcome {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let world = timeout(LIMIT, World::start(backend.clone())).await??;
        let outcome = conduct(case, &world).await;
        let report = world.report();
        let outcome = outcome.and_then(|()| world.judge());
        drop(world);
        match outcome {
            Ok(()) => nothing_left().await,
            Err(failure) => Err(failure.and("the history ends with:").and(&report)),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn conduct(case: &Case, world: &World) -> Outcome {
    let windows = world.capability().windows;
    let removed = windows.removed.map(|window| window.plus);
    let limit = LIMIT
        .saturating_add(windows.visible.max(windows.gone) * WINDOWS)
        .saturating_add(removed.unwrap_or_default());
    let mut task = tokio::spawn(case.start(world.clone()));
    match timeout(limit, &mut task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panicked)) => Err(panicked.into()),
        Err(_) => {
            task.abort();
            Err(Failure::new(format!(
                "the case did not end within {limit:?}"
            )))
        }
    }
}

async fn nothing_left() -> Outcome {
    eventually(AFTERMATH, "every task to end after the case", || async {
        let tasks = Handle::current().metrics().num_alive_tasks();
        ensure_eq!(tasks, 0, "tasks that are left");
        Ok(())
    })
    .await
}
