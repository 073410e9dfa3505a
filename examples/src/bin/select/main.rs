//! Shows what selectors do when instances are slow, fail, are cold or vanish: the same seeded calls through each of
//! them, in virtual time.
//!
//! `cargo run -p examples --bin select` prints tables and draws `target/select.svg`. The same seed gives the same
//! tables, to the last digit.

mod plot;
mod scenario;
mod server;
mod table;
mod world;

use std::error::Error;
use std::path::PathBuf;

use examples::args::Args;

use scenario::{SCENARIOS, Scenario};
use world::Run;

const HELP: &str = "\
Shows what selectors do in trouble, in virtual time.

  --seed NUMBER   of the calls and of all choices (default 1)
  --plot FILE     where to draw the latencies (default target/select.svg)
";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse(HELP);
    let seed = args.take("seed", 1);
    let plot = args.take("plot", PathBuf::from("target/select.svg"));
    args.finish();
    let mut results = Vec::new();
    for scenario in SCENARIOS {
        let runs = run(&scenario, seed)?;
        println!("{}", table::table(&scenario, &runs));
        results.push((scenario, runs));
    }
    if let Some(folder) = plot.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&plot, plot::svg(&results))?;
    println!("plot: {}", plot.display());
    Ok(())
}

/// The scenario with each of its selectors.
fn run(scenario: &Scenario, seed: u64) -> Result<Vec<Run>, Box<dyn Error>> {
    let selectors = scenario.selectors.iter();
    selectors
        .map(|selector| world::run(scenario, *selector, seed))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(title: &str, seed: u64) -> Vec<Run> {
        let mut scenarios = SCENARIOS.iter();
        let scenario = scenarios.find(|one| one.title.contains(title)).unwrap();
        run(scenario, seed).unwrap()
    }

    fn find<'a>(runs: &'a [Run], name: &str) -> &'a Run {
        runs.iter().find(|run| run.selector == name).unwrap()
    }

    /// Of the instance in trouble.
    fn share(run: &Run) -> f64 {
        run.shares()[scenario::AFFLICTED]
    }

    #[test]
    fn latencies_beat_turns_where_one_is_slow() {
        let runs = runs("slow", 1);
        let turns = find(&runs, "round robin").percentile(0.99);
        let peak = find(&runs, "peak EWMA").percentile(0.99);
        assert!(peak * 5 < turns, "{peak:?} and {turns:?}");
    }

    #[test]
    fn who_fails_gets_no_more_than_a_fair_share_with_ejection() {
        for seed in 1..4 {
            let runs = runs("fails", seed);
            for run in runs.iter().filter(|run| run.selector.contains("ejection")) {
                assert!(share(run) <= 0.1, "{}", run.selector);
            }
            assert!(share(find(&runs, "power of two")) > 0.1);
        }
    }

    #[test]
    fn a_seed_says_it_all() {
        let tables = [1, 1, 2].map(|seed| {
            let mut scenarios = SCENARIOS.iter();
            let scenario = scenarios.find(|one| one.title.contains("zone")).unwrap();
            table::table(scenario, &run(scenario, seed).unwrap())
        });
        assert_eq!(tables[0], tables[1]);
        assert_ne!(tables[0], tables[2]);
    }
}
