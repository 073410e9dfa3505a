//! What the tests share: HTTP servers that can be told what to do, in the memory registry.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Polled, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use registry_core::{
    Built, Candidate, Context, Discovery, Instance, InstanceKey, Load, Memory, Needs, Registration,
    Registry, RoundRobin, Selector,
};
use registry_tower::{BoxError, CallError, RequestBody, Resolve, ResolveConfig, ResponseBody};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tower_service::Service;

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// What a server does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Answers with this code, and `Retry-After` where it says so.
    Answer(u16, Option<&'static str>),
    /// Says that it is elsewhere, with 303.
    Redirect(&'static str),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Break,
    /// Answers `begun`, and never ends.
    Begin,
}

/// One HTTP server on loopback. It answers with its own name and what it was asked.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    told: Arc<Told>,
    task: AbortHandle,
}

struct Told {
    name: String,
    does: Mutex<Does>,
    requests: AtomicUsize,
}

impl Server {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Told {
            name: name.to_owned(),
            does: Mutex::new(Does::Answer(200, None)),
            requests: AtomicUsize::new(0),
        });
        let serve = told.clone();
        let task = tokio::spawn(async move {
            // Ended with the task, so that a killed server closes its connections.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let told = serve.clone();
                let answer = service_fn(move |request| answer(told.clone(), request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                connections.spawn(async move { connection.await.unwrap_or_default() });
            }
        });
        Self {
            address,
            told,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn does(&self, does: Does) {
        *self.told.does.lock().unwrap() = does;
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.told.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(told: Arc<Told>, request: Request<Incoming>) -> Result<Response<Body>, String> {
    told.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?;
    let host = head
        .headers
        .get("host")
        .map_or("", |host| host.to_str().unwrap());
    let text = format!(
        "{} {} {} {host} {}",
        told.name,
        head.method,
        head.uri,
        String::from_utf8_lossy(&body.to_bytes())
    );
    let does = *told.does.lock().unwrap();
    match does {
        Does::Answer(code, retry_after) => {
            let mut response = Response::builder().status(code);
            if let Some(seconds) = retry_after {
                response = response.header("retry-after", seconds);
            }
            Ok(response.body(Full::from(text).boxed()).unwrap())
        }
        Does::Redirect(url) => {
            let response = Response::builder().status(303).header("location", url);
            Ok(response.body(Full::default().boxed()).unwrap())
        }
        Does::Hang => std::future::pending().await,
        Does::Break => Err("on purpose".to_owned()),
        Does::Begin => {
            let (frames, stream) = tokio::sync::mpsc::channel(1);
            let begun = Frame::data(Bytes::from_static(b"begun"));
            frames.send(Ok(begun)).await.unwrap();
            tokio::spawn(async move { frames.closed().await });
            let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
            Ok(Response::new(BodyExt::boxed(StreamBody::new(stream))))
        }
    }
}

/// A registry, and services in it.
pub(crate) struct Fleet {
    pub(crate) memory: Memory,
}

pub(crate) type Http = Resolve<Client<HttpConnector, RequestBody<Full<Bytes>>>>;
pub(crate) type Reply = Response<ResponseBody<Incoming>>;

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            memory: Memory::new(),
        }
    }

    pub(crate) async fn add(&self, service: &str, id: &str, address: SocketAddr) -> InstanceKey {
        let instance = Instance::new(service, address).id(id);
        let registration = Registration::new(instance).unwrap();
        let registration = registration.ttl(Duration::from_secs(3600));
        self.memory.register(&registration).await.unwrap();
        registration.key()
    }

    /// Servers of the service `greeter`, which are registered as `0`, `1`, …
    pub(crate) async fn servers(&self, count: usize) -> Vec<Server> {
        let mut servers = Vec::new();
        for number in 0..count {
            let server = Server::start(&number.to_string()).await;
            self.add("greeter", &number.to_string(), server.address)
                .await;
            servers.push(server);
        }
        servers
    }

    /// An address where nobody listens, registered under this id.
    pub(crate) async fn dead(&self, id: &str) -> tokio::net::TcpSocket {
        // Bound and not listening: refused, and nobody else gets the port.
        let dead = tokio::net::TcpSocket::new_v4().unwrap();
        dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.add("greeter", id, dead.local_addr().unwrap()).await;
        dead
    }

    pub(crate) fn before<S>(&self, client: S, config: ResolveConfig) -> Resolve<S> {
        let discovery = Discovery::new(Arc::new(self.memory.client()));
        Resolve::with_config(client, discovery, config).unwrap()
    }

    pub(crate) fn http(&self, config: ResolveConfig) -> Http {
        let client = Client::builder(TokioExecutor::new()).build_http();
        self.before(client, config)
    }
}

/// A client that does what its closure does, and wants to be asked whether it is ready.
#[derive(Clone)]
pub(crate) struct Acts<F> {
    act: F,
    ready: bool,
}

impl<F> Acts<F> {
    pub(crate) fn new(act: F) -> Self {
        Self { act, ready: false }
    }
}

impl<F, T, B, R> Service<Request<RequestBody<B>>> for Acts<F>
where
    F: Fn(Request<RequestBody<B>>) -> T,
    T: Future<Output = Result<Response<R>, BoxError>>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = T;

    fn poll_ready(&mut self, _context: &mut Polled<'_>) -> Poll<Result<(), BoxError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<B>>) -> T {
        assert!(std::mem::take(&mut self.ready), "nobody asked");
        (self.act)(request)
    }
}

/// In turn, and shows what is known of the calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Arc<Mutex<Vec<Load>>>);

impl Shown {
    /// How many calls are in flight, and how many were reported as successes and as failures.
    pub(crate) fn calls(&self) -> (usize, u32, u32) {
        let loads = self.0.lock().unwrap();
        (
            loads.iter().map(Load::in_flight).sum(),
            loads.iter().map(Load::succeeded).sum(),
            loads.iter().map(Load::failed).sum(),
        )
    }
}

impl Selector for Shown {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        *self.0.lock().unwrap() = candidates.iter().map(Candidate::load).collect();
        RoundRobin::default().build(candidates, context)
    }

    fn needs(&self) -> Needs {
        Needs::default().load()
    }
}

/// In turn, so that each server is called.
pub(crate) fn config() -> ResolveConfig {
    ResolveConfig::default().selector(|_| RoundRobin::default())
}

pub(crate) fn request(method: &str, url: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(url);
    request.body(Full::from(body)).unwrap()
}

pub(crate) async fn get(http: &Http) -> Result<Reply, CallError> {
    let mut http = http.clone();
    http.call(request("GET", "http://greeter/path?q=1", ""))
        .await
}

pub(crate) async fn post(http: &Http, body: &'static str) -> Result<Reply, CallError> {
    let mut http = http.clone();
    http.call(request("POST", "http://greeter/", body)).await
}

pub(crate) async fn text(reply: Reply) -> String {
    let bytes = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Polls until `check` is true; fails after the limit.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}
