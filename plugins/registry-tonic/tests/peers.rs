//! Addresses where nobody speaks gRPC.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Fleet, LIMIT, SECOND, check, check_within, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;

/// Says this to everybody, or keeps silent where it is empty, and keeps the connections.
async fn says(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 1024];
                while let Ok(1..) = peer.read(&mut heard).await {
                    if peer.write_all(words).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

const PEERS: [(&str, &[u8], &str); 4] = [
    (
        "HTTP/1",
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
        "does not speak HTTP/2, it said \"HTTP/1.1 400",
    ),
    ("garbage", &[0xff; 64], "does not speak HTTP/2"),
    ("silence", b"", "within 300ms"),
    (
        "settings that are none",
        &[0, 0, 3, 4, 0, 0, 0, 0, 0, 1, 2, 3],
        "",
    ),
];

#[tokio::test]
async fn a_peer_that_does_not_speak_grpc_is_named() {
    for (what, words, why) in PEERS {
        let fleet = Fleet::new();
        fleet.add("odd", says(words).await).await;
        let client = fleet
            .client(config().connect_timeout(3 * SECOND / 10))
            .await;
        let start = Instant::now();
        let status = check(&client).await.unwrap_err();
        assert!(start.elapsed() < SECOND, "{what}: {:?}", start.elapsed());
        assert_eq!(status.code(), Code::Unavailable, "{what}");
        assert!(status.message().contains(why), "{what}: {status}");
        assert!(status.message().contains("odd at 127"), "{what}: {status}");
    }
}

#[tokio::test]
async fn the_deadline_holds_while_a_peer_keeps_silent() {
    let fleet = Fleet::new();
    fleet.add("odd", says(b"").await).await;
    let client = fleet.client(config()).await;
    let start = Instant::now();
    let status = check_within(&client, SECOND / 5).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(start.elapsed() < SECOND);
}

#[tokio::test]
async fn the_others_are_served_beside_such_peers() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    for (what, words, _) in PEERS {
        let id = what.replace([' ', '/'], "-");
        fleet.add(&id, says(words).await).await;
    }
    let client = fleet.client(config().connect_timeout(SECOND / 2)).await;
    let start = Instant::now();
    let mut calls = 0;
    // Longer than a silent peer is waited for.
    while start.elapsed() < SECOND {
        check_within(&client, LIMIT).await.unwrap();
        calls += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(servers[0].calls(), calls);
}
