//! What something that is no agent may do, which a real one cannot be made to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry_consul::{Consul, ConsulConfig};
use registry_core::{Change, ErrorKind, ReadOptions, Registry, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 7\r\n";

/// Answers at once and always the same; where `body` is `None`, without an end.
struct Impostor {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Impostor {
    async fn start(body: fn(&str) -> Option<&'static str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, body, counter.clone()));
            }
        });
        Self { address, asked }
    }

    fn client(&self) -> Consul {
        let config = ConsulConfig::default().agents([self.address.to_string()]);
        Consul::new(config).unwrap()
    }
}

/// Until the client goes away.
async fn serve(
    mut stream: TcpStream,
    body: fn(&str) -> Option<&'static str>,
    asked: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        asked.fetch_add(1, Ordering::Relaxed);
        let Some(body) = body(&String::from_utf8_lossy(&request)) else {
            let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        };
        let answer = format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
        request.clear();
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_refused() {
    let impostor = Impostor::start(|_| None).await;
    let registry = impostor.client();
    let service = "web".try_into().unwrap();
    let answer = registry.lookup(&service, &ReadOptions::default()).await;
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("longer"), "{error}");
}

#[tokio::test]
async fn what_answers_a_wait_at_once_is_not_asked_all_the_time() {
    let body = |request: &str| {
        Some(match () {
            () if request.contains("status/leader") => "\"10.0.0.1:8300\"",
            () if request.contains("catalog/services") => "{}",
            () => "[]",
        })
    };
    let impostor = Impostor::start(body).await;
    let registry = impostor.client();
    for scope in [Scope::Service("web".try_into().unwrap()), Scope::All] {
        let options = ReadOptions::default();
        let mut watch = registry.watch(&scope, &options).await.unwrap();
        watch.next().await.unwrap();
        let before = impostor.asked.load(Ordering::Relaxed);
        let confirmed = async {
            loop {
                let news = watch.next().await.unwrap();
                assert!(matches!(&news[..], [Change::Current]), "{news:?}");
            }
        };
        let second = timeout(Duration::from_secs(1), confirmed);
        second.await.unwrap_err();
        let asked = impostor.asked.load(Ordering::Relaxed) - before;
        assert!((2..=60).contains(&asked), "{scope:?}: {asked} requests");
    }
}

#[tokio::test]
async fn an_agent_that_missed_a_change_is_not_believed_for_long() {
    static READS: AtomicUsize = AtomicUsize::new(0);
    // Its view of before a fault has, by chance, the index that the servers have now.
    let body = |request: &str| {
        Some(match () {
            () if request.contains("status/leader") => "\"10.0.0.1:8300\"",
            () if request.contains("index=") => "[]",
            () if READS.fetch_add(1, Ordering::Relaxed) == 0 => "[]",
            () => {
                r#"[{"Node":{"Node":"n"},"Service":{"ID":"web:a","Service":"web","Address":"10.0.0.1","Port":80}}]"#
            }
        })
    };
    let impostor = Impostor::start(body).await;
    let scope = Scope::Service("web".try_into().unwrap());
    let options = ReadOptions::default();
    let registry = impostor.client();
    let mut watch = registry.watch(&scope, &options).await.unwrap();
    let shown = timeout(Duration::from_secs(10), async {
        loop {
            let news = watch.next().await.unwrap();
            if news
                .iter()
                .any(|change| matches!(change, Change::Upsert(_)))
            {
                return;
            }
        }
    });
    shown
        .await
        .expect("the instance that the agent does not show");
}
