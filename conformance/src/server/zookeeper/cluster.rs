//! Three members that replicate.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};

use super::builder::Member;
use super::{ZooKeeper, ZooKeeperBuilder};
use crate::fixture::Fault;
use crate::server::{Server, at_once, heal, until, wipe};

/// Three ZooKeeper servers that are one registry, without security.
#[derive(Debug)]
pub struct ZooKeeperEnsemble {
    members: Vec<ZooKeeper>,
}

impl ZooKeeperEnsemble {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn start() -> Result<Self> {
        let members: Vec<_> = (1..=3).map(Member::new).collect();
        let lines: Vec<_> = members.iter().map(Member::line).collect();
        let starts = members
            .into_iter()
            .map(|member| member.start(&lines, ZooKeeperBuilder::default()));
        Ok(Self {
            members: at_once(starts).await?,
        })
    }

    /// Its members, in an order that does not change. One that is killed and restarted alone is ready when a majority
    /// is there.
    pub fn members(&self) -> &[ZooKeeper] {
        &self.members
    }

    /// Which member leads, as that member itself says; waits for up to 30 s until one does.
    ///
    /// # Errors
    /// `Unavailable` when none does by then.
    pub async fn leader(&self) -> Result<usize> {
        until(Duration::from_secs(30), || async {
            for (i, member) in self.members.iter().enumerate() {
                let asked = tokio::time::timeout(Duration::from_secs(1), member.leads());
                if let Ok(Ok(true)) = asked.await {
                    return Ok(i);
                }
            }
            Err(Error::new(ErrorKind::Unavailable, "no member leads"))
        })
        .await
    }

    /// Makes a fault that a cluster can make: those from [`Fault::StopLeader`] to [`Fault::Heal`].
    ///
    /// # Errors
    /// `Unsupported` for another fault; else as [`Server`]'s methods, and as [`leader`](Self::leader).
    pub async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::StopLeader => self.leading().await?.kill().await,
            Fault::PauseLeader => self.leading().await?.pause().await,
            Fault::StopMost => {
                let leader = self.leader().await?;
                self.members[leader].server().kill().await?;
                self.members[(leader + 1) % self.members.len()]
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
        Ok(self.members[self.leader().await?].server())
    }

    fn all(&self) -> Vec<&dyn Server> {
        self.members.iter().map(|member| member.server()).collect()
    }
}
