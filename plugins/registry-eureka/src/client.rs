//! HTTP to the servers.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use registry_core::{Error, ErrorKind, Result};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Identity, Method, Response, StatusCode, redirect};
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use crate::config::EurekaConfig;
use crate::lock;

/// Requests on their way at once, and so connections.
const ABREAST: usize = 16;

/// Tomcat closes a connection that was idle for 20 s; a request must not meet that.
const IDLE: Duration = Duration::from_secs(10);

const CONNECT: Duration = Duration::from_secs(2);

/// The longest answer: ten times the registry of 10,000 instances.
const LONGEST: usize = 128 << 20;

/// Where a server tells what changed lately.
pub(crate) const DELTA: &str = "/apps/delta";

/// What a part of a path may have as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    /// What follows the servers' path, encoded.
    path: String,
    body: Option<Vec<u8>>,
    /// The answer may be the whole registry.
    large: bool,
}

impl Request {
    pub(crate) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn put(path: String) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(crate) fn delete(path: String) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn post(path: String, body: Vec<u8>) -> Self {
        Self {
            body: Some(body),
            ..Self::new(Method::POST, path)
        }
    }

    pub(crate) fn large(mut self) -> Self {
        self.large = true;
        self
    }

    const fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            body: None,
            large: false,
        }
    }
}

/// A part of a path.
pub(crate) fn part(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, PLAIN)
}

/// What a server answered that is able to serve.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
    content: String,
    /// Which of the servers it was.
    pub(crate) server: usize,
}

/// A client of several servers of which one is enough.
pub(crate) struct Client {
    config: EurekaConfig,
    http: Mutex<Option<reqwest::Client>>,
    /// The server that is asked first.
    current: AtomicUsize,
    /// Which servers have answered as Eureka does: what another program says to an unknown path means nothing.
    proven: Vec<AtomicBool>,
    abreast: Semaphore,
}

impl Client {
    pub(crate) fn new(config: EurekaConfig) -> Result<Self> {
        let proven = config.servers.iter().map(|_| AtomicBool::new(false));
        let this = Self {
            proven: proven.collect(),
            http: Mutex::default(),
            current: AtomicUsize::new(0),
            abreast: Semaphore::new(ABREAST),
            config,
        };
        // Files that cannot be read are told now.
        this.http()?;
        Ok(this)
    }

    pub(crate) const fn config(&self) -> &EurekaConfig {
        &self.config
    }

    /// Asks the servers one after the other until one serves; the next request begins with that one.
    pub(crate) async fn send(&self, request: &Request) -> Result<Reply> {
        // Never an error: nobody closes it.
        let _abreast = self.abreast.acquire().await;
        let servers = self.config.servers.len();
        let first = self.current.load(Ordering::Relaxed);
        let mut failure = None;
        for server in (0..servers).map(|step| (first + step) % servers) {
            match self.ask(server, request).await {
                Ok(reply) => {
                    if server != first {
                        // Not where others have gone on meanwhile.
                        let _ = self.current.compare_exchange(
                            first,
                            server,
                            Ordering::Relaxed,
                            Ordering::Relaxed,
                        );
                    }
                    return Ok(reply);
                }
                Err(error) => {
                    let next = (server + 1) % servers;
                    let _ = self.current.compare_exchange(
                        server,
                        next,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    );
                    if !error.is_temporary() {
                        return Err(error);
                    }
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Config, "no server is named")))
    }

    /// Whether a server has answered as Eureka does.
    pub(crate) fn is_proven(&self, server: usize) -> bool {
        self.proven[server].load(Ordering::Relaxed)
    }

    /// A server has answered as Eureka does.
    pub(crate) fn prove(&self, server: usize) {
        self.proven[server].store(true, Ordering::Relaxed);
    }

    /// An error about what this server did.
    pub(crate) fn error(
        &self,
        kind: ErrorKind,
        server: usize,
        message: impl Into<String>,
    ) -> Error {
        Error::new(kind, message).with("server", &self.config.servers[server])
    }

    /// The body of a list, which must be one.
    pub(crate) fn list<'r>(&self, reply: &'r Reply) -> Result<&'r [u8]> {
        if reply.status != StatusCode::OK {
            return Err(self.unexpected(reply));
        }
        if reply.body.is_empty() {
            let why = "the server answered with nothing where it should list instances, as it does when it cannot \
                       write one of them; look into its log";
            return Err(self.error(ErrorKind::Unavailable, reply.server, why));
        }
        if !reply.content.contains("json") {
            let why = format!(
                "the server answered with {:?} in place of JSON; is it a Eureka server, and the path right?",
                excerpt(&reply.content)
            );
            return Err(self.error(ErrorKind::Protocol, reply.server, why));
        }
        Ok(&reply.body)
    }

    /// The error for an answer that does not fit what was asked.
    pub(crate) fn unexpected(&self, reply: &Reply) -> Error {
        let said = String::from_utf8_lossy(&reply.body);
        let why = match reply.status {
            StatusCode::NOT_FOUND => format!(
                "there is no Eureka under the path /{}; name it in the URL, as in eureka://host:8761/eureka",
                self.config.path
            ),
            status if said.trim().is_empty() => format!("the server answered {status}"),
            status => format!("the server answered {status}: {}", excerpt(&said)),
        };
        self.error(ErrorKind::Protocol, reply.server, why)
    }

    async fn ask(&self, server: usize, request: &Request) -> Result<Reply> {
        let http = self.http()?;
        let scheme = match self.config.tls {
            Some(_) => "https",
            None => "http",
        };
        let base: Vec<_> = self
            .config
            .path
            .split('/')
            .map(|path| part(path).to_string())
            .collect();
        let url = format!(
            "{scheme}://{}/{}{}",
            self.config.servers[server],
            base.join("/"),
            request.path
        );
        let mut asking = http
            .request(request.method.clone(), url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .timeout(match request.large {
                true => self.config.timeout * 2,
                false => self.config.timeout,
            });
        if let Some((user, password)) = &self.config.login {
            asking = asking.basic_auth(user, Some(password.expose_secret()));
        }
        if let Some(body) = &request.body {
            asking = asking
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(body.clone());
        }
        let failed = |error| self.failed(server, error);
        let mut response = asking.send().await.map_err(failed)?;
        self.refused(server, request, &response)?;
        let content = response.headers().get(CONTENT_TYPE);
        let content = content.and_then(|content| content.to_str().ok());
        let content = content.unwrap_or_default().to_ascii_lowercase();
        let length = response.content_length().unwrap_or_default();
        let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or(LONGEST).min(1 << 20));
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LONGEST {
                let why = format!("the answer is longer than {LONGEST} bytes");
                return Err(self.error(ErrorKind::Protocol, server, why));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status: response.status(),
            body,
            content,
            server,
        })
    }

    /// The error for a server that does not serve, or not us.
    fn refused(&self, server: usize, request: &Request, response: &Response) -> Result<()> {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let later = |error: Error| match retry_after {
            Some(seconds) => error.after(Duration::from_secs(seconds)),
            None => error,
        };
        let error = |kind, why: String| Err(self.error(kind, server, why));
        match status {
            StatusCode::UNAUTHORIZED => error(
                ErrorKind::Denied,
                "the server wants other credentials; give user and password in the URL, percent-encoded".to_owned(),
            ),
            // The server tells no changes, and everything all the same.
            StatusCode::FORBIDDEN if request.path.starts_with(DELTA) => Ok(()),
            // Whoever may not read is told so too, but a server that starts is by far the more frequent reason.
            StatusCode::FORBIDDEN if request.method == Method::GET => error(
                ErrorKind::Unavailable,
                "the server does not hand out the registry yet, as for minutes after its start; or we may not read it"
                    .to_owned(),
            ),
            StatusCode::FORBIDDEN => error(ErrorKind::Denied, "the server forbids it".to_owned()),
            StatusCode::TOO_MANY_REQUESTS => Err(later(self.error(
                ErrorKind::Throttled,
                server,
                "the server asks for fewer requests",
            ))),
            status if status.is_server_error() => Err(later(self.error(
                ErrorKind::Unavailable,
                server,
                format!("the server answered {status}"),
            ))),
            status if status.is_redirection() => error(
                ErrorKind::Protocol,
                format!("the server answered {status} and redirects; name the server itself"),
            ),
            _ => Ok(()),
        }
    }

    fn failed(&self, server: usize, error: reqwest::Error) -> Error {
        let error = error.without_url();
        let mut reasons = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reasons.push_str(&error.to_string());
            source = error.source();
        }
        if error.is_connect() && self.config.tls.is_some() {
            // Certificates may have been renewed.
            *lock(&self.http) = None;
        }
        let (kind, why) = if error.is_timeout() {
            (
                ErrorKind::Unavailable,
                format!("no answer within {:?}", self.config.timeout),
            )
        } else if reasons.to_ascii_lowercase().contains("certificate") {
            let why = "the certificate is refused; check the options ca, cert and key";
            (ErrorKind::Denied, why.to_owned())
        } else if error.is_connect() {
            (
                ErrorKind::Unavailable,
                "no connection to the server".to_owned(),
            )
        } else {
            (
                ErrorKind::Unavailable,
                "the connection broke, or carries something else than HTTP".to_owned(),
            )
        };
        self.error(kind, server, why).because(error)
    }

    fn http(&self) -> Result<reqwest::Client> {
        let mut http = lock(&self.http);
        if let Some(http) = &*http {
            return Ok(http.clone());
        }
        let built = self.build()?;
        *http = Some(built.clone());
        Ok(built)
    }

    fn build(&self) -> Result<reqwest::Client> {
        let bad = |what: &str, error: reqwest::Error| {
            Error::new(ErrorKind::Config, format!("{what} is refused")).because(error)
        };
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT.min(self.config.timeout))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(ABREAST);
        if let Some(tls) = &self.config.tls {
            builder = builder.https_only(true);
            if let Some(ca) = tls.read_ca()? {
                let ca = Certificate::from_pem_bundle(&ca);
                builder = builder.tls_certs_only(ca.map_err(|error| bad("the file of ca", error))?);
            }
            if let Some((cert, key)) = tls.read_identity()? {
                let identity = Identity::from_pem(&[cert, b"\n".to_vec(), key].concat());
                builder = builder
                    .identity(identity.map_err(|error| bad("a file of cert and key", error))?);
            }
        }
        builder
            .build()
            .map_err(|error| bad("the configuration of TLS", error))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The beginning of what somebody else wrote, on one line.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 120;
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.trim().chars().take(SHOWN).map(line).collect();
    if text.trim().chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}
