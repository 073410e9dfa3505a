//! The suite, run on every backend of this workspace.

mod consul;
mod mdns;

use std::process::ExitCode;
use std::sync::Arc;

use registry_conformance::{Backend, MemoryBackend};

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 3] = [
        Arc::new(MemoryBackend),
        Arc::new(mdns::MdnsBackend),
        Arc::new(consul::ConsulBackend),
    ];
    registry_conformance::run(backends)
}
