//! Consul, started from its own program.

mod builder;
mod cluster;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use registry_core::{Error, ErrorKind, Result};

use super::directory::Directory;
use super::{Authority, Identity, Server, cannot_run, http, tool};

pub use builder::ConsulBuilder;
pub use cluster::ConsulCluster;

/// Where `conformance/servers/consul/build` puts the program, in the cache of the user.
const CACHED: &str = "registry-conformance/consul-1.14.4/consul";

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

    /// Starts two servers, each alone in its data centre, `dc1` and `dc2`, which know of each other.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn two_datacenters() -> Result<[Self; 2]> {
        let mut builder = Self::builder();
        builder.datacenter = Some("dc1");
        let one = builder.clone().start().await?;
        builder.datacenter = Some("dc2");
        builder.beside = one.wan;
        let two = builder.start().await?;
        Ok([one, two])
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_is_that_of_the_module() {
        let module = include_str!("../../../servers/consul/go.mod");
        let version = module.lines().find_map(|line| {
            let version = line.trim().strip_prefix("github.com/hashicorp/consul v")?;
            version.split(' ').next()
        });
        let built = format!("registry-conformance/consul-{}/consul", version.unwrap());
        assert_eq!(built, super::CACHED);
    }
}
