//! The suite, run on every backend of this workspace.

mod mdns;

use std::process::ExitCode;
use std::sync::Arc;

use registry_conformance::{Backend, MemoryBackend};

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(MemoryBackend), Arc::new(mdns::MdnsBackend)];
    registry_conformance::run(backends)
}
