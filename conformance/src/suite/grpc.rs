//! gRPC calls to whom the registry knows.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{Discovery, Error, ErrorKind, Instance, Registrar, RoundRobin, Status};
use registry_tonic::{Channel, ChannelConfig, serve_with_registration};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::service::RoutesBuilder;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::case::{Case, Outcome};
use crate::wait::{RECOVERY, SLACK, eventually, within};
use crate::world::{World, built};

pub(super) const CASES: &[Case] = &[
    case!(a_server_that_restarts_costs_no_call),
    case!(a_server_that_is_killed_costs_no_idempotent_call),
    case!(where_there_is_nobody_a_call_fails_at_once_or_waits),
    case!(who_cannot_be_called_costs_no_call),
];

/// Servers that end in order, one after the other, and come again at another port cost nobody a call, whatever it does.
async fn a_server_that_restarts_costs_no_call(world: World) -> Outcome {
    let reader = world.client().await?;
    let discovery = Discovery::new(reader);
    let mut servers = Vec::new();
    for id in ["a", "b"] {
        servers.push(Server::start(&world, id).await?);
    }
    let view = discovery.service(world.service("web")).await?;
    knows(&world, &view, &servers).await?;
    let load = Load::start(&world, &discovery, ChannelConfig::default()).await?;
    for number in 0..servers.len() {
        let server = &mut servers[number];
        server.end(&world).await?;
        *server = Server::start(&world, &format!("c{number}")).await?;
        // As whoever restarts a fleet waits for the one before it.
        knows(&world, &view, &servers).await?;
    }
    load.failed_never().await?;
    for server in &mut servers {
        server.end(&world).await?;
    }
    Ok(())
}

/// A server that dies at once costs nobody a call that may be done twice, however long the registry takes to notice.
async fn a_server_that_is_killed_costs_no_idempotent_call(world: World) -> Outcome {
    let discovery = Discovery::new(world.client().await?);
    let (mut first, mut second) = (
        Server::start(&world, "a").await?,
        Server::start(&world, "b").await?,
    );
    let view = discovery.service(world.service("web")).await?;
    let both = [first, second];
    knows(&world, &view, &both).await?;
    [first, second] = both;
    let config = ChannelConfig::default().idempotent(|_| true);
    let load = Load::start(&world, &discovery, config).await?;
    first.kill();
    load.goes_on().await?;
    load.failed_never().await?;
    second.end(&world).await
}

/// An empty service is an error at once, and a call that is to wait has its answer as soon as somebody registers.
async fn where_there_is_nobody_a_call_fails_at_once_or_waits(world: World) -> Outcome {
    let discovery = Discovery::new(world.client().await?);
    let hasty = channel(&world, &discovery, ChannelConfig::default()).await?;
    let begin = Instant::now();
    let refused = within(SLACK, "a refusal", call(&hasty)).await?;
    let code = refused.err().map(|status| status.code());
    ensure_eq!(
        code,
        Some(tonic::Code::Unavailable),
        "what is said of nobody"
    );
    ensure!(begin.elapsed() < Duration::from_secs(1), "it took its time");
    let patient = ChannelConfig::default().wait_for_ready(true);
    let patient = channel(&world, &discovery, patient).await?;
    let waiting = tokio::spawn(async move { call(&patient).await });
    let mut server = Server::start(&world, "a").await?;
    within(world.visible() + RECOVERY, "the answer", waiting).await???;
    server.end(&world).await
}

/// Instances that are down, speak something else or accept and say nothing cost nobody a call; alone, they are an error
/// in time.
async fn who_cannot_be_called_costs_no_call(world: World) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(2);
    let writer = world.client().await?;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let other = TcpListener::bind("127.0.0.1:0").await?;
    let at = |id, address| world.instance("web", id).edit().address(address);
    let mut instances = vec![
        built(world.instance("web", "down").edit().status(Status::Down)),
        built(at("silent", silent.local_addr()?)),
        built(at("other", other.local_addr()?)),
    ];
    let other = tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            // Who was connected may be gone.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    world.register_all(&writer, &instances).await?;
    let discovery = Discovery::new(world.client().await?);
    let view = discovery.service(world.service("web")).await?;
    super::faults::fresh(&view, &instances, world.visible()).await?;
    let config = ChannelConfig::default().connect_timeout(LIMIT / 4);
    let channel = channel(&world, &discovery, config.clone().timeout(LIMIT)).await?;
    let refused = within(LIMIT + SLACK, "a refusal", call(&channel)).await?;
    let code = refused.err().map(|status| status.code());
    ensure_eq!(
        code,
        Some(tonic::Code::Unavailable),
        "what is said of nobody who can be called"
    );
    let mut server = Server::start(&world, "a").await?;
    instances.push(server.instance.clone());
    super::faults::fresh(&view, &instances, world.visible()).await?;
    let load = Load::start(&world, &discovery, config).await?;
    load.failed_never().await?;
    other.abort();
    server.end(&world).await
}

/// A gRPC server with the standard health service, in a runtime of its own that can die.
struct Server {
    instance: Arc<Instance>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<registry_core::Result<()>>>,
    runtime: Option<Runtime>,
}

impl Server {
    async fn start(world: &World, id: &str) -> Outcome<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let described = world
            .instance("web", id)
            .edit()
            .address(listener.local_addr()?);
        let instance = Arc::new(described.build()?);
        let (stop, stopped) = oneshot::channel();
        let (world, registered) = (world.clone(), instance.clone());
        let served = runtime.spawn(async move {
            let client = world.client().await.map_err(|failure| {
                Error::new(ErrorKind::Unavailable, failure.message().to_owned())
            })?;
            let listener = TcpListener::from_std(listener).map_err(|error| {
                Error::new(ErrorKind::Unavailable, "no listener").because(error)
            })?;
            let routes = RoutesBuilder::default().routes();
            let router = tonic::transport::Server::builder().add_routes(routes);
            let stopped = async {
                // Dropped, it ends too.
                let _ = stopped.await;
            };
            let registrar = Registrar::new(client);
            let registration = world.registration(&registered);
            serve_with_registration(router, listener, &registrar, registration, stopped).await
        });
        Ok(Self {
            instance,
            stop: Some(stop),
            served: Some(served),
            runtime: Some(runtime),
        })
    }

    /// Ends it in order.
    async fn end(&mut self, world: &World) -> Outcome {
        drop(self.stop.take());
        if let Some(served) = self.served.take() {
            let windows = world.capability().windows;
            let limit = windows.visible + windows.gone + RECOVERY;
            within(limit, "the end of a server", served).await???;
        }
        self.kill();
        Ok(())
    }

    fn kill(&mut self) {
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

async fn knows(world: &World, view: &registry_core::View, servers: &[Server]) -> Outcome {
    let instances: Vec<_> = servers
        .iter()
        .map(|server| server.instance.clone())
        .collect();
    let window = world.visible() + world.capability().windows.gone;
    super::faults::fresh(view, &instances, window).await
}

async fn channel(world: &World, discovery: &Discovery, config: ChannelConfig) -> Outcome<Channel> {
    let balancer = discovery
        .balancer(world.service("web"), RoundRobin::default())
        .await?;
    Ok(Channel::with_config(balancer, config)?)
}

async fn call(channel: &Channel) -> Result<(), tonic::Status> {
    let mut client = HealthClient::new(channel.clone());
    client.check(HealthCheckRequest::default()).await.map(drop)
}

/// Calls one after the other, without end.
struct Load {
    calls: Arc<std::sync::Mutex<(u64, Vec<String>)>>,
    task: JoinHandle<()>,
}

impl Load {
    async fn start(world: &World, discovery: &Discovery, config: ChannelConfig) -> Outcome<Self> {
        let channel = channel(world, discovery, config).await?;
        let calls: Arc<std::sync::Mutex<(u64, Vec<String>)>> = Arc::default();
        let book = calls.clone();
        let task = tokio::spawn(async move {
            loop {
                let answer = call(&channel).await;
                {
                    let mut book = book.lock().expect("nobody panics with it");
                    book.0 += 1;
                    book.1.extend(answer.err().map(|status| status.to_string()));
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        let this = Self { calls, task };
        this.goes_on().await?;
        Ok(this)
    }

    /// Waits until many more calls have ended.
    async fn goes_on(&self) -> Outcome {
        let begin = self.count();
        eventually(RECOVERY, "calls to go on", || async {
            ensure!(
                self.count() >= begin + 200,
                "{} calls",
                self.count() - begin
            );
            Ok(())
        })
        .await
    }

    fn count(&self) -> u64 {
        self.calls.lock().expect("nobody panics with it").0
    }

    async fn failed_never(self) -> Outcome {
        self.goes_on().await?;
        self.task.abort();
        let (count, failed) = self.calls.lock().expect("nobody panics with it").clone();
        ensure!(
            failed.is_empty(),
            "{} of {count} calls failed: {:?}",
            failed.len(),
            &failed[..failed.len().min(3)]
        );
        Ok(())
    }
}
