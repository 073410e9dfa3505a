//! The suite, run on every backend of this workspace.

use std::process::ExitCode;
use std::sync::Arc;

use registry_conformance::{Backend, MemoryBackend};

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 1] = [Arc::new(MemoryBackend)];
    registry_conformance::run(backends)
}
