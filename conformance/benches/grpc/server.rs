//! A gRPC server that can be killed.

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic::transport::server::TcpIncoming;
use tower_service::Service;

use crate::Failure;

/// The standard health service, in a runtime of its own.
pub(crate) struct Server {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Each call takes so long.
    pub(crate) fn start(time: Duration) -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (_, health) = tonic_health::server::health_reporter();
            let slow = tower_layer::layer_fn(move |routes| Slow { routes, time });
            let served = tonic::transport::Server::builder()
                .layer(slow)
                .add_service(health)
                .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
            served.await.map_err(Failure::from)
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Takes its time.
#[derive(Clone)]
struct Slow {
    routes: Routes,
    time: Duration,
}

impl Service<http::Request<Body>> for Slow {
    type Response = <Routes as Service<http::Request<Body>>>::Response;
    type Error = <Routes as Service<http::Request<Body>>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut routes, time) = (self.routes.clone(), self.time);
        Box::pin(async move {
            if !time.is_zero() {
                sleep(time).await;
            }
            routes.call(request).await
        })
    }
}
