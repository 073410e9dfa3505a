//! Eureka of Spring Cloud, built by `conformance/servers/eureka/build`.

mod builder;
mod peers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use registry_core::{Error, ErrorKind, Result};
use serde_json::Value;

use super::{Authority, Identity, Server, http, tool};

pub use builder::EurekaBuilder;
pub use peers::EurekaPeers;

/// The login of [`EurekaBuilder::login`], and how a request says it.
const LOGIN: (&str, &str) = ("registry", "conformance-login");
const BASIC: &str = "Authorization: Basic cmVnaXN0cnk6Y29uZm9ybWFuY2UtbG9naW4=";

/// One Eureka server and what its operator can do.
#[derive(Debug)]
pub struct Eureka {
    server: Box<dyn Server>,
    access: Arc<Access>,
}

/// How a request reaches the server.
#[derive(Debug, Default)]
struct Access {
    login: bool,
    tls: Option<(Authority, Identity)>,
}

impl Eureka {
    /// Why none can be started here, if so. Builds the server when it was not built yet, which takes a minute; the
    /// environment may name one that is built in `REGISTRY_TEST_EUREKA_JAR`.
    pub fn missing() -> Option<String> {
        program().as_ref().err().cloned()
    }

    /// Starts one without security, whose windows are short.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn start() -> Result<Self> {
        EurekaBuilder::default().start().await
    }

    /// One with other settings.
    pub fn builder() -> EurekaBuilder {
        EurekaBuilder::default()
    }

    /// The server, to be made to fail. It keeps no data: what it knows is gone when it ends, unless a peer has it.
    pub fn server(&self) -> &dyn Server {
        &*self.server
    }

    /// The authority that its clients must trust and be certified by, with [`EurekaBuilder::tls`].
    pub fn authority(&self) -> Option<&Authority> {
        self.access.tls.as_ref().map(|(authority, _)| authority)
    }

    /// The only user and the password, with [`EurekaBuilder::login`].
    pub fn login(&self) -> Option<(&str, &str)> {
        self.access.login.then_some(LOGIN)
    }

    /// Asks its API for a path below `/eureka`, with the login and a certificate where they are needed, and returns the
    /// body of the answer. What is sent and told is JSON.
    ///
    /// # Errors
    /// `Unavailable` without an answer in time; `Protocol` when the answer is not a 2xx, with its text.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        self.access
            .ask(self.server.address(), method, path, body)
            .await
    }

    /// As [`ask`](Self::ask), for what need not be there: it is as good as done.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), but for a 404.
    pub async fn settle(&self, method: &str, path: &str) -> Result<()> {
        match self.ask(method, path, "").await {
            Err(error) if error.to_string().contains(": 404 ") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// What it knows but servers: for each path of a record its timestamp and status.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `Protocol` when the answer is no JSON.
    pub async fn records(&self) -> Result<BTreeMap<String, String>> {
        let body = self.access.list(self.server.address()).await?;
        let all: Value = serde_json::from_str(&body).map_err(|error| {
            Error::new(ErrorKind::Protocol, "no list of instances").because(error)
        })?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let applications = list(&all["applications"]["application"]);
        let instances = applications.iter().flat_map(|app| list(&app["instance"]));
        let mut records = BTreeMap::new();
        for record in instances {
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            if text("app") != "EUREKA" {
                let path = format!(
                    "/apps/{}/{}",
                    encoded(&text("app")),
                    encoded(&text("instanceId"))
                );
                records.insert(path, text("lastDirtyTimestamp") + &text("status"));
            }
        }
        Ok(records)
    }

    /// Removes every record.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub async fn clear(&self) -> Result<()> {
        for path in self.records().await?.into_keys() {
            self.settle("DELETE", &path).await?;
        }
        Ok(())
    }
}

impl Access {
    /// Everything that it knows. A list that was made while something changed lacks it, and is kept until the next
    /// change. Nobody has asked for the list with these regions, which need not exist.
    async fn list(&self, address: SocketAddr) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/apps?regions=none-{number}");
        self.ask(address, "GET", &path, "").await
    }

    async fn ask(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<String> {
        let mut headers = vec![
            "Accept: application/json".to_owned(),
            "Content-Type: application/json".to_owned(),
        ];
        if self.login {
            headers.push(BASIC.to_owned());
        }
        let path = format!("/eureka{path}");
        let Some((authority, client)) = &self.tls else {
            return http::request(address, method, &path, &headers, body).await;
        };
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "10",
        ])
        .args(["--request", method, "--data-binary", "@-"])
        .args(headers.iter().flat_map(|header| ["--header", header]))
        .arg("--cacert")
        .arg(authority.certificate())
        .arg("--cert")
        .arg(&client.certificate)
        .arg("--key")
        .arg(&client.key)
        .arg(format!("https://{address}{path}"));
        tool(curl.into(), body.as_bytes()).await
    }
}

/// Where the server is, which is built when it is asked for first; or why it cannot run.
fn program() -> &'static Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(missing) = super::cannot_run("java".as_ref(), "-version") {
            return Err(missing);
        }
        if let Some(jar) = std::env::var_os("REGISTRY_TEST_EUREKA_JAR") {
            return Ok(jar.into());
        }
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/eureka/build");
        let built = Command::new(&build).output();
        let built = built.map_err(|error| format!("{}: {error}", build.display()))?;
        match built.status.success() {
            true => Ok(String::from_utf8_lossy(&built.stdout).trim().into()),
            false => Err(String::from_utf8_lossy(&built.stderr).into_owned()),
        }
    })
}

/// One part of the path of a URL.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b':' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
