//! How a Eureka server is set up.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use registry_core::{Error, ErrorKind, Result};

use super::{Access, Eureka, LOGIN, program};
use crate::server::{Authority, Container, LocalProcess, free_port};

/// Evictions and answers without the delays that a production server adds. A list that was made while something changed
/// lacks it, and would be kept until the next change, for up to 180 s.
const SHORT: [&str; 6] = [
    "--eureka.server.eviction-interval-timer-in-ms=1000",
    "--eureka.server.use-read-only-response-cache=false",
    "--eureka.server.response-cache-auto-expiration-in-seconds=1",
    "--eureka.server.retention-time-in-m-s-in-delta-queue=5000",
    "--eureka.server.delta-retention-timer-interval-in-ms=500",
    "--eureka.server.registry-sync-retry-wait-ms=500",
];

/// A server that removes whoever is silent, however many they are.
const SELFLESS: [&str; 2] = [
    "--eureka.server.enable-self-preservation=false",
    "--eureka.server.renewal-percent-threshold=0",
];

/// A server that is not started yet: by default without security or peers, on a free port. Its windows are short: it
/// evicts each second, keeps no list for longer than that, and removes whoever is silent.
#[derive(Clone, Debug, Default)]
pub struct EurekaBuilder {
    production: bool,
    self_preservation: bool,
    login: bool,
    tls: bool,
    pub(super) port: Option<u16>,
    arguments: Vec<String>,
}

impl EurekaBuilder {
    /// Leaves all windows as Eureka has them: evictions each 60 s, lists that are up to 30 s old, self-preservation.
    pub fn production(mut self) -> Self {
        self.production = true;
        self
    }

    /// Keeps what has expired while many are silent, with windows that are short otherwise.
    pub fn self_preservation(mut self) -> Self {
        self.self_preservation = true;
        self
    }

    /// Demands [`Eureka::login`], by HTTP basic authentication. Eureka knows no user who may do less than everything.
    pub fn login(mut self) -> Self {
        self.login = true;
        self
    }

    /// Speaks TLS only, with certificates of its clients from its own [`Authority`]. The operator needs `curl`.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Adds an argument, such as `--eureka.server.disable-delta=true`. The last one of a name counts.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn start(self) -> Result<Eureka> {
        let plain = !self.production && !self.self_preservation && !self.login && !self.tls;
        if plain && self.arguments.is_empty() && Container::wanted() {
            let serves = |address| serves(Arc::default(), address);
            let server = Container::start(&Container::file(), "eureka", serves).await?;
            return Ok(Eureka {
                server: Box::new(server),
                access: Arc::default(),
            });
        }
        let jar = program()
            .as_ref()
            .map_err(|missing| Error::new(ErrorKind::Unavailable, missing.as_str()))?;
        let port = self.port.unwrap_or_else(free_port);
        let mut arguments = vec![
            "--server.address=127.0.0.1".to_owned(),
            format!("--server.port={port}"),
        ];
        if !self.production {
            arguments.extend(SHORT.map(str::to_owned));
            if !self.self_preservation {
                arguments.extend(SELFLESS.map(str::to_owned));
            }
        }
        if self.login {
            arguments.extend([
                "--spring.profiles.active=secured".to_owned(),
                format!("--spring.security.user.name={}", LOGIN.0),
                format!("--spring.security.user.password={}", LOGIN.1),
            ]);
        }
        let mut tls = None;
        if self.tls {
            let authority = Authority::new().await?;
            let server = authority.server("eureka").await?;
            arguments.extend([
                format!("--server.ssl.certificate={}", server.certificate.display()),
                format!(
                    "--server.ssl.certificate-private-key={}",
                    server.key.display()
                ),
                format!(
                    "--server.ssl.trust-certificate={}",
                    authority.certificate().display()
                ),
                "--server.ssl.client-auth=need".to_owned(),
            ]);
            let client = authority.client("operator").await?;
            tls = Some((authority, client));
        }
        for argument in self.arguments {
            // The server takes what is said twice for a list.
            arguments.retain(|other| name(other) != name(&argument));
            arguments.push(argument);
        }
        let command = move |data: &Path| {
            let mut java = Command::new("java");
            java.args(["-Xmx512m", "-Xss512k", "-XX:+UseSerialGC"])
                .args(["-XX:TieredStopAtLevel=1", "-jar"])
                .arg(jar)
                .args(&arguments)
                .current_dir(data);
            java
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let access = Arc::new(Access {
            login: self.login,
            tls,
        });
        let known = access.clone();
        let ready = move || serves(known.clone(), address);
        let server = LocalProcess::start_when(address, command, ready).await?;
        Ok(Eureka {
            server: Box::new(server),
            access,
        })
    }
}

fn name(argument: &str) -> &str {
    argument.split('=').next().unwrap_or_default()
}

async fn serves(access: Arc<Access>, address: SocketAddr) -> Result<()> {
    access.list(address).await.map(drop)
}
