//! TLS to a real agent that asks for client certificates.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Agent, eventually, free_port, told};
use registry_consul::{Consul, ConsulConfig};
use registry_core::{
    Change, ErrorKind, Instance, ReadOptions, Registration, Registry, ServiceName, TlsConfig,
};
use serde_json::json;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

/// Certificates in a directory of their own, made by openssl.
struct Certificates(PathBuf);

impl Certificates {
    fn new() -> Self {
        let directory =
            std::env::temp_dir().join(format!("registry-consul-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let this = Self(directory);
        for authority in ["ca", "other"] {
            this.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout {authority}.key \
                 -out {authority}.pem -subj /CN={authority} -addext basicConstraints=critical,CA:TRUE \
                 -addext keyUsage=critical,keyCertSign"
            ));
        }
        this.sign("server", "ca");
        this.sign("client", "ca");
        this.sign("stranger", "other");
        this
    }

    fn sign(&self, name: &str, authority: &str) {
        let extensions = "subjectAltName=DNS:server.dc1.consul,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(self.file("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 1 \
             -out {name}.pem -extfile extensions"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn client(port: u16, tls: TlsConfig) -> Consul {
    let config = ConsulConfig::default().agents([format!("127.0.0.1:{port}")]);
    Consul::new(config.tls(tls)).unwrap()
}

fn has_openssl() -> bool {
    let found = |directory: &Path| directory.join("openssl").exists();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| found(&directory))
}

#[tokio::test]
async fn certificates_are_shown_and_checked() {
    if !has_openssl() {
        eprintln!("left out: there is no openssl");
        return;
    }
    let certificates = Certificates::new();
    let https = free_port();
    let text = |name| certificates.text(name);
    let config = json!({
        "ports": { "https": https },
        "tls": { "https": {
            "ca_file": text("ca.pem"), "cert_file": text("server.pem"), "key_file": text("server.key"),
            "verify_incoming": true,
        } },
    });
    let Some(_agent) = Agent::start(config).await else {
        return;
    };
    let trusting = TlsConfig::default().ca(text("ca.pem"));
    let with = |name: &str| {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        trusting
            .clone()
            .identity(certificates.file(&cert), certificates.file(&key))
    };
    let registry = client(https, with("client"));
    let service = ServiceName::try_from("web").unwrap();
    let options = ReadOptions::default();
    let mut watches = Vec::new();
    // More than an agent takes connections: they share one.
    for number in 0..300 {
        let service = ServiceName::try_from(format!("service-{number}")).unwrap();
        watches.push(registry.watch(&service.into(), &options).await.unwrap());
    }
    watches.push(
        registry
            .watch(&service.clone().into(), &options)
            .await
            .unwrap(),
    );
    for watch in &mut watches {
        let first = timeout(LIMIT, watch.next()).await.unwrap().unwrap();
        assert_eq!(first, [Change::Snapshot(vec![])]);
    }
    let instance = Instance::new("web", "127.0.0.7:80").id("i");
    registry
        .register(&Registration::new(instance).unwrap())
        .await
        .unwrap();
    let told = told(&mut *watches[300], LIMIT).await;
    assert!(matches!(told[..], [Change::Upsert(_)]), "{told:?}");
    eventually(LIMIT, "it", async || {
        registry.lookup(&service, &options).await.unwrap().len() == 1
    })
    .await;
    let distrustful = TlsConfig::default().ca(text("other.pem"));
    // The agent refuses a client after the handshake: its alert may come too late, when the connection has ended.
    let refused = &[ErrorKind::Denied, ErrorKind::Unavailable][..];
    let distrusts = &[ErrorKind::Denied][..];
    for (what, tls, kinds) in [
        ("no certificate", trusting.clone(), refused),
        ("a certificate of a stranger", with("stranger"), refused),
        ("another authority", distrustful, distrusts),
        ("the system's authorities", TlsConfig::default(), distrusts),
    ] {
        let answer = client(https, tls).lookup(&service, &options).await;
        let error = answer.expect_err(what);
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
        assert!(
            error.to_string().contains("certificate"),
            "{what}: {error:?}"
        );
    }
}
