//! Calls through a channel: where they go, when they wait and when they fail.

mod common;

use std::sync::Arc;

use common::{
    CHECK, Client, Fleet, LIMIT, SECOND, Server, check, check_within, config, eventually,
};
use registry_core::{Discovery, Instance, RingHash, Status as Says};
use registry_tonic::{CallKey, channel};
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Calls until a call fails, and counts the calls.
async fn failure_of(client: &Client) -> (Status, usize) {
    let start = Instant::now();
    let mut made = 0;
    loop {
        made += 1;
        if let Err(status) = check(client).await {
            return (status, made);
        }
        assert!(start.elapsed() < LIMIT, "no call fails");
    }
}

#[tokio::test]
async fn all_instances_are_used() {
    let fleet = Fleet::new();
    let servers = fleet.servers(3).await;
    let client = fleet.client(config()).await;
    eventually("all are connected to", || {
        servers.iter().all(|server| server.accepted() > 0)
    })
    .await;
    for _ in 0..60 {
        check(&client).await.unwrap();
    }
    let calls: Vec<_> = servers.iter().map(Server::calls).collect();
    assert!(calls.iter().all(|calls| *calls >= 15), "{calls:?}");
    let connections: Vec<_> = servers.iter().map(Server::connections).collect();
    assert_eq!(connections, [1, 1, 1], "one connection each");
}

#[tokio::test]
async fn the_first_call_waits_for_the_first_connection() {
    let fleet = Fleet::new();
    let _servers = fleet.servers(1).await;
    check(&fleet.client(config()).await).await.unwrap();
}

#[tokio::test]
async fn an_instance_is_connected_to_before_there_is_a_call() {
    let fleet = Fleet::new();
    let _client = fleet.client(config()).await;
    let server = Server::start();
    fleet.add("late", server.address).await;
    eventually("a connection without a call", || server.accepted() > 0).await;
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn an_empty_set_fails_at_once() {
    let fleet = Fleet::new();
    let client = fleet.client(config()).await;
    let start = Instant::now();
    let status = check_within(&client, LIMIT).await.unwrap_err();
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("greeter has no instance"),
        "{status}"
    );
}

#[tokio::test]
async fn unhealthy_instances_are_not_called_and_named() {
    let fleet = Fleet::new();
    let server = Server::start();
    let instance = Instance::new("greeter", server.address).status(Says::Down);
    fleet.register(instance).await;
    let client = fleet.client(config()).await;
    let start = Instant::now();
    let status = check(&client).await.unwrap_err();
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("1 down"), "{status}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_call_can_wait_for_an_instance_that_comes_later() {
    let fleet = Fleet::new();
    let client = fleet.client(config().wait_for_ready(true)).await;
    let waiting = tokio::spawn(async move { check_within(&client, LIMIT).await });
    let server = Server::start();
    sleep(SECOND / 10).await;
    assert!(!waiting.is_finished());
    fleet.add("late", server.address).await;
    waiting.await.unwrap().unwrap();
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_call_that_waits_ends_at_its_deadline_or_the_channels() {
    let fleet = Fleet::new();
    let waits = config().wait_for_ready(true).longest_wait(SECOND / 5);
    let client = fleet.client(waits).await;
    let start = Instant::now();
    let status = check_within(&client, SECOND / 10).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(start.elapsed() >= SECOND / 10 && start.elapsed() < SECOND);
    let status = check(&client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(start.elapsed() >= SECOND * 3 / 10 && start.elapsed() < 2 * SECOND);
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_is_not_answered() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    servers[0].takes(None);
    let client = fleet.client(config()).await;
    let (mut late, mut well) = (0, 0);
    let began = Instant::now();
    while late == 0 || well == 0 {
        assert!(began.elapsed() < LIMIT, "{late} late, {well} well");
        let start = Instant::now();
        match check_within(&client, SECOND / 5).await {
            Ok(()) => well += 1,
            Err(status) => {
                late += 1;
                assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
                assert!(status.message().contains("instance 0 at 127"), "{status}");
                assert!(start.elapsed() >= SECOND / 5 && start.elapsed() < SECOND);
            }
        }
    }
    eventually("calls are cancelled", || servers[0].running() == 0).await;
    let client = fleet.client(config().timeout(SECOND / 5)).await;
    let (status, _) = failure_of(&client).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn a_deadline_ends_an_answer_that_does_not_end() {
    let fleet = Fleet::new();
    let _servers = fleet.servers(1).await;
    let mut client = fleet.client(config()).await;
    let mut request = tonic::Request::new(Default::default());
    request.set_timeout(SECOND / 4);
    let start = Instant::now();
    let mut answers = client.watch(request).await.unwrap().into_inner();
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(start.elapsed() >= SECOND / 5 && start.elapsed() < SECOND);
}

#[tokio::test]
async fn an_idempotent_call_goes_on_when_one_answers_unavailable() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    servers[0].answers(|| Err(Status::unavailable("not now")));
    let plain = fleet.client(config()).await;
    let calls = || servers[0].calls() + servers[1].calls();
    let (_, made) = failure_of(&plain).await;
    assert_eq!(calls(), made, "what is not said to be stays where it is");
    let client = fleet
        .client(config().idempotent(|path| path == CHECK))
        .await;
    for _ in 0..10 {
        check(&client).await.unwrap();
    }
    let other = fleet
        .client(config().idempotent(|path| path != CHECK))
        .await;
    let before = calls();
    let (_, made) = failure_of(&other).await;
    assert_eq!(calls() - before, made, "only what is said to be");
}

#[tokio::test]
async fn the_last_answer_is_given_when_nobody_does_better() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    for server in &servers {
        server.answers(|| Err(Status::unavailable("not now")));
    }
    let client = fleet.client(config().idempotent(|_| true)).await;
    let status = check(&client).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "not now")
    );
    assert_eq!(servers[0].calls() + servers[1].calls(), 2);
    servers[0].answers(|| Err(Status::invalid_argument("wrong")));
    let status = check(&client).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn calls_of_one_key_stay_together() {
    let fleet = Fleet::new();
    let servers = fleet.servers(3).await;
    let discovery = Discovery::new(Arc::new(fleet.memory.client()));
    let balancer = discovery.balancer("greeter", RingHash::default()).await;
    let mut client = HealthClient::new(channel(balancer.unwrap()));
    eventually("all are connected to", || {
        servers.iter().all(|server| server.accepted() > 0)
    })
    .await;
    for server in 0..100 {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.extensions_mut().insert(CallKey::new([server]));
        client.check(request).await.unwrap();
    }
    let calls = || servers.iter().map(Server::calls).collect::<Vec<_>>();
    let before = calls();
    assert!(before.iter().all(|calls| *calls > 0), "{before:?}");
    for _ in 0..20 {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.extensions_mut().insert(CallKey::new("user-7"));
        client.check(request).await.unwrap();
    }
    let grown = calls()
        .iter()
        .zip(&before)
        .filter(|(now, before)| now > before)
        .count();
    assert_eq!(grown, 1, "{before:?} to {:?}", calls());
}

fn pushed_back(milliseconds: &'static str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", milliseconds.parse().unwrap());
    Status::with_metadata(Code::Unavailable, "not now", metadata)
}

#[tokio::test]
async fn an_instance_can_forbid_or_delay_the_retry() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    let client = fleet.client(config().idempotent(|_| true)).await;
    for server in &servers {
        server.answers(|| Err(pushed_back("-1")));
    }
    check(&client).await.unwrap_err();
    assert_eq!(servers[0].calls() + servers[1].calls(), 1, "forbidden");
    for server in &servers {
        server.answers(|| Err(pushed_back("200")));
    }
    let start = Instant::now();
    check(&client).await.unwrap_err();
    assert_eq!(servers[0].calls() + servers[1].calls(), 4, "delayed");
    assert!(start.elapsed() >= 2 * SECOND / 5);
    let start = Instant::now();
    let status = check_within(&client, SECOND / 10).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(start.elapsed() < SECOND / 10, "no wait beyond the deadline");
}

#[tokio::test]
async fn a_budget_ends_retries() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    for server in &servers {
        server.answers(|| Err(Status::unavailable("not now")));
    }
    let none = registry_core::RetryBudget::new(0.0, 0);
    let config = config().idempotent(|_| true).retry_budget(none);
    let client = fleet.client(config).await;
    for _ in 0..5 {
        check(&client).await.unwrap_err();
    }
    assert_eq!(servers[0].calls() + servers[1].calls(), 5);
}

#[tokio::test]
async fn what_was_seen_of_an_instance_is_told_to_the_balancer() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    let client = fleet.client(config()).await;
    let balancer = fleet.balancer().await;
    let channel = registry_tonic::channel(balancer.clone());
    let told = tonic_health::pb::health_client::HealthClient::new(channel);
    drop(client);
    let reports = || {
        let (pick, explanation) = balancer.explain(&registry_core::PickRequest::default());
        drop(pick);
        explanation.instances[0].reports
    };
    check(&told).await.unwrap();
    assert_eq!(reports(), (1, 0));
    for (answer, reported) in [
        ((|| Err(Status::not_found(""))) as common::Answer, (2, 0)),
        (|| Err(Status::internal("")), (2, 1)),
        (|| Err(Status::unavailable("")), (2, 2)),
    ] {
        servers[0].answers(answer);
        check(&told).await.unwrap_err();
        assert_eq!(reports(), reported);
    }
    servers[0].takes(None);
    check_within(&told, SECOND / 10).await.unwrap_err();
    assert_eq!(reports(), (2, 3), "no answer");
    let given_up = tokio::time::timeout(SECOND / 10, check(&told)).await;
    assert!(given_up.is_err());
    assert_eq!(reports(), (2, 3), "given up by the caller");
    let (_pick, explanation) = balancer.explain(&registry_core::PickRequest::default());
    assert_eq!(explanation.instances[0].in_flight, 0);
}
