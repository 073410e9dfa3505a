//! Plain HTTP over a service registry, for programs on [tower], [hyper] and [reqwest].
//!
//! [`Resolve`] stands before a client, where [`new`](Resolve::new) or a [`ResolveLayer`] puts it, and sends each request to
//! an instance of the service that its URL names: the host of `http://greeter/path` is a service, and which instance is
//! called is decided anew for each request.
//!
//! With `reqwest` 0.13, and the feature of that name:
//!
//! ```no_run
//! # #[cfg(feature = "reqwest")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use registry_core::{Discovery, Memory};
//! use registry_tower::{Reqwest, Resolve};
//!
//! let discovery = Discovery::new(std::sync::Arc::new(Memory::new()));
//! let services = Resolve::new(Reqwest::new()?, discovery);
//! let request = services.client().get("http://greeter/path").build()?;
//! let text = services.execute(request).await?.text().await?;
//! # Ok(()) }
//! ```
//!
//! With any other client that is a [`Service`](tower_service::Service) of the types of the crate `http`. It is given
//! requests with a [`RequestBody`] around their own: this one is a `Client<HttpConnector, RequestBody<Full<Bytes>>>`.
//!
//! ```no_run
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::client::legacy::Client;
//! use hyper_util::rt::TokioExecutor;
//! use registry_core::{Discovery, Memory};
//! use registry_tower::Resolve;
//! use tower_service::Service;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let discovery = Discovery::new(std::sync::Arc::new(Memory::new()));
//! let client = Client::builder(TokioExecutor::new()).build_http();
//! let mut services = Resolve::new(client, discovery);
//! let request = Request::get("http://greeter/path").body(Full::<Bytes>::default())?;
//! let response = services.call(request).await?;
//! # Ok(()) }
//! ```
//!
//! # Which service
//!
//! The host of the URL is its name, letter by letter. A URL with a port or a user is refused before anything is sent.
//! `reqwest` makes the letters of hosts small, leaves out the port 80 and makes a header of the user; the types of the
//! crate `http` keep them. All requests go to services; for other hosts use the client itself.
//!
//! A service is followed from its first request on, see [`services`](ResolveConfig::services).
//!
//! # Where a request goes
//!
//! To whom the [selector](ResolveConfig::selector) of the service picks, at its first address: that is the host of the
//! request, its `Host` header unless it has one, and what a certificate must be made out to. Selectors that keep requests
//! together find what they have in common as a [`CallKey`].
//!
//! A request that no instance has seen, because it could not be connected to or its connection had ended, goes to
//! another one. One that an instance may have seen is sent again only where that [is safe](ResolveConfig::idempotent),
//! within a [budget](ResolveConfig::retry_budget), at most [so often](ResolveConfig::attempts): when the connection
//! breaks, when the instance is [late](ResolveConfig::attempt_timeout), and when it answers 502, 503 or 504. What was
//! answered last is what the caller gets. The client must not follow redirects: it does not tell where to it could not
//! connect, and what one instance has had would go to the next.
//!
//! How it went is reported when the answer has ended: 500, 502, 503, 504, 429 and a broken connection are failures of the
//! instance, with its `Retry-After` in seconds where it says one; every other answer is a success; what the caller
//! gives up says nothing.
//!
//! [tower]: https://docs.rs/tower
//! [hyper]: https://docs.rs/hyper
//! [reqwest]: https://docs.rs/reqwest

mod body;
mod call;
mod config;
mod error;
mod key;
mod layer;
#[cfg(feature = "reqwest")]
mod reqwest;
mod response;
mod services;

pub use body::{Replay, RequestBody};
pub use call::authority;
pub use config::ResolveConfig;
pub use error::{BoxError, CallError, CallErrorKind};
pub use key::CallKey;
pub use layer::{Resolve, ResolveLayer};
#[cfg(feature = "reqwest")]
pub use reqwest::Reqwest;
pub use response::ResponseBody;
