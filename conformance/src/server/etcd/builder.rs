//! How an etcd server is set up.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use registry_core::{Error, ErrorKind, Result};

use super::{Access, Etcd, Local, scratch};
use crate::server::{Authority, Container, LocalProcess, Server, free_port, http};

/// A full server is ready to refuse writes.
const HEALTH: &str = "/health?exclude=NOSPACE";

/// A server that is not started yet: by default without security, on free ports.
#[derive(Clone, Debug, Default)]
pub struct EtcdBuilder {
    auth: bool,
    tls: bool,
    process: bool,
    arguments: Vec<String>,
}

impl EtcdBuilder {
    /// Demands a user: `root`, or one of [`Etcd::add_user`].
    pub fn auth(mut self) -> Self {
        self.auth = true;
        self
    }

    /// Demands TLS, with certificates of its clients from its own [`Authority`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Makes it a process of this machine, also where containers are asked for: for [`Etcd::restore`].
    pub fn process(mut self) -> Self {
        self.process = true;
        self
    }

    /// Adds an argument of `etcd`, such as `--quota-backend-bytes=1000000`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start(self) -> Result<Etcd> {
        let secured = self.auth || self.tls;
        if !secured && !self.process && self.arguments.is_empty() && Container::wanted() {
            let server = Container::start(&Container::file(), "etcd", healthy).await?;
            return Ok(Etcd {
                metrics: server.address(),
                server: Box::new(server),
                local: None,
                access: Access::default(),
                scratch: scratch()?,
            });
        }
        let member = Member::new("m0".to_owned());
        let cluster = member.peer();
        let auth = self.auth;
        let mut etcd = member.start(&cluster, self).await?;
        if auth {
            etcd.enable_auth().await?;
        }
        Ok(etcd)
    }
}

/// A member of a cluster that is not started yet.
pub(super) struct Member {
    name: String,
    client: u16,
    peer: u16,
    metrics: u16,
}

impl Member {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            client: free_port(),
            peer: free_port(),
            metrics: free_port(),
        }
    }

    /// What a cluster is told of it.
    pub(super) fn peer(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer)
    }

    pub(super) async fn start(self, cluster: &str, builder: EtcdBuilder) -> Result<Etcd> {
        let mut access = Access::default();
        let mut arguments = builder.arguments;
        if builder.tls {
            let authority = Authority::new().await?;
            let server = authority.server("etcd").await?;
            let client = authority.client("operator").await?;
            arguments.extend([
                "--client-cert-auth".to_owned(),
                format!("--cert-file={}", server.certificate.display()),
                format!("--key-file={}", server.key.display()),
                format!("--trusted-ca-file={}", authority.certificate().display()),
            ]);
            access.tls = Some((authority, client));
        }
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let membership = vec![
            format!("--name={}", self.name),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={cluster}"),
        ];
        let address = SocketAddr::from(([127, 0, 0, 1], self.client));
        let metrics = SocketAddr::from(([127, 0, 0, 1], self.metrics));
        let client = format!("{}://{address}", access.scheme());
        arguments.extend(membership.clone());
        arguments.extend([
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--listen-metrics-urls=http://{metrics}"),
        ]);
        let command = move |data: &Path| {
            let mut command = Command::new("etcd");
            command
                .args(&arguments)
                .arg("--data-dir")
                .arg(data.join("etcd"));
            command
        };
        let server = LocalProcess::start_when(address, command, move || healthy(metrics)).await?;
        let data = server.data().join("etcd");
        Ok(Etcd {
            server: Box::new(server),
            local: Some(Local { data, membership }),
            metrics,
            access,
            scratch: scratch()?,
        })
    }
}

async fn healthy(address: SocketAddr) -> Result<()> {
    let health = http::get(address, HEALTH).await?;
    match health.contains(r#""health":"true""#) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Unavailable, health)),
    }
}
