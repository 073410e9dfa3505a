//! Three members that replicate.

use registry_core::{Result, async_trait};

use super::builder::Member as Start;
use super::{ZooKeeper, ZooKeeperBuilder};
use crate::server::{Cluster, Member, Server, at_once};

/// Three ZooKeeper servers that are one registry.
pub type ZooKeeperEnsemble = Cluster<ZooKeeper>;

impl ZooKeeperEnsemble {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        let members: Vec<_> = (1..=3).map(Start::new).collect();
        let lines: Vec<_> = members.iter().map(Start::line).collect();
        let starts = members
            .into_iter()
            .map(|member| member.start(&lines, ZooKeeperBuilder::default()));
        Ok(Self::new(at_once(starts).await?))
    }
}

#[async_trait]
impl Member for ZooKeeper {
    fn server(&self) -> &dyn Server {
        self.server()
    }

    async fn leads(&self) -> Result<bool> {
        Ok(self.ask("srvr").await?.contains("Mode: leader"))
    }
}
