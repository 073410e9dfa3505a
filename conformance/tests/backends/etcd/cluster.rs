//! Three members, all of them in the URL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use registry_conformance::server::{Etcd, EtcdCluster};
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, async_trait};

/// `etcd://` with a cluster for each case.
pub(crate) struct ClusterBackend;

#[async_trait]
impl Backend for ClusterBackend {
    fn name(&self) -> &str {
        "etcd-cluster"
    }

    fn capability(&self) -> Capability {
        super::capability()
    }

    fn faults(&self) -> Faults {
        Faults {
            members: true,
            endpoints: true,
            ..Faults::NONE
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(super::FAULTS)
    }

    fn missing(&self) -> Option<String> {
        Etcd::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(Box::new(Cluster {
            members: EtcdCluster::start().await?,
            first: AtomicUsize::new(0),
        }))
    }
}

struct Cluster {
    members: EtcdCluster,
    /// Which of them the next client is told of first, and so connects to.
    first: AtomicUsize,
}

#[async_trait]
impl Site for Cluster {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        let members = self.members.members().iter();
        let mut addresses: Vec<_> = members
            .map(|member| member.server().address().to_string())
            .collect();
        let first = self.first.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
        format!("etcd://{}", addresses.join(","))
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        self.members.inject(fault).await
    }

    fn log(&self) -> String {
        self.members.log()
    }
}
