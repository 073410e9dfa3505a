//! What came of it, in figures.

use std::fmt::Write;
use std::time::Duration;

use crate::scenario::{AFFLICTED, Scenario, Trouble};
use crate::world::Run;

/// One row for each selector.
pub(crate) fn table(scenario: &Scenario, runs: &[Run]) -> String {
    let mut text = format!("{}\n\n", scenario.title);
    let story = match scenario.trouble {
        Trouble::ZoneLoss => "share per instance in %".to_owned(),
        _ => format!("share per instance in %, that of the {AFFLICTED} in brackets"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<28}{:>9}{:>9}{:>9}{:>9}  {story}",
        "ms", "p50", "p99", "p99.9", "errors"
    );
    for run in runs {
        let _ = write!(text, "{:<28}", run.selector);
        for part in [0.5, 0.99, 0.999] {
            let _ = write!(text, "{:>9.1}", millis(run.percentile(part)));
        }
        let _ = write!(text, "{:>8.2}% ", 100.0 * run.error_share());
        for (i, share) in run.shares().into_iter().enumerate() {
            let share = format!("{:.1}", 100.0 * share);
            let afflicted = i == AFFLICTED && scenario.trouble != Trouble::ZoneLoss;
            let share = if afflicted {
                format!("[{share}]")
            } else {
                share
            };
            let _ = write!(text, "{share:>6}");
        }
        text.push('\n');
    }
    text
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
