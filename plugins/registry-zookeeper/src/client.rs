//! One connection of the client library, whose task is ours to end.

use std::future::Future;
use std::time::Duration;

use registry_core::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zookeeper_client as zk;

use crate::error;

/// How long a call may take, connecting included. The registrar gives an attempt 5 s.
pub(crate) const PATIENCE: Duration = Duration::from_millis(4500);

/// A connection within a session. Another one may go on with the same session after it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: zk::Client,
    pub(crate) session: i64,
    /// What the server made of the session timeout.
    pub(crate) ttl: Duration,
    down: watch::Sender<Option<Error>>,
}

impl Conn {
    pub(crate) fn new(client: zk::Client) -> Self {
        Self {
            session: client.session_id().0,
            ttl: client.session_timeout(),
            down: watch::Sender::new(None),
            client,
        }
    }

    /// What a call comes to: its answer, or an error when the connection ends or the time is up first.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, zk::Error>> + Send,
    ) -> Result<T> {
        self.attempt(what, call)
            .await?
            .map_err(|error| error::call(what, error))
    }

    /// As [`call`](Self::call), for a caller who understands some of the server's own errors.
    pub(crate) async fn attempt<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, zk::Error>> + Send,
    ) -> Result<Result<T, zk::Error>> {
        tokio::select! {
            biased;
            error = self.ended() => Err(error),
            answer = timeout(PATIENCE, call) => answer.map_err(|_| error::late(what)),
        }
    }

    /// Resolves with the reason when the connection has ended.
    pub(crate) async fn ended(&self) -> Error {
        let mut down = self.down.subscribe();
        // The sender lives in this.
        let ended = down.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|error| error.clone())
            .unwrap_or_else(error::closed)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.borrow().is_some()
    }

    /// Ends every call and watch. Before the library's task ends: its watches panic when that goes first.
    pub(crate) fn end(&self, error: Error) {
        self.down.send_if_modified(|down| {
            let first = down.is_none();
            down.get_or_insert(error);
            first
        });
    }
}

/// The library's task behind a [`Conn`].
#[derive(Debug)]
pub(crate) struct Serving(pub(crate) JoinHandle<()>);

impl Serving {
    /// Waits until it ends by itself, as it does after the last [`Conn`] was dropped and the server said goodbye.
    pub(crate) async fn over(&mut self, limit: Duration) {
        // How it ended does not matter, nor that it did not in time: dropping this ends it.
        let _ = timeout(limit, &mut self.0).await;
    }

    /// Resolves when it has ended, for whatever reason.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}
