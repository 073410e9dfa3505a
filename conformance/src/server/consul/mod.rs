//! Consul, started from its own program.

mod cluster;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use registry_core::{Error, ErrorKind, Result};

use super::directory::Directory;
use super::{
    Authority, Container, Identity, LocalProcess, Server, cannot_run, free_port, http, tool,
};

pub use cluster::ConsulCluster;

/// Where `conformance/servers/consul/build` puts the program, in the cache of the user.
const CACHED: &str = "registry-conformance/consul-1.14.4/consul";

/// The token of the operator, with [`ConsulBuilder::acl`].
const MANAGEMENT: &str = "c0f0c0f0-0000-4000-8000-000000000001";

/// One Consul agent, a server unless it is said otherwise, and what its operator can do.
#[derive(Debug)]
pub struct Consul {
    server: Box<dyn Server>,
    node: String,
    /// Where the servers speak with each other: how a server is named as a leader.
    rpc: Option<SocketAddr>,
    wan: Option<SocketAddr>,
    https: Option<SocketAddr>,
    access: Access,
    scratch: Directory,
}

#[derive(Debug, Default)]
struct Access {
    token: Option<&'static str>,
    tls: Option<(Authority, Identity)>,
}

/// A server that is not started yet: by default without security, in the data centre `dc1`, on free ports.
#[derive(Clone, Debug, Default)]
pub struct ConsulBuilder {
    acl: bool,
    tls: bool,
    datacenter: Option<String>,
    beside: Option<SocketAddr>,
    configuration: Vec<String>,
}

impl Consul {
    /// Why none can be started here, if so.
    pub fn missing() -> Option<String> {
        cannot_run(&program(), "version")
            .map(|reason| format!("{reason}; conformance/servers/consul/build builds it"))
    }

    /// Starts a server without security.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        ConsulBuilder::default().start().await
    }

    /// A server with other settings.
    pub fn builder() -> ConsulBuilder {
        ConsulBuilder::default()
    }

    /// The agent, to be made to fail. Its address is that of plain HTTP.
    pub fn server(&self) -> &dyn Server {
        &*self.server
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Where it serves HTTPS, with [`ConsulBuilder::tls`].
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// The authority that its clients must trust and be certified by, with [`ConsulBuilder::tls`].
    pub fn authority(&self) -> Option<&Authority> {
        self.access.tls.as_ref().map(|(authority, _)| authority)
    }

    /// The token that may do everything, with [`ConsulBuilder::acl`].
    pub fn management_token(&self) -> Option<&str> {
        self.access.token
    }

    /// Runs `consul` with these arguments, with the management token and over HTTPS where there is one, and returns
    /// what it writes.
    ///
    /// # Errors
    /// `Unavailable` with what it says when it fails.
    pub async fn consul(&self, arguments: &[&str]) -> Result<String> {
        let mut command = consul();
        command.args(arguments);
        match (&self.access.tls, self.https) {
            (Some((authority, client)), Some(https)) => {
                command
                    .env("CONSUL_HTTP_ADDR", format!("https://{https}"))
                    .env("CONSUL_CACERT", authority.certificate())
                    .env("CONSUL_CLIENT_CERT", &client.certificate)
                    .env("CONSUL_CLIENT_KEY", &client.key);
            }
            _ => {
                command.env("CONSUL_HTTP_ADDR", self.server.address().to_string());
            }
        }
        if let Some(token) = self.access.token {
            command.env("CONSUL_HTTP_TOKEN", token);
        }
        tool(command.into(), b"").await
    }

    /// Asks its HTTP API with the management token, where there is one, and returns the body of the answer.
    ///
    /// # Errors
    /// `Unavailable` without an answer within 10 s; `Protocol` when the answer is not a 2xx, with its text.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        ask(self.server.address(), self.access.token, method, path, body).await
    }

    /// Deregisters a service at this agent: the agent and the catalog forget it.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn deregister(&self, id: &str) -> Result<()> {
        let path = format!("/v1/agent/service/deregister/{}", escape(id));
        self.ask("PUT", &path, "").await.map(drop)
    }

    /// Removes a service of this agent from the catalog alone. The agent writes it again when it next compares: within
    /// about 90 s.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn remove_from_catalog(&self, id: &str) -> Result<()> {
        let body = format!(
            r#"{{"Node":{},"ServiceID":{}}}"#,
            quote(&self.node),
            quote(id)
        );
        self.ask("PUT", "/v1/catalog/deregister", &body)
            .await
            .map(drop)
    }

    /// Sets a TTL check of this agent to critical.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn fail_check(&self, check: &str) -> Result<()> {
        let path = format!("/v1/agent/check/fail/{}", escape(check));
        self.ask("PUT", &path, "").await.map(drop)
    }

    /// Switches the maintenance mode of a service of this agent on or off.
    ///
    /// # Errors
    /// As [`consul`](Self::consul).
    pub async fn set_maintenance(&self, id: &str, on: bool) -> Result<()> {
        let switch = if on { "-enable" } else { "-disable" };
        let service = format!("-service={id}");
        self.consul(&["maint", switch, &service]).await.map(drop)
    }

    /// Creates a policy with these rules, or gives them to the one that there is.
    ///
    /// # Errors
    /// As [`consul`](Self::consul).
    pub async fn set_policy(&self, policy: &str, rules: &str) -> Result<()> {
        let known = self
            .consul(&["acl", "policy", "list", "-format=json"])
            .await?;
        let known = known.contains(&format!(r#""Name": {}"#, quote(policy)));
        let name = format!("-name={policy}");
        let rules = format!("-rules={rules}");
        let verb: &[&str] = match known {
            true => &["acl", "policy", "update", "-no-merge"],
            false => &["acl", "policy", "create"],
        };
        self.consul(&[verb, &[&name, &rules]].concat())
            .await
            .map(drop)
    }

    /// Creates a token with this secret, a UUID, that has this policy.
    ///
    /// # Errors
    /// As [`consul`](Self::consul).
    pub async fn add_token(&self, secret: &str, policy: &str) -> Result<()> {
        let secret = format!("-secret={secret}");
        let policy = format!("-policy-name={policy}");
        self.consul(&["acl", "token", "create", &secret, &policy])
            .await
            .map(drop)
    }

    /// Deletes the token with this secret.
    ///
    /// # Errors
    /// As [`consul`](Self::consul).
    pub async fn remove_token(&self, secret: &str) -> Result<()> {
        let token = format!("-token={secret}");
        let said = self
            .consul(&["acl", "token", "read", "-self", &token])
            .await?;
        let accessor = column(&said, "AccessorID:")?;
        let id = format!("-id={accessor}");
        self.consul(&["acl", "token", "delete", &id])
            .await
            .map(drop)
    }

    /// Saves the state of the servers, and returns the file. It lives as long as this value.
    ///
    /// # Errors
    /// As [`consul`](Self::consul).
    pub async fn save(&self) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = self.scratch.join(format!("snapshot-{number}"));
        self.consul(&["snapshot", "save", &file.to_string_lossy()])
            .await?;
        Ok(file)
    }

    /// Replaces the state of the running servers by one that was saved.
    ///
    /// # Errors
    /// As [`consul`](Self::consul).
    pub async fn restore(&self, saved: &Path) -> Result<()> {
        self.consul(&["snapshot", "restore", &saved.to_string_lossy()])
            .await
            .map(drop)
    }
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

    /// The name of its data centre.
    pub fn datacenter(mut self, name: impl Into<String>) -> Self {
        self.datacenter = Some(name.into());
        self
    }

    /// Joins this server of another data centre; it is ready when both know of each other.
    pub fn beside(mut self, other: &Consul) -> Self {
        self.beside = other.wan;
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
    /// As [`Server::restart`].
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
        let datacenter = self.datacenter.as_deref().unwrap_or("dc1");
        let agent = Agent::new(format!("{datacenter}-s0"));
        agent.start(Role::Alone, self).await
    }
}

/// What an agent is among others.
enum Role {
    /// The only server of its data centre.
    Alone,
    /// One of three servers, which gossip at these ports.
    Server(Vec<u16>),
    /// An agent without the data, of the servers that gossip at these ports.
    Client(Vec<u16>),
}

/// An agent that is not started yet.
struct Agent {
    node: String,
    http: u16,
    rpc: u16,
    lan: u16,
    wan: u16,
}

impl Agent {
    fn new(node: String) -> Self {
        Self {
            node,
            http: free_port(),
            rpc: free_port(),
            lan: free_port(),
            wan: free_port(),
        }
    }

    async fn start(self, role: Role, builder: ConsulBuilder) -> Result<Consul> {
        let Self {
            http,
            rpc,
            lan,
            wan,
            ..
        } = self;
        let datacenter = builder.datacenter.as_deref().unwrap_or("dc1");
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

async fn ask(
    address: SocketAddr,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String> {
    let header = token.map(|token| format!("X-Consul-Token: {token}"));
    let headers: Vec<_> = header.into_iter().collect();
    http::request(address, method, path, &headers, body).await
}

/// The program that was built for the suite, or else the one of the machine.
fn program() -> OsString {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || Some(Path::new(&set("HOME")?).join(".cache"));
    let cache = set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cached = cache.map(|cache| cache.join(CACHED));
    match cached.filter(|program| program.is_file()) {
        Some(program) => program.into(),
        None => "consul".into(),
    }
}

fn consul() -> Command {
    let mut command = Command::new(program());
    // Settings of whoever runs the test are not for its servers.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONSUL_") {
            command.env_remove(name);
        }
    }
    command
}

fn scratch() -> Result<Directory> {
    Directory::new().map_err(|error| {
        Error::new(ErrorKind::Unavailable, "no directory for snapshots").because(error)
    })
}

/// The word after `name` in what a tool of Consul prints.
fn column(said: &str, name: &str) -> Result<String> {
    let value = said.lines().find_map(|line| line.strip_prefix(name));
    match value {
        Some(value) => Ok(value.trim().to_owned()),
        None => Err(Error::new(
            ErrorKind::Protocol,
            format!("no {name} in: {said}"),
        )),
    }
}

/// A string of JSON, and of HCL.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// One part of the path of a URL.
fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    escaped.collect()
}
