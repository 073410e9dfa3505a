//! Three members that replicate.

use registry_core::{Result, async_trait};

use super::builder::Member as Start;
use super::{Etcd, EtcdBuilder, field};
use crate::server::{Cluster, Member, Server, at_once};

/// Three etcd servers that are one registry.
pub type EtcdCluster = Cluster<Etcd>;

impl EtcdCluster {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        let members: Vec<_> = (0..3).map(|i| Start::new(format!("m{i}"))).collect();
        let peers: Vec<_> = members.iter().map(Start::peer).collect();
        let peers = peers.join(",");
        let starts = members
            .into_iter()
            .map(|member| member.start(&peers, EtcdBuilder::default()));
        Ok(Self::new(at_once(starts).await?))
    }
}

#[async_trait]
impl Member for Etcd {
    fn server(&self) -> &dyn Server {
        self.server()
    }

    async fn leads(&self) -> Result<bool> {
        let status = [
            "endpoint",
            "status",
            "--write-out",
            "fields",
            "--command-timeout=1s",
        ];
        let said = self.etcdctl(&status).await?;
        let id = field(&said, "MemberID");
        Ok(id.is_some() && id == field(&said, "Leader"))
    }
}
