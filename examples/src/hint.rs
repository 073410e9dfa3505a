//! Help for whoever sees nothing happen.

use crate::console::Console;

/// `memory://` is inside one process: says so, for two programs will not find each other on it.
pub fn one_process_only(console: &Console) {
    let registry = ["REGISTRY_URL", "MICRO_REGISTRY"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    if registry.is_some_and(|registry| registry.starts_with("memory")) {
        console.text(
            "memory:// is a registry inside this process: no other program sees it. \
             Unset REGISTRY_URL to use mDNS.",
        );
    }
}
