//! The suite, run on every backend of this workspace.

mod consul;
mod etcd;
mod eureka;
mod java;
mod mdns;
mod zookeeper;

use std::process::ExitCode;
use std::sync::Arc;

use registry_conformance::{Backend, MemoryBackend};

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 15] = [
        Arc::new(MemoryBackend),
        Arc::new(mdns::MdnsBackend),
        Arc::new(etcd::EtcdBackend),
        Arc::new(etcd::ClusterBackend),
        Arc::new(etcd::SecuredBackend),
        Arc::new(consul::ConsulBackend),
        Arc::new(consul::ClusterBackend),
        Arc::new(consul::SecuredBackend),
        Arc::new(zookeeper::ZooKeeperBackend),
        Arc::new(zookeeper::ClusterBackend),
        Arc::new(zookeeper::SecuredBackend),
        // Its cases wait for the longest.
        Arc::new(eureka::ProductionBackend::default()),
        Arc::new(eureka::EurekaBackend::default()),
        Arc::new(eureka::PeersBackend::default()),
        Arc::new(eureka::SecuredBackend::default()),
    ];
    registry_conformance::run(backends)
}
