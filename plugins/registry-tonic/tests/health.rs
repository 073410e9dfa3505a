//! Instances that are asked for their health.

mod common;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Client, Fleet, LIMIT, SECOND, Server, check, check_within, config, eventually};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// What a server's health service does.
#[derive(Clone)]
enum Says {
    /// Tells this status, as a number, and its changes.
    Status(tokio::sync::watch::Receiver<i32>),
    /// Answers nothing.
    Nothing,
    /// Does not know the method.
    Unimplemented,
}

/// Counts its checks, and tells its health as `says` has it.
struct Odd {
    says: Says,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Health for Odd {
    async fn check(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(HealthCheckResponse::default()))
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        assert_eq!(request.get_ref().service, "greeter.Greeter");
        match self.says.clone() {
            Says::Status(status) => {
                let answer = |status| Ok(HealthCheckResponse { status });
                let answers = tokio_stream::StreamExt::map(WatchStream::new(status), answer);
                Ok(Response::new(Box::pin(answers)))
            }
            Says::Nothing => std::future::pending().await,
            Says::Unimplemented => Err(Status::unimplemented("")),
        }
    }
}

/// The address of such a server, and how many calls it got.
async fn odd(says: Says) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::<AtomicUsize>::default();
    let service = HealthServer::new(Odd {
        says,
        calls: calls.clone(),
    });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, calls)
}

async fn client(fleet: &Fleet) -> Client {
    let config = config().connect_timeout(3 * SECOND / 10);
    fleet.client(config.health("greeter.Greeter")).await
}

#[tokio::test]
async fn an_instance_is_called_while_it_says_that_it_serves() {
    let (status, says) = tokio::sync::watch::channel(1);
    let (address, calls) = odd(Says::Status(says)).await;
    let fleet = Fleet::new();
    fleet.add("one", address).await;
    let client = client(&fleet).await;
    check(&client).await.unwrap();
    status.send_replace(2);
    let start = Instant::now();
    let refused = loop {
        match check(&client).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
        assert!(start.elapsed() < LIMIT);
    };
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("NOT_SERVING"), "{refused}");
    let before = calls.load(Ordering::Relaxed);
    check(&client).await.unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), before);
    status.send_replace(1);
    while check(&client).await.is_err() {
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_instance_without_a_health_service_is_called() {
    let (address, calls) = odd(Says::Unimplemented).await;
    let fleet = Fleet::new();
    fleet.add("one", address).await;
    let client = client(&fleet).await;
    for _ in 0..3 {
        check(&client).await.unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_health_service_that_hangs_is_named_and_hides_nobody() {
    let (address, calls) = odd(Says::Nothing).await;
    let fleet = Fleet::new();
    fleet.add("hangs", address).await;
    let alone = client(&fleet).await;
    let start = Instant::now();
    let status = check(&alone).await.unwrap_err();
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    assert_eq!(status.code(), Code::Unavailable);
    for part in ["hangs at 127", "health service does not answer within"] {
        assert!(status.message().contains(part), "{status}");
    }
    let (good, called) = odd(Says::Unimplemented).await;
    fleet.add("good", good).await;
    let client = client(&fleet).await;
    for _ in 0..20 {
        check_within(&client, LIMIT).await.unwrap();
    }
    assert_eq!(called.load(Ordering::Relaxed), 20);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn health_is_asked_for_only_where_that_is_said() {
    let fleet = Fleet::new();
    let server = Server::start();
    fleet.add("one", server.address).await;
    let client = fleet.client(config()).await;
    check(&client).await.unwrap();
    eventually("only the call itself", || server.calls() == 1).await;
}
