//! A tiny HTTP server, as a program would have without any registry.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long open requests may take to finish.
const GRACE: Duration = Duration::from_secs(2);

/// Answers `GET /<guest>` with a greeting in its own name.
#[derive(Debug)]
pub struct Greeter {
    name: String,
    listener: TcpListener,
}

impl Greeter {
    /// Opens the socket; port 0 takes a free one.
    ///
    /// # Errors
    /// Why the socket cannot be opened.
    pub async fn bind(name: &str, host: IpAddr, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((host, port)).await?;
        Ok(Self {
            name: name.to_owned(),
            listener,
        })
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` ends and the open requests are finished. Returns how many it answered.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> usize {
        let mut stop = pin!(stop);
        let answered = Arc::new(AtomicUsize::new(0));
        let mut connections = JoinSet::new();
        let graceful = GracefulShutdown::new();
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            let Ok((stream, _)) = stream else {
                // Out of file descriptors, for one: some may be free soon.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (name, counter) = (self.name.clone(), answered.clone());
            let answer = service_fn(move |request: Request<Incoming>| {
                let guest = request.uri().path().trim_start_matches('/');
                let text = format!("hello {guest}, this is {name}");
                counter.fetch_add(1, Ordering::Relaxed);
                async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text))) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            connections.spawn(graceful.watch(connection));
        }
        drop(self.listener);
        // Whoever takes longer is cut off with the task set.
        let _ = timeout(GRACE, graceful.shutdown()).await;
        answered.load(Ordering::Relaxed)
    }
}
