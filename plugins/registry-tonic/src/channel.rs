//! What generated clients call.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use registry_core::{Balancer, Result};
use tokio::time::timeout_at;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::call::Call;
use crate::config::ChannelConfig;
use crate::deadline;
use crate::pool::Pool;

/// A gRPC channel to all instances of a service, which generated clients take as they take tonic's own. Cheap to
/// clone; clones share their connections.
///
/// It is always ready; what there is to wait for is waited for in a call, up to the call's deadline. Every error is a
/// [`Status`] that says what happened, to which service and instance, and what to do.
///
/// | Status | When |
/// | --- | --- |
/// | `UNAVAILABLE` | nobody may be called, nobody can be connected to, or the connection broke while the instance had the call |
/// | `DEADLINE_EXCEEDED` | the call's deadline, or [`ChannelConfig::timeout`], is over |
///
/// All others are the instance's own.
#[derive(Clone)]
pub struct Channel {
    pool: Arc<Pool>,
}

/// A channel to what this balancer picks among, with the default configuration.
///
/// # Panics
/// Outside of a Tokio runtime: it starts its tasks.
pub fn channel(balancer: Balancer) -> Channel {
    Channel::new(balancer)
}

impl Channel {
    /// A channel with the default configuration. It begins to connect at once, in the background.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: it starts its tasks.
    pub fn new(balancer: Balancer) -> Self {
        Self::of(balancer, ChannelConfig::default())
    }

    /// A channel with this configuration.
    ///
    /// # Errors
    /// `Config` for a time of 0, a number of attempts outside of 1 to 8, a server name that is none, and files of the
    /// TLS configuration that cannot be read.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: it starts its tasks.
    pub fn with_config(balancer: Balancer, config: ChannelConfig) -> Result<Self> {
        config.check()?;
        Ok(Self::of(balancer, config))
    }

    fn of(balancer: Balancer, config: ChannelConfig) -> Self {
        let pool = Arc::new(Pool::new(balancer, config));
        Self { pool }
    }

    /// What it picks with.
    pub fn balancer(&self) -> &Balancer {
        self.pool.balancer()
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let pool = self.pool.clone();
        Box::pin(async move {
            let deadline = deadline::of(request.headers(), pool.config().timeout);
            let mut call = Call::new(&pool, request, deadline);
            let Some(deadline) = deadline else {
                return call.run().await;
            };
            let answer = timeout_at(deadline, call.run()).await;
            answer.unwrap_or_else(|_| Err(call.late()))
        })
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("service", self.balancer().view().service())
            .finish_non_exhaustive()
    }
}
