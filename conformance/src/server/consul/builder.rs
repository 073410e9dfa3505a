//! How a Consul agent is set up.

use std::net::SocketAddr;
use std::path::Path;

use registry_core::{Error, ErrorKind, Result};

use super::{Access, Consul, ask, consul, quote, scratch};
use crate::server::{Authority, Container, LocalProcess, free_port};

/// The token of the operator, with [`ConsulBuilder::acl`].
const MANAGEMENT: &str = "c0f0c0f0-0000-4000-8000-000000000001";

/// A server that is not started yet: by default without security, on free ports.
#[derive(Clone, Debug, Default)]
pub struct ConsulBuilder {
    acl: bool,
    tls: bool,
    pub(super) datacenter: Option<&'static str>,
    /// A server of another data centre; it is ready when both know of each other.
    pub(super) beside: Option<SocketAddr>,
    configuration: Vec<String>,
}

impl ConsulBuilder {
    /// Denies what no token allows. The operator has [`Consul::management_token`].
    pub fn acl(mut self) -> Self {
        self.acl = true;
        self
    }

    /// Serves HTTPS, with certificates of its clients from its own [`Authority`], beside plain HTTP for the operator.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Adds to the configuration of the agent, in HCL or JSON.
    pub fn configuration(mut self, fragment: impl Into<String>) -> Self {
        self.configuration.push(fragment.into());
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// As [`Server::restart`](crate::Server::restart).
    pub async fn start(self) -> Result<Consul> {
        let plain = !self.acl && !self.tls && self.datacenter.is_none();
        if plain && self.configuration.is_empty() && self.beside.is_none() && Container::wanted() {
            let ready = |address| ready(address, None, "consul".to_owned(), 1);
            let server = Container::start(&Container::file(), "consul", ready).await?;
            return Ok(Consul {
                server: Box::new(server),
                node: "consul".to_owned(),
                rpc: None,
                wan: None,
                https: None,
                access: Access::default(),
                scratch: scratch()?,
            });
        }
        let datacenter = self.datacenter.unwrap_or("dc1");
        let agent = Agent::new(format!("{datacenter}-s0"));
        agent.start(Role::Alone, self).await
    }
}

/// What an agent is among others.
pub(super) enum Role {
    /// The only server of its data centre.
    Alone,
    /// One of three servers, which gossip at these ports.
    Server(Vec<u16>),
    /// An agent without the data, of the servers that gossip at these ports.
    Client(Vec<u16>),
}

/// An agent that is not started yet.
pub(super) struct Agent {
    node: String,
    http: u16,
    rpc: u16,
    pub(super) lan: u16,
    wan: u16,
}

impl Agent {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            http: free_port(),
            rpc: free_port(),
            lan: free_port(),
            wan: free_port(),
        }
    }

    pub(super) async fn start(self, role: Role, builder: ConsulBuilder) -> Result<Consul> {
        let Self {
            http,
            rpc,
            lan,
            wan,
            ..
        } = self;
        let datacenter = builder.datacenter.unwrap_or("dc1");
        let mut access = Access::default();
        let mut fragments = vec![format!(
            r#"datacenter = "{datacenter}"
            ports = {{ http = {http}, server = {rpc}, serf_lan = {lan}, dns = -1, grpc = -1, grpc_tls = -1 }}
            disable_update_check = true
            performance = {{ raft_multiplier = 1 }}"#
        )];
        let join = |ports: &[u16]| {
            let peers: Vec<_> = ports
                .iter()
                .map(|port| format!(r#""127.0.0.1:{port}""#))
                .collect();
            format!(
                "retry_join = [{}]\nretry_interval = \"1s\"",
                peers.join(", ")
            )
        };
        let is_server = !matches!(role, Role::Client(_));
        fragments.push(match &role {
            Role::Alone => {
                format!("server = true\nbootstrap_expect = 1\nports = {{ serf_wan = {wan} }}")
            }
            Role::Server(peers) => format!(
                "server = true\nbootstrap_expect = 3\nports = {{ serf_wan = -1 }}\n{}",
                join(peers)
            ),
            Role::Client(peers) => join(peers),
        });
        if builder.acl {
            access.token = Some(MANAGEMENT);
            fragments.push(format!(
                r#"primary_datacenter = "{datacenter}"
                acl = {{ enabled = true, default_policy = "deny",
                         tokens = {{ initial_management = "{MANAGEMENT}", agent = "{MANAGEMENT}" }} }}"#
            ));
        }
        let mut https = None;
        if builder.tls {
            let port = free_port();
            let authority = Authority::new().await?;
            let server = authority
                .server(&format!("server.{datacenter}.consul"))
                .await?;
            let client = authority.client("operator").await?;
            fragments.push(format!(
                r#"ports = {{ https = {port} }}
                tls = {{ defaults = {{ ca_file = {}, cert_file = {}, key_file = {},
                                       verify_incoming = true, verify_outgoing = true }} }}"#,
                quote(&authority.certificate().to_string_lossy()),
                quote(&server.certificate.to_string_lossy()),
                quote(&server.key.to_string_lossy()),
            ));
            https = Some(SocketAddr::from(([127, 0, 0, 1], port)));
            access.tls = Some((authority, client));
        }
        if let Some(other) = builder.beside {
            fragments.push(format!(
                "retry_join_wan = [\"{other}\"]\nretry_interval_wan = \"1s\""
            ));
        }
        fragments.extend(builder.configuration);
        let node = self.node.clone();
        let command = move |data: &Path| {
            let mut command = consul();
            command
                .args(["agent", "-bind=127.0.0.1", "-client=127.0.0.1"])
                .arg("-disable-host-node-id")
                .arg(format!("-node={node}"))
                .arg(format!("-data-dir={}", data.display()));
            for fragment in &fragments {
                command.arg("-hcl").arg(fragment);
            }
            command
        };
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let address = local(http);
        let (node, token) = (self.node.clone(), access.token);
        let datacenters = if builder.beside.is_some() { 2 } else { 1 };
        let ready = move || ready(address, token, node.clone(), datacenters);
        let server = LocalProcess::start_when(address, command, ready).await?;
        Ok(Consul {
            server: Box::new(server),
            node: self.node,
            rpc: is_server.then(|| local(rpc)),
            wan: matches!(role, Role::Alone).then(|| local(wan)),
            https,
            access,
            scratch: scratch()?,
        })
    }
}

/// Whether an agent knows a leader, which has its node in the catalog, and this many data centres.
async fn ready(
    address: SocketAddr,
    token: Option<&'static str>,
    node: String,
    datacenters: usize,
) -> Result<()> {
    let get = |path| ask(address, token, "GET", path, "");
    let not_yet = |what: &str| Error::new(ErrorKind::Unavailable, format!("not yet: {what}"));
    if !get("/v1/status/leader").await?.contains(':') {
        return Err(not_yet("a leader"));
    }
    let nodes = get("/v1/catalog/nodes").await?;
    if !nodes.contains(&format!(r#""Node":"{node}""#)) {
        return Err(not_yet("its node in the catalog"));
    }
    let known = get("/v1/catalog/datacenters").await?;
    match known.matches(',').count() + 1 >= datacenters {
        true => Ok(()),
        false => Err(not_yet("the other data centre")),
    }
}
