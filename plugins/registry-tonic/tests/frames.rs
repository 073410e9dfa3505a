//! What a peer can say in HTTP/2 without an answer, frame by frame.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Fleet, SECOND, check, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const PING: u8 = 6;

/// Reads frames until one of this type, and gives its stream.
async fn read_until(peer: &mut TcpStream, wanted: u8) -> std::io::Result<u32> {
    loop {
        let mut header = [0; 9];
        peer.read_exact(&mut header).await?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        peer.read_exact(&mut payload).await?;
        if header[3] == wanted {
            let stream = header[5..].try_into().unwrap();
            return Ok(u32::from_be_bytes(stream));
        }
    }
}

/// A peer that answers the first frame of this type with these, and keeps the connection. Tells how long each frame was
/// waited for.
async fn answers(
    to: u8,
    answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<Duration>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let began = Instant::now();
            peer.write_all(SETTINGS).await.unwrap();
            let mut preface = [0; 24];
            peer.read_exact(&mut preface).await.unwrap();
            while let Ok(stream) = read_until(&mut peer, to).await {
                let _ = tell.send(began.elapsed());
                if peer.write_all(&answer(stream)).await.is_err() {
                    break;
                }
            }
        }
    });
    (address, told)
}

fn go_away(reason: u8) -> Vec<u8> {
    [
        b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0".as_slice(),
        &[reason],
    ]
    .concat()
}

fn reset(stream: u32, reason: u8) -> Vec<u8> {
    let stream = stream.to_be_bytes();
    [b"\0\0\x04\x03\0".as_slice(), &stream, &[0, 0, 0, reason]].concat()
}

#[tokio::test]
async fn what_a_peer_has_not_looked_at_goes_elsewhere() {
    type Answer = fn(u32) -> Vec<u8>;
    let refused_stream: Answer = |stream| reset(stream, 7);
    let going_away: Answer = |_| go_away(0);
    for (what, answer) in [("refused", refused_stream), ("going away", going_away)] {
        let fleet = Fleet::new();
        let servers = fleet.servers(1).await;
        let (address, mut told) = answers(HEADERS, answer).await;
        fleet.add("not-me", address).await;
        let client = fleet.client(config()).await;
        // Not said to be idempotent.
        let start = Instant::now();
        let mut calls = 0;
        while told.try_recv().is_err() {
            check(&client).await.unwrap();
            calls += 1;
            assert!(start.elapsed() < 5 * SECOND, "{what}: nobody asked it");
        }
        assert_eq!(servers[0].calls(), calls, "{what}");
    }
}

#[tokio::test]
async fn an_idempotent_call_outlives_the_connection_of_the_only_instance() {
    let fleet = Fleet::new();
    let server = common::Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    fleet.add("0", listener.local_addr().unwrap()).await;
    let behind = server.address;
    let (connected, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(SETTINGS).await.unwrap();
        let mut preface = [0; 24];
        peer.read_exact(&mut preface).await.unwrap();
        connected.send(()).unwrap();
        read_until(&mut peer, HEADERS).await.unwrap();
        drop(peer);
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(behind).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut peer, &mut server).await;
    });
    // A connection counts as lasting after 10 ms.
    let pauses = config().pauses(SECOND / 100, SECOND / 100);
    let client = fleet.client(pauses.idempotent(|_| true)).await;
    told.recv().await.unwrap();
    tokio::time::sleep(SECOND / 10).await;
    check(&client).await.unwrap();
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn other_resets_stay_where_they_are() {
    let fleet = Fleet::new();
    let _servers = fleet.servers(1).await;
    // INTERNAL_ERROR: it may have been looked at.
    let (address, _told) = answers(HEADERS, |stream| reset(stream, 2)).await;
    fleet.add("breaks", address).await;
    let client = fleet.client(config().idempotent(|_| true)).await;
    let start = Instant::now();
    let status = loop {
        if let Err(status) = check(&client).await {
            break status;
        }
        assert!(start.elapsed() < 5 * SECOND);
    };
    assert_eq!(status.code(), tonic::Code::Internal, "{status}");
}

#[tokio::test]
async fn a_peer_that_wants_fewer_signs_of_life_is_asked_for_fewer() {
    const ENHANCE_YOUR_CALM: u8 = 11;
    let fleet = Fleet::new();
    let (address, mut told) = answers(PING, |_| go_away(ENHANCE_YOUR_CALM)).await;
    fleet.add("calm", address).await;
    let _client = fleet.client(config().keep_alive(Some(SECOND / 20))).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let wait = timeout(5 * SECOND, told.recv()).await.unwrap().unwrap();
        waits.push(wait);
    }
    assert!(waits[2] >= SECOND / 5, "{waits:?}");
}
