//! Instances that come and go, under load.

mod common;

use std::time::Duration;

use common::{Fleet, LIMIT, Load, SECOND, Server, check, check_within, config, eventually};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_servers_cost_no_idempotent_call() {
    let fleet = Fleet::new();
    let mut servers = fleet.servers(3).await;
    for server in &servers {
        server.takes(Some(Duration::from_millis(2)));
    }
    let client = fleet.client(config().idempotent(|_| true)).await;
    check(&client).await.unwrap();
    let load = Load::start(&client, 8);
    load.goes_on(100).await;
    for server in &mut servers[..2] {
        server.kill();
        load.goes_on(200).await;
    }
    let (calls, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {calls}: {failed:?}", failed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_other_calls_only_those_in_flight_are_lost() {
    let fleet = Fleet::new();
    let mut servers = fleet.servers(3).await;
    for server in &servers {
        server.takes(Some(Duration::from_millis(2)));
    }
    let client = fleet.client(config()).await;
    check(&client).await.unwrap();
    let load = Load::start(&client, 8);
    load.goes_on(100).await;
    servers[0].kill();
    load.goes_on(200).await;
    let (calls, failed) = load.end().await;
    assert!(failed.len() <= 8, "{} of {calls}: {failed:?}", failed.len());
    for status in failed {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(
            status.message().contains("broke while it had the call"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_dead_instance_costs_no_call_and_is_used_when_it_is_back() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    // Bound and not listening: refused, and nobody else gets the port.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = dead.local_addr().unwrap();
    fleet.add("dead", address).await;
    let client = fleet.client(config()).await;
    for _ in 0..50 {
        check(&client).await.unwrap();
    }
    assert_eq!(servers[0].calls(), 50);
    drop(dead);
    let back = Server::with(None, &address.to_string());
    eventually("it is connected to", || back.accepted() > 0).await;
    let start = Instant::now();
    while back.calls() == 0 {
        check(&client).await.unwrap();
        assert!(
            start.elapsed() < SECOND,
            "it is called as soon as it is back"
        );
    }
}

#[tokio::test]
async fn when_all_are_dead_a_call_fails_at_once_and_says_why() {
    let fleet = Fleet::new();
    let mut servers = fleet.servers(2).await;
    let client = fleet.client(config()).await;
    check(&client).await.unwrap();
    for server in &mut servers {
        server.kill();
    }
    let start = Instant::now();
    let status = loop {
        let status = check(&client).await.unwrap_err();
        if status.message().contains("refused") {
            break status;
        }
        assert!(start.elapsed() < SECOND, "{status}");
    };
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    assert_eq!(status.code(), Code::Unavailable);
    for part in ["service greeter", "127.0.0.1", "refused"] {
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn what_runs_on_a_removed_instance_is_finished() {
    let fleet = Fleet::new();
    let server = Server::start();
    let key = fleet.add("0", server.address).await;
    let mut client = fleet.client(config()).await;
    let answers = client.watch(tonic_health::pb::HealthCheckRequest::default());
    let mut answers = answers.await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    fleet.remove(&key).await;
    let gone = async || {
        let status = check(&fleet.client(config()).await).await;
        status.is_err_and(|status| status.message().contains("no instance"))
    };
    assert!(gone().await);
    let mut count = 1;
    while let Some(_answer) = answers.message().await.unwrap() {
        count += 1;
    }
    assert_eq!(count, 5);
}

#[tokio::test]
async fn the_connection_to_a_removed_instance_is_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fleet = Fleet::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let key = fleet.add("0", listener.local_addr().unwrap()).await;
    let _client = fleet.client(config()).await;
    let (mut peer, _) = listener.accept().await.unwrap();
    // The settings of HTTP/2, so that it counts as connected.
    peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    sleep(SECOND / 10).await;
    fleet.remove(&key).await;
    let mut heard = Vec::new();
    let closed = timeout(LIMIT, peer.read_to_end(&mut heard)).await;
    closed.expect("closed").unwrap();
}

#[tokio::test]
async fn a_hung_connection_is_noticed_and_made_again() {
    use tokio::io::AsyncWriteExt;
    let fleet = Fleet::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    fleet.add("0", listener.local_addr().unwrap()).await;
    let quick = config()
        .keep_alive(Some(SECOND / 20))
        .keep_alive_timeout(SECOND / 20);
    let client = fleet.client(quick).await;
    let (mut peer, _) = listener.accept().await.unwrap();
    peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let status = check_within(&client, LIMIT).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let again = timeout(LIMIT, listener.accept()).await;
    again.expect("connected to again").unwrap();
}

#[tokio::test]
async fn nothing_is_left_when_the_channel_is_dropped() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let client = fleet.client(config()).await;
    check(&client).await.unwrap();
    assert!(tasks() > before);
    drop(client);
    eventually("all tasks have ended", || tasks() <= before).await;
    drop(servers);
}
