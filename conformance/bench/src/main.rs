//! What a pick costs here, in pingora, tower and volo, side by side in one run.
//!
//! `cargo run --release --manifest-path conformance/bench/Cargo.toml` prints the tables and writes them to
//! `conformance/bench/RESULTS.md`. With `-- --quick` it takes a fifth of the time, is less exact and writes nothing.

mod ours;
mod peers;
mod rebuild;
mod report;
mod subject;

use std::process::ExitCode;

use report::Report;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let samples = if quick { 5 } else { 25 };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    for size in SIZES {
        let mut subjects = vec![subject::bare_load()];
        subjects.extend(runtime.block_on(ours::subjects(size)));
        subjects.extend(peers::subjects(size));
        for measured in subject::measure(&subjects, samples) {
            report.add(size, measured);
        }
        eprintln!("{size} instances measured");
    }
    report.rebuilds = rebuild::measure(if quick { 10 } else { 100 });
    let text = report.to_string();
    println!("{text}");
    if !quick {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md");
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
