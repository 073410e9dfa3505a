//! The table of the README says what the plugins declare.

use std::time::Duration;

use registry_plugins::{Capability, TtlScope, Window, connect};

const README: &str = include_str!("../README.md");

const HEADER: &str = "| Backend | Seen within | Gone within | Gone after a kill within | Back within, when forgotten | TTL \
                      | Checks it runs | All services watched | Batches | Data centres | Looks again | Taken id refused |";

#[tokio::test]
async fn the_table_is_what_each_backend_declares() {
    let rows = table();
    for scheme in ["memory", "mdns"] {
        let name = format!("| `{scheme}://` |");
        let row = rows.iter().find(|row| row.starts_with(&name));
        let row = row.unwrap_or_else(|| panic!("{scheme} has no row"));
        // A backend that is not compiled in is compared where its feature is tested.
        if registry_plugins::schemes().contains(&scheme) {
            let registry = connect(&format!("{scheme}://")).await.unwrap();
            assert_eq!(*row, expected(scheme, &registry.capability()));
        }
    }
}

#[test]
fn every_backend_that_is_compiled_in_has_a_row_and_no_other_has() {
    let rows = table();
    let known = ["memory", "mdns"];
    assert_eq!(rows.len(), known.len(), "{rows:#?}");
    for scheme in registry_plugins::schemes() {
        assert!(known.contains(&scheme), "{scheme} is not compared");
    }
}

/// The rows below the header.
fn table() -> Vec<&'static str> {
    let mut lines = README.lines().skip_while(|line| *line != HEADER);
    assert!(
        lines.next().is_some(),
        "the README has no table with this header:\n{HEADER}"
    );
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect()
}

fn expected(scheme: &str, capability: &Capability) -> String {
    let yes = |can| if can { "yes" } else { "no" }.to_owned();
    let windows = capability.windows;
    let cells = [
        format!("`{scheme}://`"),
        seconds(windows.visible),
        seconds(windows.gone),
        windows.crash.map_or("never".to_owned(), window),
        windows
            .reregister
            .map_or("cannot forget".to_owned(), window),
        match capability.ttl {
            TtlScope::Registration => "each its own",
            TtlScope::Connection => "one per connection",
            _ => "fixed",
        }
        .to_owned(),
        match capability.checks {
            [] => "none".to_owned(),
            checks => format!("{checks:?}").to_lowercase().replace(['[', ']'], ""),
        },
        yes(capability.watch_all),
        yes(capability.atomic_batches),
        yes(capability.datacenters),
        yes(capability.recheck),
        yes(capability.conflicts),
    ];
    format!("| {} |", cells.join(" | "))
}

fn window(window: Window) -> String {
    let plus = seconds(window.plus);
    match (window.ttl_times, window.plus.is_zero()) {
        (0, _) => plus,
        (1, true) => "TTL".to_owned(),
        (1, false) => format!("TTL + {plus}"),
        (times, true) => format!("{times} TTL"),
        (times, false) => format!("{times} TTL + {plus}"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
