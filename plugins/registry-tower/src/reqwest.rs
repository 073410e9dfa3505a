//! `reqwest` as the client.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use reqwest::ResponseBuilderExt;
use reqwest::redirect::Policy;
use tower_service::Service;

use crate::body::RequestBody;
use crate::error::{BoxError, CallError, CallErrorKind};
use crate::key::CallKey;
use crate::layer::{Resolve, send};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A `reqwest` client as a [`Service`] of the types of the crate `http`. It follows no redirects, which lead past the
/// services: they are answers as any other.
#[derive(Clone, Debug)]
pub struct Reqwest(reqwest::Client);

impl Reqwest {
    /// A client with `reqwest`'s defaults, but that gives up after 5 s what it cannot connect to.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn new() -> reqwest::Result<Self> {
        Self::build(reqwest::Client::builder().connect_timeout(CONNECT))
    }

    /// A client as this builder has it, but for redirects. Give it a
    /// [`connect_timeout`](reqwest::ClientBuilder::connect_timeout): without one, a request waits for as long as the system
    /// does for a machine that is gone, and then goes elsewhere. A `timeout` of the client or of a request is one for each
    /// instance, answer and all.
    ///
    /// # Errors
    /// What `reqwest` says when it cannot be set up.
    pub fn build(builder: reqwest::ClientBuilder) -> reqwest::Result<Self> {
        builder.redirect(Policy::none()).build().map(Self)
    }
}

impl Resolve<Reqwest> {
    /// What requests are made with. What it sends by itself goes past the services.
    pub fn client(&self) -> &reqwest::Client {
        &self.client.0
    }

    /// Sends a request to an instance of the service that its URL names. The URL of the answer is that of the instance.
    ///
    /// # Errors
    /// Why there is no answer. What `reqwest` said is the source.
    pub async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, CallError> {
        self.execute_as(None, request).await
    }

    /// As [`execute`](Self::execute), for a request that belongs together with others of this key.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_with(
        &self,
        key: CallKey,
        request: reqwest::Request,
    ) -> Result<reqwest::Response, CallError> {
        self.execute_as(Some(key), request).await
    }

    async fn execute_as(
        &self,
        key: Option<CallKey>,
        request: reqwest::Request,
    ) -> Result<reqwest::Response, CallError> {
        let mut request = Request::<reqwest::Body>::try_from(request).map_err(|error| {
            let text = "the request has no URL that HTTP can send";
            CallError::new(CallErrorKind::Invalid, text).because(error)
        })?;
        if let Some(key) = key {
            request.extensions_mut().insert(key);
        }
        let response = send(self.services.clone(), self.client.clone(), request).await?;
        Ok(response.map(reqwest::Body::wrap).into())
    }
}

impl<B> Service<Request<RequestBody<B>>> for Reqwest
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = Pin<Box<dyn Future<Output = reqwest::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<reqwest::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<B>>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            let response = client.execute(request).await?;
            // The conversion loses it.
            let url = Response::builder().url(response.url().clone()).body(());
            let mut response = Response::from(response);
            if let Ok(url) = url {
                response
                    .extensions_mut()
                    .extend(url.into_parts().0.extensions);
            }
            Ok(response)
        })
    }
}
