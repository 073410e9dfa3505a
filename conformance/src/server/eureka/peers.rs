//! Two peers, of which clients know one.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};

use super::{Eureka, EurekaBuilder};
use crate::fixture::Fault;
use crate::server::{at_once, free_port, until};

/// How long peers may take to tell each other of a change.
const REPLICATED: Duration = Duration::from_secs(20);

/// Two servers that tell each other of everything. A server of Eureka keeps its data in its peers and nowhere else: the
/// second one is what the first one fills itself from when it starts again.
#[derive(Debug)]
pub struct EurekaPeers {
    members: [Eureka; 2],
}

impl EurekaPeers {
    /// Starts both and waits until they know each other.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn start() -> Result<Self> {
        let (here, there) = (free_port(), free_port());
        // A server takes a peer for itself when both have one name.
        let known = peer(here, "localhost", &format!("127.0.0.1:{there}"));
        // It removes nobody, as a server does whose clients have gone silent all at once.
        let archive = peer(there, "127.0.0.1", &format!("localhost:{here}"))
            .argument("--eureka.server.eviction-interval-timer-in-ms=3600000");
        let started = at_once([known, archive].map(EurekaBuilder::start)).await?;
        let members = started
            .try_into()
            .map_err(|_| Error::new(ErrorKind::Unavailable, "not both were started"))?;
        let peers = Self { members };
        peers.agree().await?;
        Ok(peers)
    }

    /// The one that clients know, and the other.
    pub fn members(&self) -> &[Eureka; 2] {
        &self.members
    }

    /// Brings both back to where they run and know nobody.
    ///
    /// # Errors
    /// As [`Server`](crate::Server)'s methods, and as [`agree`](Self::agree).
    pub async fn reset(&self) -> Result<()> {
        // An error means that it is dead.
        let _ = self.members[0].server().resume().await;
        for member in &self.members {
            if member.records().await.is_err() {
                member.server().restart().await?;
            }
        }
        for member in &self.members {
            member.clear().await?;
        }
        self.agree().await
    }

    /// Waits until both know the same.
    ///
    /// # Errors
    /// `Unavailable` when they do not within 20 s.
    pub async fn agree(&self) -> Result<()> {
        let [known, other] = &self.members;
        until(REPLICATED, || async {
            let (here, there) = (known.records().await?, other.records().await?);
            match here == there {
                true => Ok(()),
                false => Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the peers know different records: {here:?} and {there:?}"),
                )),
            }
        })
        .await
    }

    /// Makes a fault of the server that clients know: those from [`Fault::Stop`] to [`Fault::Wipe`]. Its data are in
    /// the other one, which dies with a wipe and is started again by [`reset`](Self::reset).
    ///
    /// # Errors
    /// As [`Server::inject`](crate::Server::inject), and as [`agree`](Self::agree).
    pub async fn inject(&self, fault: &Fault) -> Result<()> {
        let [known, other] = &self.members;
        match fault {
            Fault::Stop => self.agree().await?,
            Fault::Wipe => other.server().kill().await?,
            _ => {}
        }
        known.server().inject(fault).await?;
        match fault {
            Fault::Start => self.agree().await,
            _ => Ok(()),
        }
    }
}

fn peer(port: u16, name: &str, other: &str) -> EurekaBuilder {
    let mut builder = Eureka::builder()
        .argument("--spring.application.name=eureka")
        .argument("--eureka.client.register-with-eureka=true")
        .argument("--eureka.client.fetch-registry=true")
        .argument("--eureka.client.registry-fetch-interval-seconds=1")
        .argument("--eureka.instance.lease-renewal-interval-in-seconds=1")
        .argument("--eureka.instance.lease-expiration-duration-in-seconds=3")
        .argument(format!("--eureka.instance.hostname={name}"))
        .argument(format!(
            "--eureka.client.service-url.defaultZone=http://{other}/eureka/"
        ));
    builder.port = Some(port);
    builder
}
