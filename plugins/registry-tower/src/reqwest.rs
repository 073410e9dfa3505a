//! `reqwest` as the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use reqwest::ResponseBuilderExt;
use tower_service::Service;

use crate::body::RequestBody;
use crate::error::{BoxError, CallError, CallErrorKind};
use crate::layer::{Resolve, send};

impl Resolve<reqwest::Client> {
    /// Sends a request to an instance of the service that its URL names, in place of [`reqwest::Client::execute`]. The URL
    /// of the answer is that of the instance.
    ///
    /// Redirects lead past the services. Where instances may redirect, take a client that follows none
    /// ([`Policy::none`](reqwest::redirect::Policy::none)): one that follows does not tell whether it could not connect to
    /// the instance or to where that redirects to, and without a body both are taken for the former.
    ///
    /// # Errors
    /// Why there is no answer. What `reqwest` said is the source.
    pub async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, CallError> {
        let request = Request::<reqwest::Body>::try_from(request).map_err(|error| {
            let text = "the request has no URL that HTTP can send";
            CallError::new(CallErrorKind::Invalid, text).because(error)
        })?;
        let client = Client(self.client.clone());
        let response = send(self.services.clone(), client, request).await?;
        Ok(response.map(reqwest::Body::wrap).into())
    }
}

/// Takes and gives the types of the crate `http`.
struct Client(reqwest::Client);

impl<B> Service<Request<RequestBody<B>>> for Client
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
