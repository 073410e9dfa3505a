//! Several servers that replicate, of which one leads.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Result, async_trait};
use tokio::time::timeout;

use super::{Server, heal, until, wipe};
use crate::fixture::Fault;

/// A server that may be one of several.
#[async_trait]
pub trait Member: Send + Sync {
    /// The server, to be made to fail.
    fn server(&self) -> &dyn Server;

    /// Whether it leads, as it says itself.
    ///
    /// # Errors
    /// When it does not answer.
    async fn leads(&self) -> Result<bool>;
}

/// Servers that are one registry, without security.
#[derive(Debug)]
pub struct Cluster<M> {
    members: Vec<M>,
}

impl<M: Member> Cluster<M> {
    pub(super) fn new(members: Vec<M>) -> Self {
        Self { members }
    }

    /// Its members, in an order that does not change. One that is killed and restarted alone is ready when a majority
    /// is there.
    pub fn members(&self) -> &[M] {
        &self.members
    }

    /// Which member leads; waits for up to 30 s until one does.
    ///
    /// # Errors
    /// `Unavailable` when none does by then.
    pub async fn leader(&self) -> Result<usize> {
        until(Duration::from_secs(30), || async {
            for (i, member) in self.members.iter().enumerate() {
                let asked = timeout(Duration::from_secs(2), member.leads());
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
            Fault::StopLeader => self.nth(0).await?.kill().await,
            Fault::StopFollower(number) => self.nth(1 + number).await?.kill().await,
            Fault::PauseLeader => self.nth(0).await?.pause().await,
            Fault::StopMost => {
                let most = [self.nth(0).await?, self.nth(1).await?];
                for server in most {
                    server.kill().await?;
                }
                Ok(())
            }
            Fault::WipeMembers => wipe(&self.all()).await,
            Fault::Heal => heal(&self.all()).await,
            other => Err(other.unsupported()),
        }
    }

    /// The leader, or who comes so many places after it.
    async fn nth(&self, after: usize) -> Result<&dyn Server> {
        let member = (self.leader().await? + after) % self.members.len();
        Ok(self.members[member].server())
    }

    fn all(&self) -> Vec<&dyn Server> {
        self.members.iter().map(Member::server).collect()
    }

    /// The last lines that its members wrote.
    pub fn log(&self) -> String {
        let logs: Vec<_> = self.all().iter().map(|server| server.log()).collect();
        logs.join("\n")
    }
}
