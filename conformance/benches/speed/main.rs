//! How fast each registry is told and read through its plugin, beside its bare client library, in one run.
//!
//! `cargo bench -p registry-conformance --bench speed [-- etcd consul zookeeper eureka]`. It starts the servers itself. Ours and theirs
//! take turns, so that what else the machine does meets both; read the ratios, not the times.

mod consul;
mod etcd;
mod eureka;
mod measure;
mod ours;
mod zookeeper;

use std::error::Error;
use std::process::ExitCode;

/// Why a measurement ended early.
type Failure = Box<dyn Error + Send + Sync>;

/// How much is measured: little where only the program itself is tested.
#[derive(Clone, Copy)]
struct Effort {
    /// Registrations that are timed.
    rounds: usize,
    /// Instances in the large service.
    instances: usize,
    /// Reads of the large service.
    reads: usize,
    /// Registrations of one process.
    registrations: usize,
    /// Seconds without a change during which requests are counted.
    idle: u64,
}

const MEASURE: Effort = Effort {
    rounds: 1000,
    instances: 10_000,
    reads: 15,
    registrations: 1000,
    idle: 60,
};

const TEST: Effort = Effort {
    rounds: 3,
    instances: 50,
    reads: 1,
    registrations: 10,
    idle: 1,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // Cargo says `--bench` when it measures, and nothing when it tests that benches run.
    let effort = match arguments.iter().any(|argument| argument == "--bench") {
        true => MEASURE,
        false => TEST,
    };
    let wanted = |name| {
        let mut names = arguments
            .iter()
            .filter(|argument| !argument.starts_with("--"));
        let named = names.clone().next().is_some();
        !named || names.any(|argument| argument == name)
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let [mode, who, target] = &arguments[..]
        && mode == eureka::PEAK
    {
        return match runtime.block_on(eureka::peak(who, target)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut code = ExitCode::SUCCESS;
    let mut report = |name: &str, result: Result<(), Failure>| {
        if let Err(error) = result {
            eprintln!("{name}: {error}");
            code = ExitCode::FAILURE;
        }
    };
    if wanted("etcd") {
        report("etcd", runtime.block_on(etcd::measure(effort)));
    }
    if wanted("consul") {
        report("consul", runtime.block_on(consul::measure(effort)));
    }
    if wanted("zookeeper") {
        report("zookeeper", runtime.block_on(zookeeper::measure(effort)));
    }
    if wanted("eureka") {
        report("eureka", runtime.block_on(eureka::measure(effort)));
    }
    code
}
