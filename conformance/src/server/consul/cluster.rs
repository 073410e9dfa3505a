//! Three servers and an agent of theirs.

use registry_core::{Error, ErrorKind, Result, async_trait};

use super::builder::{Agent, Role};
use super::{Consul, ConsulBuilder};
use crate::server::{Cluster, Member, Server, at_once};

/// Three Consul servers of one data centre, and a client agent of theirs that goes on whatever happens to them.
#[derive(Debug)]
pub struct ConsulCluster {
    servers: Cluster<Consul>,
    agent: Consul,
}

impl ConsulCluster {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        let servers: Vec<_> = (0..3).map(|i| Agent::new(format!("s{i}"))).collect();
        let peers: Vec<_> = servers.iter().map(|server| server.lan).collect();
        let starts = servers
            .into_iter()
            .map(|server| (server, Role::Server(peers.clone())))
            .chain([(Agent::new("client".to_owned()), Role::Client(peers.clone()))])
            .map(|(agent, role)| agent.start(role, ConsulBuilder::default()));
        let mut servers = at_once(starts).await?;
        let none = || Error::new(ErrorKind::Unavailable, "no agent was started");
        let agent = servers.pop().ok_or_else(none)?;
        let servers = Cluster::new(servers);
        Ok(Self { servers, agent })
    }

    /// Its servers.
    pub fn servers(&self) -> &Cluster<Consul> {
        &self.servers
    }

    /// The client agent.
    pub fn agent(&self) -> &Consul {
        &self.agent
    }
}

#[async_trait]
impl Member for Consul {
    fn server(&self) -> &dyn Server {
        self.server()
    }

    async fn leads(&self) -> Result<bool> {
        let leader = self.ask("GET", "/v1/status/leader", "").await?;
        let own = self.rpc.map(|rpc| format!("\"{rpc}\""));
        Ok(own.as_deref() == Some(leader.trim()))
    }
}
