//! Three servers and an agent of theirs.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};

use super::{Agent, Consul, ConsulBuilder, Role};
use crate::server::{at_once, until};

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

    /// Restarts all its servers at once, with their data.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn restart(&self) -> Result<()> {
        at_once(self.servers.iter().map(|server| server.server().restart()))
            .await
            .map(drop)
    }

    /// Kills all its servers, removes their data and starts them again. The client agent goes on.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn wipe(&self) -> Result<()> {
        for server in &self.servers {
            server.server().kill().await?;
        }
        at_once(self.servers.iter().map(|server| server.server().wipe()))
            .await
            .map(drop)
    }
}
