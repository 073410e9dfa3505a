//! Three members, all of them in the URL.

use std::net::SocketAddr;
use std::sync::Arc;

use registry_conformance::server::{ZooKeeper, ZooKeeperEnsemble};
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, async_trait};

use super::{MACHINES, SESSION};
use crate::java::Turn;

/// `zookeeper://` with an ensemble for each case.
pub(crate) struct ClusterBackend;

#[async_trait]
impl Backend for ClusterBackend {
    fn name(&self) -> &str {
        "zookeeper-cluster"
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
        ZooKeeper::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let turn = MACHINES.turn(3);
        Ok(Box::new(Cluster {
            ensemble: ZooKeeperEnsemble::start().await?,
            _turn: turn,
        }))
    }
}

struct Cluster {
    ensemble: ZooKeeperEnsemble,
    _turn: Turn,
}

#[async_trait]
impl Site for Cluster {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        let members = self.ensemble.members().iter();
        let addresses: Vec<_> = members
            .map(|member| member.server().address().to_string())
            .collect();
        super::url(&addresses.join(","), SESSION)
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        self.ensemble.inject(fault).await
    }

    fn log(&self) -> String {
        self.ensemble.log()
    }
}
