//! The suite, run on every backend of this workspace.

mod etcd;
mod mdns;

use std::process::ExitCode;
use std::sync::Arc;

use registry_conformance::{Backend, MemoryBackend};

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 5] = [
        Arc::new(MemoryBackend),
        Arc::new(mdns::MdnsBackend),
        Arc::new(etcd::EtcdBackend::Alone),
        Arc::new(etcd::EtcdBackend::Secured),
        Arc::new(etcd::EtcdBackend::Cluster),
    ];
    registry_conformance::run(backends)
}
