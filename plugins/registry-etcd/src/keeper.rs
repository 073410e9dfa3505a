//! Keeping leases alive, all on one stream.

use std::collections::HashSet;

use etcd_client::{Error as EtcdError, LeaseKeepAliveStream, LeaseKeeper};
use registry_core::{Error, Result};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use crate::client::{Connection, Link};
use crate::error::{self, Remedy};

/// How many requests are on their way at once; etcd-client's channel takes 100.
const ABREAST: usize = 64;

/// One keep-alive stream for all leases.
///
/// etcd-client binds a keeper, and with it a stream, to one lease. The request that the keeper sends carries the
/// keeper's id, which the feature `pub-response-field` lets us set.
#[derive(Default)]
pub(crate) struct Keeper {
    stream: Mutex<Option<Stream>>,
}

struct Stream {
    link: Link,
    requests: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Keeper {
    /// Gives these leases their full TTL anew, and says which of them the server still has.
    pub(crate) async fn keep(
        &self,
        connection: &Connection,
        leases: &[i64],
    ) -> Result<HashSet<i64>> {
        let mut stream = self.stream.lock().await;
        let mut alive = HashSet::new();
        for leases in leases.chunks(ABREAST) {
            // A stream that broke long ago shows it only now; that says nothing about the next one.
            let old = Self::is_usable(&mut stream, connection).await?;
            let kept = Self::exchange(&mut stream, connection, leases, &mut alive).await;
            if let (true, Err(_)) = (old, &kept) {
                Self::exchange(&mut stream, connection, leases, &mut alive).await?;
            } else {
                kept?;
            }
        }
        Ok(alive)
    }

    /// Ends the stream.
    pub(crate) async fn close(&self) {
        *self.stream.lock().await = None;
    }

    /// Whether there is a stream on the connection in use.
    async fn is_usable(
        stream: &mut MutexGuard<'_, Option<Stream>>,
        connection: &Connection,
    ) -> Result<bool> {
        if stream.is_some() {
            let link = connection.link().await.map_err(|(_, error)| error)?;
            stream.take_if(|stream| stream.link.serial != link.serial);
        }
        Ok(stream.is_some())
    }

    async fn exchange(
        stream: &mut MutexGuard<'_, Option<Stream>>,
        connection: &Connection,
        leases: &[i64],
        alive: &mut HashSet<i64>,
    ) -> Result<()> {
        let mut leases = leases;
        while stream.is_none() {
            // The stream begins with the first lease, and there is none where that is gone.
            let Some((first, rest)) = leases.split_first() else {
                return Ok(());
            };
            leases = rest;
            **stream = open(connection, *first).await?;
            if stream.is_some() {
                alive.insert(*first);
            }
        }
        let Some(open) = stream.as_mut() else {
            return Ok(());
        };
        let time = connection.config().timeout;
        let failure = match timeout(time, open.exchange(leases, alive)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error::read(error, &open.link.endpoint).1,
            Err(_) => error::late(&open.link.endpoint, time),
        };
        connection.discard(&open.link);
        **stream = None;
        Err(failure)
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

/// A stream that has kept its first lease alive; `None` where that is gone.
async fn open(connection: &Connection, lease: i64) -> Result<Option<Stream>> {
    let opened = connection.call(|link| async move {
        let (requests, answers) = link.client.lease_client().keep_alive(lease).await?;
        Ok(Stream {
            link,
            requests,
            answers,
        })
    });
    match opened.await {
        Ok(stream) => Ok(Some(stream)),
        Err((Remedy::LeaseGone, _)) => Ok(None),
        Err((_, error)) => Err::<_, Error>(error),
    }
}

impl Stream {
    async fn exchange(
        &mut self,
        leases: &[i64],
        alive: &mut HashSet<i64>,
    ) -> Result<(), EtcdError> {
        for lease in leases {
            self.requests.id = *lease;
            self.requests.keep_alive().await?;
        }
        let mut waiting: HashSet<_> = leases.iter().copied().collect();
        while !waiting.is_empty() {
            let Some(answer) = self.answers.message().await? else {
                let why = "the stream ended".to_owned();
                return Err(EtcdError::LeaseKeepAliveError(why));
            };
            // A call that was dropped has left its answers here; those say the same.
            if waiting.remove(&answer.id()) && answer.ttl() > 0 {
                alive.insert(answer.id());
            }
        }
        Ok(())
    }
}
