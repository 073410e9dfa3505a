//! Three servers and an agent of theirs.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};

use super::builder::{Agent, Role};
use super::{Consul, ConsulBuilder};
use crate::fixture::Fault;
use crate::server::{Server, at_once, heal, until, wipe};

/// Three Consul servers of one data centre and a client agent of theirs, without security.
#[derive(Debug)]
pub struct ConsulCluster {
    servers: Vec<Consul>,
    agent: Consul,
}

impl ConsulCluster {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn start() -> Result<Self> {
        let servers: Vec<_> = (0..3).map(|i| Agent::new(format!("s{i}"))).collect();
        let peers: Vec<_> = servers.iter().map(|server| server.lan).collect();
        let starts = servers
            .into_iter()
            .map(|server| (server, Role::Server(peers.clone())))
            .chain([(Agent::new("client".to_owned()), Role::Client(peers.clone()))])
            .map(|(agent, role)| agent.start(role, ConsulBuilder::default()));
        let mut servers = at_once(starts).await?;
        match servers.pop() {
            Some(agent) => Ok(Self { servers, agent }),
            None => Err(Error::new(ErrorKind::Unavailable, "no agent was started")),
        }
    }

    /// Its servers, in an order that does not change. One that is killed and restarted alone is ready when a majority
    /// is there.
    pub fn servers(&self) -> &[Consul] {
        &self.servers
    }

    /// The client agent.
    pub fn agent(&self) -> &Consul {
        &self.agent
    }

    /// Which server leads, as that server itself says; waits for up to 30 s until one does.
    ///
    /// # Errors
    /// `Unavailable` when none does by then.
    pub async fn leader(&self) -> Result<usize> {
        until(Duration::from_secs(30), || async {
            for (i, server) in self.servers.iter().enumerate() {
                let asked = tokio::time::timeout(
                    Duration::from_secs(1),
                    server.ask("GET", "/v1/status/leader", ""),
                );
                let own = server.rpc.map(|rpc| format!("\"{rpc}\""));
                if let Ok(Ok(leader)) = asked.await
                    && own.as_deref() == Some(leader.trim())
                {
                    return Ok(i);
                }
            }
            Err(Error::new(ErrorKind::Unavailable, "no server leads"))
        })
        .await
    }

    /// Makes a fault that a cluster can make: those from [`Fault::StopLeader`] to [`Fault::Heal`]. The client
    /// agent goes on all the while.
    ///
    /// # Errors
    /// `Unsupported` for another fault; else as [`Server`]'s methods, and as [`leader`](Self::leader).
    pub async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::StopLeader => self.leading().await?.kill().await,
            Fault::PauseLeader => self.leading().await?.pause().await,
            Fault::StopMost => {
                let leader = self.leader().await?;
                self.servers[leader].server().kill().await?;
                self.servers[(leader + 1) % self.servers.len()]
                    .server()
                    .kill()
                    .await
            }
            Fault::WipeMembers => wipe(&self.all()).await,
            Fault::Heal => heal(&self.all()).await,
            other => Err(other.unsupported()),
        }
    }

    async fn leading(&self) -> Result<&dyn Server> {
        Ok(self.servers[self.leader().await?].server())
    }

    fn all(&self) -> Vec<&dyn Server> {
        self.servers.iter().map(|server| server.server()).collect()
    }
}
