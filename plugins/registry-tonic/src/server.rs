//! A server that registers when it can be called, and goes in the order in which nobody notices.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use registry_core::{Error, ErrorKind, Registrar, Registration, RegistrationHandle, Result};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a server registers and ends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeConfig {
    /// The gRPC services, such as `greeter.Greeter`, whose health is told beside that of the whole server, which is
    /// told under the empty name. Default: none.
    pub services: Vec<String>,
    /// How long calls that run at the end are given. Those that run longer are no longer waited for, and end with the
    /// runtime. Default 30 s.
    pub finish_within: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            finish_within: Duration::from_secs(30),
        }
    }
}

impl ServeConfig {
    /// Tells the health of this gRPC service too.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.services.push(name.into());
        self
    }

    /// Sets how long calls that run at the end are given.
    pub const fn finish_within(mut self, time: Duration) -> Self {
        self.finish_within = time;
        self
    }
}

/// [`serve_with_config`] with the default configuration.
///
/// # Errors
/// As there.
pub async fn serve_with_registration<L, T, B>(
    router: Router<L>,
    listener: TcpListener,
    registrar: &Registrar,
    registration: T,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()>
where
    T: TryInto<Registration>,
    Error: From<T::Error>,
    L: Layer<Routes>,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Future: Send,
    <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError> + Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let config = ServeConfig::default();
    serve_with_config(router, listener, registrar, registration, shutdown, config).await
}

/// Serves `router` on `listener`, registered as `registration`, until `shutdown` ends.
///
/// The order is this:
///
/// 1. the port is open, and calls are answered; the standard gRPC health service, which is added to the router, says
///    `NOT_SERVING`
/// 2. the instance is registered, and then health is `SERVING`
/// 3. when `shutdown` ends, health is `NOT_SERVING` and the registration `Draining`, until every client can have
///    seen that
/// 4. nobody is accepted any more, and calls that run are finished
/// 5. the instance is deregistered
///
/// The registration names the address that others reach the listener at: see
/// [`Address::advertise`](registry_core::Address::advertise). A future that is dropped before it ends deregisters in
/// the background.
///
/// # Errors
/// As [`Registrar::register`]; why the server ended before it was to; why the instance could not be deregistered,
/// which the registrar then goes on trying. Where the registry cannot be told of the drain the server ends all the same.
///
/// # Panics
/// Where the router has a health service of its own.
pub async fn serve_with_config<L, T, B>(
    router: Router<L>,
    listener: TcpListener,
    registrar: &Registrar,
    registration: T,
    shutdown: impl Future<Output = ()> + Send,
    config: ServeConfig,
) -> Result<()>
where
    T: TryInto<Registration>,
    Error: From<T::Error>,
    L: Layer<Routes>,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Future: Send,
    <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError> + Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (reporter, health_service) = health_reporter();
    let mut health = Health {
        reporter,
        services: config.services,
    };
    health.tell(ServingStatus::NotServing).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = router
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, async {
            let _ = stopped.await;
        });
    let mut server = std::pin::pin!(server);

    // `None` where it was to end before it was registered.
    let handle: Option<RegistrationHandle>;
    {
        let life = async {
            let mut shutdown = std::pin::pin!(shutdown);
            let handle = tokio::select! {
                handle = registrar.register(registration) => handle?,
                () = &mut shutdown => return Ok(None),
            };
            health.tell(ServingStatus::Serving).await;
            shutdown.await;
            health.tell(ServingStatus::NotServing).await;
            if let Err(error) = handle.drain().await {
                tracing::warn!(instance = %handle.key(), %error, "the registry was not told that it drains");
            }
            Ok::<_, Error>(Some(handle))
        };
        tokio::select! {
            ended = &mut server => return Err(early(ended.err())),
            lived = life => handle = lived?,
        }
    }
    // The server takes its end from that, also where it was dropped.
    drop(stop);
    health.end().await;
    let finished = timeout(config.finish_within, server).await;
    if let Some(handle) = handle {
        handle.deregister().await?;
    }
    match finished {
        Ok(Err(error)) => Err(early(Some(error))),
        Ok(Ok(())) => Ok(()),
        Err(_) => {
            tracing::warn!(
                "calls that run longer than {:?} are not waited for",
                config.finish_within
            );
            Ok(())
        }
    }
}

struct Health {
    reporter: HealthReporter,
    services: Vec<String>,
}

impl Health {
    async fn tell(&self, status: ServingStatus) {
        for name in self.names() {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Ends the streams of those who watch, who would keep their connections open for ever.
    async fn end(&mut self) {
        let mut reporter = self.reporter.clone();
        for name in self.names() {
            reporter.clear_service_status(name).await;
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once("").chain(self.services.iter().map(String::as_str))
    }
}

fn early(error: Option<tonic::transport::Error>) -> Error {
    let ended = Error::new(
        ErrorKind::Unavailable,
        "the gRPC server ended before it was to",
    );
    match error {
        Some(error) => ended.because(error),
        None => ended,
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}
