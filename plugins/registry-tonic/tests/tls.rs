//! TLS to the instances: names, authorities and client certificates.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Fleet, SECOND, Server, check, config};
use registry_core::{Instance, TlsConfig};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Certificates in a directory of their own, made by openssl.
struct Certificates(PathBuf);

impl Certificates {
    /// `None` where there is no openssl.
    fn new() -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if !has_openssl() {
            eprintln!("left out: there is no openssl");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-tonic-tls-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let this = Self(directory);
        for authority in ["ca", "other"] {
            this.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout {authority}.key \
                 -out {authority}.pem -subj /CN={authority} -addext basicConstraints=critical,CA:TRUE \
                 -addext keyUsage=critical,keyCertSign"
            ));
        }
        this.sign("server", "DNS:greeter.internal,DNS:localhost,IP:127.0.0.1");
        this.sign("elsewhere", "DNS:elsewhere.internal");
        this.sign("client", "DNS:client.internal");
        Some(this)
    }

    fn sign(&self, name: &str, names: &str) {
        let extensions =
            format!("subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n");
        std::fs::write(self.file("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
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

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    fn server(&self, name: &str) -> ServerTlsConfig {
        let cert = self.read(&format!("{name}.pem"));
        ServerTlsConfig::new().identity(Identity::from_pem(cert, self.read(&format!("{name}.key"))))
    }

    fn trusting(&self, authority: &str) -> TlsConfig {
        TlsConfig::default().ca(self.file(&format!("{authority}.pem")))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn has_openssl() -> bool {
    let found = |directory: &Path| directory.join("openssl").exists();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| found(&directory))
}

#[tokio::test]
async fn a_certificate_must_be_made_out_to_the_address_or_the_name_that_is_given() {
    let Some(certificates) = Certificates::new() else {
        return;
    };
    let server = Server::with(Some(certificates.server("server")), "127.0.0.1:0");
    let port = server.address.port();
    for (address, name, authority, refused) in [
        ("127.0.0.1", None, "ca", ""),
        ("localhost", None, "ca", ""),
        ("127.0.0.1", Some("greeter.internal"), "ca", ""),
        (
            "127.0.0.1",
            Some("stranger.internal"),
            "ca",
            "not valid for name",
        ),
        ("127.0.0.1", None, "other", "certificate"),
    ] {
        let fleet = Fleet::new();
        let instance = Instance::new("greeter", format!("{address}:{port}")).id("secure");
        fleet.register(instance).await;
        let mut config = config().tls(certificates.trusting(authority));
        if let Some(name) = name {
            config = config.server_name(name);
        }
        let result = check(&fleet.client(config).await).await;
        if refused.is_empty() {
            result.unwrap();
            continue;
        }
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        for part in [refused, "secure at", "check server_name"] {
            assert!(status.message().contains(part), "{status}");
        }
    }
}

#[tokio::test]
async fn one_certificate_for_another_name_does_not_hide_the_others() {
    let Some(certificates) = Certificates::new() else {
        return;
    };
    let fleet = Fleet::new();
    let good = Server::with(Some(certificates.server("server")), "127.0.0.1:0");
    let bad = Server::with(Some(certificates.server("elsewhere")), "127.0.0.1:0");
    let plain = Server::start();
    fleet.add("good", good.address).await;
    fleet.add("bad", bad.address).await;
    fleet.add("plain", plain.address).await;
    let client = fleet
        .client(config().tls(certificates.trusting("ca")))
        .await;
    let start = Instant::now();
    for _ in 0..30 {
        check(&client).await.unwrap();
    }
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    assert_eq!((good.calls(), bad.calls(), plain.calls()), (30, 0, 0));
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let Some(certificates) = Certificates::new() else {
        return;
    };
    let tls = certificates
        .server("server")
        .client_ca_root(Certificate::from_pem(certificates.read("ca.pem")));
    let server = Server::with(Some(tls), "127.0.0.1:0");
    let fleet = Fleet::new();
    fleet.add("secure", server.address).await;
    let trusting = certificates.trusting("ca");
    let status = check(&fleet.client(config().tls(trusting.clone())).await)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let shown = trusting.identity(
        certificates.file("client.pem"),
        certificates.file("client.key"),
    );
    check(&fleet.client(config().tls(shown)).await)
        .await
        .unwrap();
}
