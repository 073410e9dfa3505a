//! The service that stands before a client.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use registry_core::{Discovery, Result};
use tokio::time::timeout_at;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::RequestBody;
use crate::call::{Call, after};
use crate::config::ResolveConfig;
use crate::error::{BoxError, CallError, CallErrorKind};
use crate::response::ResponseBody;
use crate::services::{Services, name_of};

/// Puts a [`Resolve`] before a client. All that one layer makes follow the same services.
#[derive(Clone, Debug)]
pub struct ResolveLayer {
    services: Arc<Services>,
}

impl ResolveLayer {
    /// A layer with the default configuration.
    pub fn new(discovery: Discovery) -> Self {
        Self::of(discovery, ResolveConfig::default())
    }

    /// A layer with this configuration.
    ///
    /// # Errors
    /// `Config` for a time of 0, a number of attempts outside of 1 to 8, a part of the requests outside of 0 to 10, and no
    /// service to follow.
    pub fn with_config(discovery: Discovery, config: ResolveConfig) -> Result<Self> {
        config.check()?;
        Ok(Self::of(discovery, config))
    }

    fn of(discovery: Discovery, config: ResolveConfig) -> Self {
        let services = Arc::new(Services::new(discovery, config));
        Self { services }
    }
}

impl<S> Layer<S> for ResolveLayer {
    type Service = Resolve<S>;

    fn layer(&self, client: S) -> Resolve<S> {
        Resolve {
            client,
            services: self.services.clone(),
        }
    }
}

/// Sends each request to an instance of the service that its URL names, with the client inside. Cheap to clone where the
/// client is; clones follow the same services.
///
/// It is always ready; the client is waited for in each request.
#[derive(Clone)]
pub struct Resolve<S> {
    pub(crate) client: S,
    pub(crate) services: Arc<Services>,
}

impl<S> Resolve<S> {
    /// Before this client, with the default configuration.
    pub fn new(client: S, discovery: Discovery) -> Self {
        ResolveLayer::new(discovery).layer(client)
    }

    /// Before this client, with this configuration.
    ///
    /// # Errors
    /// As [`ResolveLayer::with_config`].
    pub fn with_config(client: S, discovery: Discovery, config: ResolveConfig) -> Result<Self> {
        Ok(ResolveLayer::with_config(discovery, config)?.layer(client))
    }
}

impl<S, B, R> Service<Request<B>> for Resolve<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    R: Body + Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(send(self.services.clone(), self.client.clone(), request))
    }
}

/// Sends one request.
pub(crate) async fn send<S, B, R>(
    services: Arc<Services>,
    client: S,
    request: Request<B>,
) -> Result<Response<ResponseBody<R>>, CallError>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    let name = name_of(request.uri())?;
    let config = &services.config;
    let deadline = config.timeout.map(after);
    let service = services.of(&name);
    let service = match deadline {
        None => service.await?,
        Some(deadline) => timeout_at(deadline, service).await.unwrap_or_else(|_| {
            let text = format!("the registry did not tell of service {name} in time");
            Err(CallError::new(CallErrorKind::Registry, text))
        })?,
    };
    let call = Call::new(client, config, &service, request, deadline);
    call.run().await
}

impl<S> fmt::Debug for Resolve<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolve")
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}
