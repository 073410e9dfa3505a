//! Two peers, of which the URL names one.

use std::net::SocketAddr;
use std::sync::Arc;

use registry_conformance::server::{Eureka, EurekaPeers};
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, async_trait};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::block_in_place;

/// `eureka://` with two peers that the cases have in turn.
#[derive(Default)]
pub(crate) struct PeersBackend {
    /// They end with the last case.
    peers: Arc<Mutex<Option<EurekaPeers>>>,
}

#[async_trait]
impl Backend for PeersBackend {
    fn name(&self) -> &str {
        "eureka-peers"
    }

    fn capability(&self) -> Capability {
        super::capability()
    }

    fn faults(&self) -> Faults {
        Faults {
            outage: true,
            hang: true,
            wipe: true,
            ..super::FAULTS
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(super::FAULTS)
    }

    fn missing(&self) -> Option<String> {
        Eureka::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        // The limit of a case counts from before this, and its turn comes when those before it are over.
        let turn = block_in_place(|| Handle::current().block_on(turn(self.peers.clone())))?;
        Ok(Box::new(Peers(turn)))
    }
}

type Turn = OwnedMutexGuard<Option<EurekaPeers>>;

async fn turn(peers: Arc<Mutex<Option<EurekaPeers>>>) -> Result<Turn> {
    let mut turn = peers.lock_owned().await;
    match &*turn {
        Some(peers) => peers.reset().await?,
        None => *turn = Some(EurekaPeers::start().await?),
    }
    Ok(turn)
}

/// The peers, while they are one case's.
struct Peers(Turn);

impl Peers {
    fn peers(&self) -> &EurekaPeers {
        self.0.as_ref().expect("they were started")
    }

    fn known(&self) -> &Eureka {
        &self.peers().members()[0]
    }
}

#[async_trait]
impl Site for Peers {
    fn url(&self, via: Option<SocketAddr>) -> String {
        super::url("", via.unwrap_or(self.known().server().address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.known().server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Stop | Fault::Start | Fault::Pause | Fault::Resume | Fault::Wipe => {
                self.peers().inject(fault).await
            }
            other => super::inject(self.known(), other).await,
        }
    }

    fn log(&self) -> String {
        self.known().server().log()
    }
}
