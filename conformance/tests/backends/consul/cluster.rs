//! Three servers, and the client agent that the URL names.

use std::net::SocketAddr;
use std::sync::Arc;

use registry_conformance::server::{Consul, ConsulCluster};
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, async_trait};

/// `consul://` with a cluster for each case.
pub(crate) struct ClusterBackend;

#[async_trait]
impl Backend for ClusterBackend {
    fn name(&self) -> &str {
        "consul-cluster"
    }

    fn capability(&self) -> Capability {
        super::capability()
    }

    fn faults(&self) -> Faults {
        Faults {
            members: true,
            ..Faults::NONE
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(super::FAULTS)
    }

    fn missing(&self) -> Option<String> {
        Consul::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(Box::new(Cluster(ConsulCluster::start().await?)))
    }
}

struct Cluster(ConsulCluster);

#[async_trait]
impl Site for Cluster {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        format!("consul://{}", self.0.agent().server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        self.0.servers().inject(fault).await
    }

    fn log(&self) -> String {
        self.0.agent().server().log()
    }
}
