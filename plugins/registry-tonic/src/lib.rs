//! gRPC over a service registry, for programs on [tonic].
//!
//! A [`Channel`] is what generated clients take in place of tonic's own. It follows a service: one HTTP/2 connection to
//! each instance, made ahead of calls and again when it ends; each call goes where the [`Balancer`] says.
//!
//! ```no_run
//! use registry_core::{Discovery, Memory, PeakEwma};
//! use registry_tonic::channel;
//! use tonic_health::pb::HealthCheckRequest;
//! use tonic_health::pb::health_client::HealthClient;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let discovery = Discovery::new(std::sync::Arc::new(Memory::new()));
//! let greeter = discovery.balancer("greeter", PeakEwma::default()).await?;
//! let mut client = HealthClient::new(channel(greeter)); // or any generated client
//! let reply = client.check(HealthCheckRequest::default()).await?;
//! # Ok(()) }
//! ```
//!
//! A server registers when its port is open, and goes in the order in which no call is lost:
//!
//! ```no_run
//! use registry_core::{Address, Instance, Registrar};
//! use registry_tonic::serve_with_registration;
//! use tokio::net::TcpListener;
//! use tonic::service::RoutesBuilder;
//! use tonic::transport::Server;
//!
//! # async fn example(registrar: Registrar) -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("0.0.0.0:0").await?;
//! let greeter = Instance::new("greeter", Address::advertise(listener.local_addr()?)?);
//! let router = Server::builder().add_routes(RoutesBuilder::default().routes()); // add_service(GreeterServer::new(…))
//! let interrupted = async { let _ = tokio::signal::ctrl_c().await; };
//! serve_with_registration(router, listener, &registrar, greeter, interrupted).await?;
//! # Ok(()) }
//! ```
//!
//! # Where a call goes
//!
//! To whom the balancer picks, if it is connected to; else to the next one. Who cannot be connected to is told to the
//! balancer before a call meets it. Where somebody is being connected to and nobody else is there, the call waits, at
//! most for [`connect_timeout`](ChannelConfig::connect_timeout). Where there is nobody it fails at once, or waits
//! with [`wait_for_ready`](ChannelConfig::wait_for_ready). Selectors that keep calls together find what they have in
//! common as a [`CallKey`].
//!
//! An instance may also be [asked for its health](ChannelConfig::health), over the same connection: who does not say
//! that it serves, or does not answer, is not called.
//!
//! A call that no instance has seen goes to another one: it was not sent, or the peer says that it has not looked at it.
//! One that an instance may have seen is sent again only where that
//! [is said to be safe](ChannelConfig::idempotent), within a [budget](ChannelConfig::retry_budget), at most
//! [so often](ChannelConfig::attempts), and not against `grpc-retry-pushback-ms`. Once headers of an answer have come,
//! the call stays where it is.
//!
//! How it went is reported when the answer has ended: `UNAVAILABLE`, `RESOURCE_EXHAUSTED`, `INTERNAL`, `UNKNOWN`,
//! `DEADLINE_EXCEEDED`, `DATA_LOSS` and a broken connection are failures of the instance, every other status is a
//! success; what the caller gives up says nothing.
//!
//! # Limits
//!
//! - An instance is called at its first address, whatever further ones it has.
//! - All calls to an instance share one connection, and wait where the peer's limit of concurrent streams is reached.

mod call;
mod channel;
mod config;
mod connection;
mod deadline;
mod greeting;
mod health;
mod pool;
mod response;
mod retry;
mod server;
mod tls;

pub use channel::{Channel, channel};
pub use config::ChannelConfig;
#[cfg(doc)]
use registry_core::Balancer;
pub use registry_tower::CallKey;
pub use server::{ServeConfig, serve_with_config, serve_with_registration};
