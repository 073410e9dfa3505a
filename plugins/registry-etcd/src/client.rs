//! One connection at a time, to whichever endpoint works.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error as EtcdError, Identity, TlsOptions};
use registry_core::{Error, Result};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::config::EtcdConfig;
use crate::error::{self, Remedy};

/// etcd closes connections that ping more often than every 5 s (`GRPCKeepAliveMinTime`).
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A connection to one endpoint.
#[derive(Clone)]
pub(crate) struct Link {
    /// A client is some kilobytes long; each call clones the part that it needs.
    pub(crate) client: Arc<Client>,
    pub(crate) endpoint: String,
    /// Tells connections apart, also two to the same endpoint.
    pub(crate) serial: u64,
}

/// The connection in use, and the endpoints to choose from.
///
/// Each endpoint has a `Client` of its own, since the one that etcd-client balances over several does not leave a dead
/// one (etcdv3/etcd-client#39): with one of two dead, a third of all calls fails.
pub(crate) struct Connection {
    config: EtcdConfig,
    state: Mutex<State>,
    /// Who connects, does so alone.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    /// The endpoint to connect to next.
    next: usize,
    serials: u64,
}

impl Connection {
    pub(crate) fn new(config: EtcdConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> &EtcdConfig {
        &self.config
    }

    /// Makes one call; where an endpoint fails, the next one is asked, each of them once. `op` may be done twice. The
    /// error comes with what to do about it.
    pub(crate) async fn call<T, F>(
        &self,
        op: impl Fn(Link) -> F + Send + Sync,
    ) -> Result<T, (Remedy, Error)>
    where
        F: Future<Output = Result<T, EtcdError>> + Send,
    {
        let mut authenticated = false;
        let mut tries = self.config.endpoints.len();
        loop {
            let link = match self.link().await {
                Ok(link) => link,
                Err((Remedy::Rotate, _)) if tries > 1 => {
                    tries -= 1;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let (remedy, error) = match timeout(self.config.timeout, op(link.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error::read(error, &link.endpoint),
                Err(_) => (
                    Remedy::Rotate,
                    error::late(&link.endpoint, self.config.timeout),
                ),
            };
            match remedy {
                Remedy::Rotate => {
                    self.discard(&link);
                    tries -= 1;
                    if tries == 0 {
                        return Err((remedy, error));
                    }
                }
                remedy if !authenticated && self.can_authenticate(remedy) => {
                    authenticated = true;
                    self.authenticate(remedy, &link).await?;
                }
                _ => return Err((remedy, error)),
            }
        }
    }

    /// Whether to authenticate anew may help.
    pub(crate) fn can_authenticate(&self, remedy: Remedy) -> bool {
        self.config.user.is_some() && remedy.concerns_user()
    }

    /// Gets a new token, once for all that hold this link. A stream keeps the token that it began with: from here on the
    /// connection has another serial, and new watches a new stream. Where the cluster has begun or ceased to ask for
    /// users, the link is left: whether with a user or without one is decided when it connects.
    ///
    /// etcd-client does so by itself only where a token has expired, not where the users changed ("revision of auth
    /// store is old").
    pub(crate) async fn authenticate(
        &self,
        remedy: Remedy,
        link: &Link,
    ) -> Result<(), (Remedy, Error)> {
        let _alone = self.alone(&link.endpoint).await?;
        if self
            .current()
            .is_none_or(|current| current.serial != link.serial)
        {
            return Ok(());
        }
        if remedy != Remedy::Reauthenticate {
            // The endpoint is as good as before.
            self.close();
            return Ok(());
        }
        match timeout(self.config.timeout, link.client.refresh_token()).await {
            Ok(Ok(())) => {
                let mut state = self.state();
                state.serials += 1;
                let serial = state.serials;
                if let Some(link) = &mut state.link {
                    link.serial = serial;
                }
                Ok(())
            }
            Ok(Err(error)) => match error::read(error, &link.endpoint) {
                (Remedy::NoUser, _) => {
                    self.close();
                    Ok(())
                }
                failure => Err(failure),
            },
            Err(_) => Err((
                Remedy::Rotate,
                error::late(&link.endpoint, self.config.timeout),
            )),
        }
    }

    /// The connection in use, or a new one to the next endpoint.
    pub(crate) async fn link(&self) -> Result<Link, (Remedy, Error)> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let _alone = self.alone(&self.next()).await?;
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let endpoint = self.next();
        match self.connect(&endpoint).await {
            Ok(client) => {
                let mut state = self.state();
                state.serials += 1;
                let link = Link {
                    client: Arc::new(client),
                    endpoint,
                    serial: state.serials,
                };
                state.link = Some(link.clone());
                Ok(link)
            }
            Err((remedy, error)) => {
                if remedy == Remedy::Rotate {
                    self.state().next += 1;
                }
                Err((remedy, error))
            }
        }
    }

    /// Leaves a connection that failed.
    pub(crate) fn discard(&self, failed: &Link) {
        let mut state = self.state();
        if state
            .link
            .as_ref()
            .is_some_and(|link| link.serial == failed.serial)
        {
            state.link = None;
            state.next += 1;
        }
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        self.state().link = None;
    }

    /// Waits until nobody else connects, no longer than for one call.
    async fn alone(
        &self,
        endpoint: &str,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, (Remedy, Error)> {
        let time = self.config.timeout;
        let turn = timeout(time, self.connecting.lock()).await;
        turn.map_err(|_| (Remedy::Rotate, error::late(endpoint, time)))
    }

    /// The endpoint to connect to next.
    fn next(&self) -> String {
        let endpoints = &self.config.endpoints;
        endpoints[self.state().next % endpoints.len()].clone()
    }

    fn current(&self) -> Option<Link> {
        self.state().link.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, endpoint: &str) -> Result<Client, (Remedy, Error)> {
        let options = self.options().map_err(|error| (Remedy::None, error))?;
        let user = self.config.user.as_ref();
        let known = match user {
            Some((name, password)) => options.clone().with_user(name, password.expose_secret()),
            None => options.clone(),
        };
        match self.open(endpoint, known).await {
            // As etcd's own client does: a cluster that asks for no user takes any.
            Err((Remedy::NoUser, _)) => self.open(endpoint, options).await,
            opened => opened,
        }
    }

    /// Asks the endpoint only where there is a user to authenticate; else the first call connects.
    async fn open(
        &self,
        endpoint: &str,
        options: ConnectOptions,
    ) -> Result<Client, (Remedy, Error)> {
        let connecting = Client::connect([endpoint], Some(options));
        match timeout(self.config.timeout, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(error::read(error, endpoint)),
            Err(_) => Err((Remedy::Rotate, error::late(endpoint, self.config.timeout))),
        }
    }

    fn options(&self) -> Result<ConnectOptions> {
        let options = ConnectOptions::new()
            .with_connect_timeout(self.config.timeout)
            .with_keep_alive(PING.0, PING.1)
            .with_require_leader(true);
        let Some(tls) = &self.config.tls else {
            return Ok(options);
        };
        let mut with = match tls.read_ca()? {
            Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(ca)),
            None => TlsOptions::new().with_native_roots(),
        };
        if let Some((certificate, key)) = tls.read_identity()? {
            with = with.identity(Identity::from_pem(certificate, key));
        }
        Ok(options.with_tls(with))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
