//! Speaking to a server over TLS, and to several.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Server, connect, instance, is_installed, lookup, registration, until, web};
use registry_core::{ErrorKind, ReadOptions, Registry};
use tokio::time::Instant;

/// Certificates of two authorities: for a server, and for its client.
struct Certificates(PathBuf);

impl Certificates {
    fn make() -> Self {
        let directory =
            std::env::temp_dir().join(format!("registry-zookeeper-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let script = r#"
            authority() {
                openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout "$1.key" -out "$1.pem"
            }
            certificate() {
                openssl req -newkey rsa:2048 -nodes -subj "/CN=$2" -keyout "$2.key" -out "$2.csr"
                printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > "$2.ext"
                openssl x509 -req -in "$2.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 2 \
                    -extfile "$2.ext" -out "$2.pem"
            }
            set -e
            authority ours; authority other
            certificate ours server; certificate ours client; certificate other foreign
            cat server.pem server.key > server-all.pem
        "#;
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self(directory)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_takes_whom_the_authority_vouches_for() {
    if !is_installed() || !Path::new("/usr/bin/openssl").exists() {
        return;
    }
    let certificates = Certificates::make();
    let secure = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Server::with(&format!(
        "secureClientPort={secure}\nserverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
         ssl.keyStore.location={}\nssl.keyStore.type=PEM\nssl.trustStore.location={}\nssl.trustStore.type=PEM\n\
         ssl.hostnameVerification=false\nssl.clientHostnameVerification=false",
        certificates.path("server-all.pem"),
        certificates.path("ours.pem"),
    ))
    .await;
    let url = |ca: &str, client: &str| {
        let file = |name: &str| certificates.path(name);
        let identity = match client {
            "" => String::new(),
            name => format!(
                "&cert={}&key={}",
                file(&format!("{name}.pem")),
                file(&format!("{name}.key"))
            ),
        };
        format!("zookeeper://127.0.0.1:{secure}?ca={}{identity}", file(ca))
    };
    let ours = connect(&url("ours.pem", "client")).await;
    // The port comes after the plain one, and the first handshake of a Java machine takes its time.
    until(Duration::from_secs(30), "the secure port", async || {
        ours.services(&ReadOptions::default()).await.is_ok()
    })
    .await;
    let instance = instance("a");
    ours.register(&registration(&instance)).await.unwrap();
    assert_eq!(lookup(&ours).await, std::slice::from_ref(&instance));
    let plain = connect(&server.url("")).await;
    assert_eq!(lookup(&plain).await, [instance]);
    for (ca, client, kind) in [
        ("other.pem", "client", ErrorKind::Unavailable),
        ("ours.pem", "foreign", ErrorKind::Unavailable),
        ("ours.pem", "", ErrorKind::Unavailable),
        ("none.pem", "client", ErrorKind::Config),
        ("client.key", "client", ErrorKind::Config),
    ] {
        let refused = connect(&url(ca, client)).await;
        let error = refused
            .lookup(&web(), &ReadOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{ca} {client}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_one_that_answers_is_enough() {
    if !is_installed() {
        return;
    }
    let server = Server::start().await;
    for _ in 0..4 {
        let url = format!(
            "zookeeper://127.0.0.1:1,localhost:{},[::1]:1?session=4s",
            server.port
        );
        let registry: Arc<dyn Registry> = connect(&url).await;
        let begin = Instant::now();
        assert!(lookup(&registry).await.is_empty());
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
    let connections = || {
        server
            .ask("cons")
            .unwrap_or_default()
            .matches("sid=")
            .count()
    };
    until(
        Duration::from_secs(2),
        "their sessions to end",
        async || connections() == 0,
    )
    .await;
}
