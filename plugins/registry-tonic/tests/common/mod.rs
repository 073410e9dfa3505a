//! What the tests share: servers that can be killed, in the memory registry.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use registry_core::{
    Balancer, Discovery, Instance, InstanceKey, Memory, Registration, Registry, RoundRobin,
};
use registry_tonic::{Channel, ChannelConfig};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::ServerTlsConfig;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";

pub(crate) type Client = HealthClient<Channel>;

/// Polls until `check` is true; fails after the limit.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// What a server does with a call.
pub(crate) type Answer = fn() -> Result<(), Status>;

/// One gRPC server on loopback, in a thread of its own that can be killed.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    told: Arc<Told>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Told {
    calls: AtomicUsize,
    /// Connections that were accepted.
    accepted: AtomicUsize,
    running: AtomicUsize,
    /// Where calls came from.
    callers: Mutex<HashSet<SocketAddr>>,
    takes: Mutex<Option<Duration>>,
    answer: Mutex<Answer>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(None, "127.0.0.1:0")
    }

    pub(crate) fn with(tls: Option<ServerTlsConfig>, bind: &str) -> Self {
        let told = Arc::new(Told {
            calls: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            callers: Mutex::default(),
            takes: Mutex::new(Some(Duration::ZERO)),
            answer: Mutex::new(|| Ok(())),
        });
        let (kill, killed) = oneshot::channel();
        let (tell, bound) = std::sync::mpsc::channel();
        let service = Service(told.clone());
        let counted = told.clone();
        let bind = bind.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(bind).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let incoming = tokio_stream::StreamExt::map(
                    TcpListenerStream::new(listener),
                    move |accepted| {
                        counted.accepted.fetch_add(1, Ordering::Relaxed);
                        accepted
                    },
                );
                let mut builder = tonic::transport::Server::builder();
                if let Some(tls) = tls {
                    builder = builder.tls_config(tls).unwrap();
                }
                let server = builder.add_service(HealthServer::new(service));
                tokio::select! {
                    ended = server.serve_with_incoming(incoming) => ended.unwrap(),
                    _ = killed => {}
                }
            });
        });
        Self {
            address: bound.recv().unwrap(),
            told,
            kill: Some(kill),
            thread: Some(thread),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.told.calls.load(Ordering::Relaxed)
    }

    /// Over how many connections calls came.
    pub(crate) fn connections(&self) -> usize {
        self.told.callers.lock().unwrap().len()
    }

    /// Who came at all; a port may have been another server's, whose clients look for it.
    pub(crate) fn accepted(&self) -> usize {
        self.told.accepted.load(Ordering::Relaxed)
    }

    /// Calls that have begun and not ended.
    pub(crate) fn running(&self) -> usize {
        self.told.running.load(Ordering::Relaxed)
    }

    /// How long its answers take from now on; `None` for ever.
    pub(crate) fn takes(&self, time: Option<Duration>) {
        *self.told.takes.lock().unwrap() = time;
    }

    /// What its answers are from now on.
    pub(crate) fn answers(&self, answer: Answer) {
        *self.told.answer.lock().unwrap() = answer;
    }

    /// Ends it as a crash does: sockets are closed at once, calls in flight are lost.
    pub(crate) fn kill(&mut self) {
        self.kill.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Answers `Check` as it was told to, and `Watch` with five answers, one each 100 ms.
struct Service(Arc<Told>);

struct Running(Arc<Told>);

impl Running {
    fn new(told: &Arc<Told>) -> Self {
        told.calls.fetch_add(1, Ordering::Relaxed);
        told.running.fetch_add(1, Ordering::Relaxed);
        Self(told.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let _running = Running::new(&self.0);
        let caller = request.remote_addr();
        self.0.callers.lock().unwrap().extend(caller);
        let takes = *self.0.takes.lock().unwrap();
        match takes {
            Some(Duration::ZERO) => {}
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
        let answer = *self.0.answer.lock().unwrap();
        answer()?;
        Ok(Response::new(HealthCheckResponse::default()))
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let running = Running::new(&self.0);
        let (answers, stream) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let _running = running;
            for _ in 0..5 {
                if answers
                    .send(Ok(HealthCheckResponse::default()))
                    .await
                    .is_err()
                {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A registry, and a service `greeter` in it.
pub(crate) struct Fleet {
    pub(crate) memory: Memory,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            memory: Memory::new(),
        }
    }

    pub(crate) async fn add(&self, id: &str, address: SocketAddr) -> InstanceKey {
        let instance = Instance::new("greeter", address).id(id);
        self.register(instance).await
    }

    pub(crate) async fn register(&self, instance: registry_core::InstanceBuilder) -> InstanceKey {
        let registration = Registration::new(instance).unwrap();
        let registration = registration.ttl(3600 * SECOND);
        self.memory.register(&registration).await.unwrap();
        registration.key()
    }

    pub(crate) async fn remove(&self, key: &InstanceKey) {
        self.memory.deregister(key).await.unwrap();
    }

    /// Servers that are registered as `0`, `1`, …
    pub(crate) async fn servers(&self, count: usize) -> Vec<Server> {
        let servers: Vec<_> = (0..count).map(|_| Server::start()).collect();
        for (number, server) in servers.iter().enumerate() {
            self.add(&number.to_string(), server.address).await;
        }
        servers
    }

    pub(crate) async fn balancer(&self) -> Balancer {
        let discovery = Discovery::new(Arc::new(self.memory.client()));
        discovery
            .balancer("greeter", RoundRobin::default())
            .await
            .unwrap()
    }

    pub(crate) async fn client(&self, config: ChannelConfig) -> Client {
        HealthClient::new(Channel::with_config(self.balancer().await, config).unwrap())
    }
}

/// Tries again soon, so that tests need not wait.
pub(crate) fn config() -> ChannelConfig {
    ChannelConfig::default().pauses(Duration::from_millis(10), Duration::from_millis(100))
}

pub(crate) async fn check(client: &Client) -> Result<(), Status> {
    let request = HealthCheckRequest::default();
    client.clone().check(request).await.map(|_| ())
}

pub(crate) async fn check_within(client: &Client, limit: Duration) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(limit);
    client.clone().check(request).await.map(|_| ())
}

/// Calls made by several tasks without a pause until it is ended.
pub(crate) struct Load {
    tasks: Vec<tokio::task::JoinHandle<(usize, Vec<Status>)>>,
    made: Arc<AtomicUsize>,
    end: tokio::sync::watch::Sender<bool>,
}

impl Load {
    pub(crate) fn start(client: &Client, tasks: usize) -> Self {
        let (end, ended) = tokio::sync::watch::channel(false);
        let made = Arc::<AtomicUsize>::default();
        let run = |_| {
            let (client, ended, made) = (client.clone(), ended.clone(), made.clone());
            tokio::spawn(async move {
                let (mut calls, mut failed) = (0, Vec::new());
                while !*ended.borrow() {
                    match check_within(&client, LIMIT).await {
                        Ok(()) => calls += 1,
                        Err(status) => failed.push(status),
                    }
                    made.fetch_add(1, Ordering::Relaxed);
                }
                (calls, failed)
            })
        };
        Self {
            tasks: (0..tasks).map(run).collect(),
            made,
            end,
        }
    }

    /// Waits until so many further calls were made.
    pub(crate) async fn goes_on(&self, calls: usize) {
        let until = self.made.load(Ordering::Relaxed) + calls;
        eventually("calls are made", || {
            self.made.load(Ordering::Relaxed) >= until
        })
        .await;
    }

    /// How many calls succeeded, and how the others failed.
    pub(crate) async fn end(self) -> (usize, Vec<Status>) {
        self.end.send_replace(true);
        let (mut calls, mut failed) = (0, Vec::new());
        for task in self.tasks {
            let (well, badly) = task.await.unwrap();
            calls += well;
            failed.extend(badly);
        }
        (calls, failed)
    }
}
