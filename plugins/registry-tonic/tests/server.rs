//! A server that registers, drains and goes, seen by a client under load.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use common::{Fleet, LIMIT, Load, SECOND, check, config, eventually};
use registry_core::{Error, Instance, Registrar, Registry, Status as Says};
use registry_tonic::{ServeConfig, serve_with_config, serve_with_registration};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

struct Served {
    address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

async fn serve(fleet: &Fleet, id: &str, config: ServeConfig) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, ended) = oneshot::channel::<()>();
    let registrar = Registrar::new(Arc::new(fleet.memory.client()));
    let instance = Instance::new("greeter", address).id(id);
    let task = tokio::spawn(async move {
        let router = Server::builder().add_routes(RoutesBuilder::default().routes());
        let ended = async {
            let _ = ended.await;
        };
        serve_with_config(router, listener, &registrar, instance, ended, config).await
    });
    Served {
        address,
        shutdown: Some(shutdown),
        task,
    }
}

async fn direct(address: SocketAddr) -> HealthClient<tonic::transport::Channel> {
    let uri = format!("http://{address}");
    HealthClient::new(tonic::transport::Endpoint::new(uri).unwrap().connect_lazy())
}

async fn health(address: SocketAddr, service: &str) -> Option<ServingStatus> {
    let service = service.to_owned();
    let request = HealthCheckRequest { service };
    let reply = direct(address).await.check(request).await.ok()?;
    Some(match reply.into_inner().status {
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        _ => ServingStatus::Unknown,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_in_order_costs_no_call() {
    let fleet = Fleet::new();
    let mut first = serve(&fleet, "first", ServeConfig::default()).await;
    let second = serve(&fleet, "second", ServeConfig::default()).await;
    let balancer = fleet.balancer().await;
    let view = balancer.view().clone();
    eventually("both are registered", || {
        view.snapshot().instances.len() == 2
    })
    .await;
    let client = fleet.client(config()).await;
    check(&client).await.unwrap();
    let load = Load::start(&client, 4);
    load.goes_on(50).await;
    first.shutdown.take();
    let first_says = || {
        let snapshot = view.snapshot();
        let mut instances = snapshot.instances.iter();
        instances
            .find(|one| one.id.as_str() == "first")
            .map(|one| one.status)
    };
    eventually("it drains", || first_says() == Some(Says::Draining)).await;
    timeout(LIMIT, &mut first.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    eventually("it is gone", || first_says().is_none()).await;
    load.goes_on(50).await;
    let (calls, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {calls}: {failed:?}", failed.len());
    drop(second);
}

#[tokio::test]
async fn the_order_is_kept() {
    let fleet = Fleet::new();
    let config = ServeConfig::default().service("greeter.Greeter");
    let mut served = serve(&fleet, "one", config).await;
    let view = fleet.balancer().await.view().clone();
    eventually("it is registered", || view.snapshot().instances.len() == 1).await;
    let start = Instant::now();
    while health(served.address, "").await != Some(ServingStatus::Serving) {
        assert!(start.elapsed() < LIMIT);
    }
    let named = health(served.address, "greeter.Greeter").await;
    assert_eq!(named, Some(ServingStatus::Serving));
    // A watch of the health never ends by itself, and must not keep the server.
    let request = HealthCheckRequest::default();
    let watch = direct(served.address).await.watch(request).await.unwrap();
    served.shutdown.take();
    let status = || view.snapshot().instances.first().map(|one| one.status);
    eventually("it drains", || status() == Some(Says::Draining)).await;
    // While it drains it still answers, also who comes new.
    for name in ["", "greeter.Greeter"] {
        let health = health(served.address, name).await;
        assert_eq!(health, Some(ServingStatus::NotServing), "{name}");
    }
    timeout(LIMIT, &mut served.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    eventually("it is gone", || status().is_none()).await;
    assert_eq!(health(served.address, "").await, None, "the port is closed");
    drop(watch);
}

#[tokio::test]
async fn what_runs_longer_than_it_is_given_is_given_up() {
    use tokio::io::AsyncWriteExt;
    let fleet = Fleet::new();
    let config = ServeConfig::default().finish_within(SECOND / 10);
    let mut served = serve(&fleet, "one", config).await;
    let view = fleet.balancer().await.view().clone();
    eventually("it is registered", || view.snapshot().instances.len() == 1).await;
    // A client that begins a request and never says more.
    let mut hung = tokio::net::TcpStream::connect(served.address)
        .await
        .unwrap();
    hung.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let headers = b"\0\0\x03\x01\x04\0\0\0\x01\x83\x86\x84";
    hung.write_all(headers).await.unwrap();
    served.shutdown.take();
    let start = Instant::now();
    timeout(LIMIT, &mut served.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    eventually("it is gone", || view.snapshot().instances.is_empty()).await;
}

#[tokio::test]
async fn a_shutdown_before_it_is_registered_ends_it_too() {
    let fleet = Fleet::new();
    let server = common::Server::start();
    // Somebody else who holds the id may be dead: registering waits for that.
    fleet.add("one", server.address).await;
    let mut served = serve(&fleet, "one", ServeConfig::default()).await;
    assert!(timeout(SECOND / 5, &mut served.task).await.is_err());
    served.shutdown.take();
    let ended = timeout(2 * SECOND, &mut served.task).await;
    ended.expect("it does not wait").unwrap().unwrap();
    let view = fleet.balancer().await.view().clone();
    let address = view.snapshot().instances[0].address.clone();
    assert_eq!(address.as_str(), server.address.to_string());
}

#[tokio::test]
async fn what_the_registry_refuses_ends_the_server() {
    let fleet = Fleet::new();
    let _first = serve(&fleet, "one", ServeConfig::default()).await;
    let view = fleet.balancer().await.view().clone();
    eventually("it is registered", || view.snapshot().instances.len() == 1).await;
    let registrar = Registrar::new(Arc::new(fleet.memory.client()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    fleet.memory.close().await.ok();
    registrar.close(SECOND).await.unwrap();
    let error = serve_with_registration(
        Server::builder().add_routes(RoutesBuilder::default().routes()),
        listener,
        &registrar,
        Instance::new("greeter", address),
        std::future::pending(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), registry_core::ErrorKind::Closed, "{error}");
    assert_eq!(health(address, "").await, None, "the port is closed");
}
