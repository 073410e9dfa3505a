//! The tables of the README: what the plugins declare, and which cases show what is promised.

use std::time::Duration;

use registry_conformance::{Backend, MemoryBackend};
use registry_plugins::{Capability, TtlScope, Window, connect};

const README: &str = include_str!("../README.md");

const KNOWN: [&str; 6] = ["memory", "mdns", "etcd", "consul", "zookeeper", "eureka"];

const HEADER: &str = "| Backend | Seen within | Gone within | Not called after a kill within | Gone after a kill within | Back within, when forgotten | TTL \
                      | Checks it runs | All services watched | Batches | Data centres | Looks again | Taken id refused |";

#[tokio::test]
async fn the_table_is_what_each_backend_declares() {
    let rows = rows(HEADER);
    for scheme in KNOWN {
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
    let rows = rows(HEADER);
    assert_eq!(rows.len(), KNOWN.len(), "{rows:#?}");
    for scheme in registry_plugins::schemes() {
        assert!(KNOWN.contains(&scheme), "{scheme} is not compared");
    }
}

#[test]
fn each_promise_names_cases_that_run() {
    let rows = rows("| Promise | Shown by |");
    assert_eq!(rows.len(), 8, "{rows:#?}");
    let (capability, faults) = (MemoryBackend.capability(), MemoryBackend.faults());
    for row in rows {
        let names: Vec<_> = row.split('`').filter(|part| part.contains("::")).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let mut cases = registry_conformance::cases();
            let case = cases.find(|case| case.name() == name);
            let case = case.unwrap_or_else(|| panic!("the suite has no case {name}"));
            assert!(
                case.applies(&capability, &faults),
                "{name} runs on no backend"
            );
        }
    }
}

/// The rows below the header.
fn rows(header: &str) -> Vec<&'static str> {
    let mut lines = README.lines().skip_while(|line| *line != header);
    assert!(
        lines.next().is_some(),
        "the README has no table with this header:\n{header}"
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
        windows.removed.map_or("never".to_owned(), window),
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
