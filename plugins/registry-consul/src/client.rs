//! HTTP to the agents: one request, one answer, every failure in words.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use registry_core::{Error, ErrorKind, Result, TlsConfig};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Identity, Method, StatusCode, redirect};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::config::{BASE_CONNECTIONS, ConsulConfig};

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// How long a connection to an agent may take.
const CONNECT: Duration = Duration::from_secs(3);

/// An idle connection counts against the agent's limit.
const IDLE: Duration = Duration::from_secs(30);

/// How often the TLS files are looked at.
const REREAD: Duration = Duration::from_secs(10);

/// Calls at a time, watches apart: the shared watch and the probe have the connections that are left.
const CALLS: usize = BASE_CONNECTIONS - 4;

/// What a path segment may hold unencoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A part of a path.
pub(crate) fn segment(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, SEGMENT)
}

pub(crate) type Query<'a> = &'a [(&'static str, &'a str)];

/// The agents, and how to speak to them.
pub(crate) struct Client {
    http: Mutex<Http>,
    tls: Option<TlsConfig>,
    headers: HeaderMap,
    bases: Vec<String>,
    /// The agent that reads go to.
    reader: AtomicUsize,
    calls: Semaphore,
    pub(crate) timeout: Duration,
    pub(crate) has_token: bool,
    /// The agent of our registrations did not answer, and has not since.
    away: AtomicBool,
    /// It answered again after it had not: what it held may be lost.
    pub(crate) back: Notify,
}

struct Http {
    client: reqwest::Client,
    pem: Pem,
    read: Instant,
}

/// What the TLS files hold.
#[derive(Default, PartialEq)]
struct Pem {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// An answer that is no failure.
#[derive(Debug)]
pub(crate) struct Reply {
    /// `None` where the answer carries none.
    pub(crate) index: Option<u64>,
    /// The server says that the ACLs left something out. It says so for a request with a token that was not streamed.
    pub(crate) filtered: bool,
    /// Without a right the ACLs leave out everything.
    pub(crate) deny: bool,
    /// The agent's own view answered.
    pub(crate) streamed: bool,
    body: Vec<u8>,
}

impl Reply {
    /// The answer, from JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let why = "the agent's answer is not the JSON of Consul; does the URL name an agent?";
            Error::new(ErrorKind::Protocol, why).because(error)
        })
    }

    /// Whether it lists nothing.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.body.trim_ascii(), b"[]" | b"{}" | b"null")
    }
}

impl Client {
    /// A client of these agents. Reads the TLS files, and connects to nobody.
    pub(crate) fn new(config: &ConsulConfig) -> Result<Self> {
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let bases: Vec<_> = config
            .agents
            .iter()
            .map(|agent| format!("{scheme}://{agent}/v1/"))
            .collect();
        for (base, agent) in bases.iter().zip(&config.agents) {
            let valid = reqwest::Url::parse(base).is_ok_and(|url| url.path() == "/v1/");
            if !valid || agent.contains(['/', '?', '#', '@']) {
                let why = "an agent is refused; write host:port";
                return Err(Error::new(ErrorKind::Config, why));
            }
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            let value = HeaderValue::from_str(token.expose_secret());
            let mut value = value.map_err(|_| {
                let why =
                    "the token cannot be sent in a header; allowed: printable ASCII characters";
                Error::new(ErrorKind::Config, why)
            })?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        let pem = read(config.tls.as_ref())?;
        Ok(Self {
            http: Mutex::new(Http {
                client: build(&pem)?,
                pem,
                read: Instant::now(),
            }),
            tls: config.tls.clone(),
            has_token: !headers.is_empty(),
            headers,
            bases,
            reader: AtomicUsize::new(0),
            calls: Semaphore::new(CALLS),
            timeout: config.timeout,
            away: AtomicBool::new(false),
            back: Notify::new(),
        })
    }

    /// Asks the agent of our registrations. `None` for 404.
    pub(crate) async fn ask(&self, path: &str, query: Query<'_>) -> Result<Option<Reply>> {
        let _call = self.call().await?;
        let answer = self.send(0, Method::GET, path, query, None, self.timeout);
        answer.await
    }

    /// Asks the agent of our registrations for the health of a service, whose status is the answer's code.
    pub(crate) async fn ask_health(&self, path: &str) -> Result<Option<Reply>> {
        let _call = self.call().await?;
        let (status, reply) = self
            .exchange(0, Method::GET, path, &[], None, self.timeout)
            .await?;
        let healthy = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        match healthy.contains(&status) && reply.body.starts_with(b"{") {
            true => Ok(Some(reply)),
            false => judge(status, reply, None),
        }
    }

    /// Tells the agent of our registrations. `false` for 404: it does not know what this is about.
    pub(crate) async fn put(&self, path: &str, body: Option<Vec<u8>>) -> Result<bool> {
        let _call = self.call().await?;
        let answer = self.send(0, Method::PUT, path, &[], body, self.timeout);
        Ok(answer.await?.is_some())
    }

    /// Reads from the agents, from the next one where one does not answer.
    pub(crate) async fn read(&self, path: &str, query: Query<'_>) -> Result<Reply> {
        let _call = self.call().await?;
        let mut tried = 1;
        loop {
            let agent = self.reader.load(Ordering::Relaxed);
            let answer = self.send(agent, Method::GET, path, query, None, self.timeout);
            match answer.await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.turn_from(agent);
                    if tried == self.bases.len() {
                        return Err(error);
                    }
                    tried += 1;
                }
                answer => return found(answer?, path),
            }
        }
    }

    /// Waits at one agent for an answer that may come late, without taking a turn among the calls.
    pub(crate) async fn wait(
        &self,
        path: &str,
        query: Query<'_>,
        limit: Duration,
    ) -> Result<Reply> {
        let agent = self.reader.load(Ordering::Relaxed);
        let answer = self
            .send(agent, Method::GET, path, query, None, limit)
            .await;
        if answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Unavailable)
        {
            self.turn_from(agent);
        }
        found(answer?, path)
    }

    /// The next agent is read from, unless somebody turned already.
    fn turn_from(&self, agent: usize) {
        let next = (agent + 1) % self.bases.len();
        // Lost only to somebody who did the same.
        let _ = self
            .reader
            .compare_exchange(agent, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn call(&self) -> Result<impl Drop> {
        let permit = tokio::time::timeout(self.timeout, self.calls.acquire()).await;
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(silent(self.timeout, "every call before this one")),
        }
    }

    async fn send(
        &self,
        agent: usize,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<Option<Reply>> {
        let retry = |reply: &HeaderMap| {
            let seconds = reply.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_secs(seconds))
        };
        let mut after = None;
        let (status, reply) = self
            .exchange_with(agent, method, path, query, body, limit, |headers| {
                after = retry(headers);
            })
            .await?;
        judge(status, reply, after)
    }

    async fn exchange(
        &self,
        agent: usize,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<(StatusCode, Reply)> {
        self.exchange_with(agent, method, path, query, body, limit, |_| {})
            .await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one request; the callers above give names to what they leave out"
    )]
    async fn exchange_with(
        &self,
        agent: usize,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<Vec<u8>>,
        limit: Duration,
        headers: impl FnOnce(&HeaderMap) + Send,
    ) -> Result<(StatusCode, Reply)> {
        let base = &self.bases[agent];
        let http = self.http()?;
        let mut request = http
            .request(method, format!("{base}{path}"))
            .headers(self.headers.clone())
            .timeout(limit);
        if !query.is_empty() {
            request = request.query(query);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = async {
            let response = request.send().await?;
            headers(response.headers());
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            let mut reply = Reply {
                index: text("x-consul-index").and_then(|index| index.parse().ok()),
                filtered: text("x-consul-results-filtered-by-acls") == Some("true"),
                deny: text("x-consul-default-acl-policy") == Some("deny"),
                streamed: text("x-consul-query-backend") == Some("streaming"),
                body: Vec::new(),
            };
            let status = response.status();
            reply.body = response.bytes().await?.into();
            Ok((status, reply))
        };
        let answer: reqwest::Result<_> = answer.await;
        if agent == 0 {
            let gone = answer.is_err();
            if self.away.swap(gone, Ordering::Relaxed) && !gone {
                self.back.notify_one();
            }
        }
        answer.map_err(|error| self.failed(base, path, error, limit))
    }

    /// The client, with the TLS files as they are.
    fn http(&self) -> Result<reqwest::Client> {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if self.tls.is_some() && http.read.elapsed() > REREAD {
            http.read = Instant::now();
            let pem = read(self.tls.as_ref())?;
            if pem != http.pem {
                http.client = build(&pem)?;
                http.pem = pem;
            }
        }
        Ok(http.client.clone())
    }

    fn failed(&self, base: &str, path: &str, error: reqwest::Error, limit: Duration) -> Error {
        let agent = base.trim_end_matches("/v1/").to_owned();
        if error.is_timeout() && !error.is_connect() {
            return silent(limit, path).with("agent", agent);
        }
        if self.tls.is_some() && is_distrust(&error) {
            let why = "TLS is refused: one side does not trust the other's certificate; see \"ca\", \"cert\" and \"key\"";
            return Error::new(ErrorKind::Denied, why)
                .with("agent", agent)
                .because(error.without_url());
        }
        let why = match (error.is_connect(), self.tls.is_some()) {
            (true, false) => "no connection to the agent; is it running there?",
            (true, true) => {
                "no connection to the agent; is it running there with TLS, and do the certificates fit?"
            }
            (false, false) => "the connection to the agent broke",
            (false, true) => {
                "the connection to the agent broke; an agent that asks for a client certificate does so when it gets none that it trusts"
            }
        };
        Error::new(ErrorKind::Unavailable, why)
            .with("agent", agent)
            .because(error.without_url())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("agents", &self.bases)
            .finish_non_exhaustive()
    }
}

/// Whether a certificate is the reason. Only the text of the innermost error tells: an alert of the peer, or what our own
/// verification found.
fn is_distrust(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string().to_ascii_lowercase();
        if text.contains("certificate") || text.contains("unknownca") {
            return true;
        }
        source = error.source();
    }
    false
}

fn silent(limit: Duration, path: &str) -> Error {
    let why = format!("the agent did not answer within {limit:?}");
    Error::new(ErrorKind::Unavailable, why).with("request", path)
}

fn found(reply: Option<Reply>, path: &str) -> Result<Reply> {
    reply.ok_or_else(|| {
        let why = "the agent does not know this request; does the URL name an agent of Consul?";
        Error::new(ErrorKind::Protocol, why).with("request", path)
    })
}

/// What an answer's code means. `None` is a 404 of Consul.
fn judge(status: StatusCode, reply: Reply, after: Option<Duration>) -> Result<Option<Reply>> {
    const SHOWN: usize = 200;
    if status.is_success() {
        return Ok(Some(reply));
    }
    let text = String::from_utf8_lossy(&reply.body);
    let text: String = text.trim().chars().take(SHOWN).collect();
    let error = |kind, why: &str| {
        Err(Error::new(kind, format!("{why}: {text}")).with("code", status.as_u16()))
    };
    match status {
        StatusCode::NOT_FOUND if text.starts_with("Invalid URL path") || text.starts_with('<') => {
            error(ErrorKind::Protocol, "this is no agent of Consul")
        }
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => error(
            ErrorKind::Denied,
            "the ACLs do not allow it; give a token that may, with the option \"token\"",
        ),
        StatusCode::TOO_MANY_REQUESTS => error(
            ErrorKind::Throttled,
            "the agent takes no more; see limits.http_max_conns_per_client of its configuration",
        )
        .map_err(|error| match after {
            Some(after) => error.after(after),
            None => error,
        }),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
            error(ErrorKind::Invalid, "the agent refuses the request")
        }
        _ if text.starts_with("Scripts are disabled") => error(
            ErrorKind::Unsupported,
            "the agent runs no command checks; set enable_script_checks there or leave the check out",
        ),
        _ if status.is_server_error() => {
            error(ErrorKind::Unavailable, "the agent cannot serve now")
        }
        _ if status.is_redirection() => error(
            ErrorKind::Protocol,
            "the answer is a redirect, which is not followed; name the agent itself",
        ),
        _ => error(
            ErrorKind::Protocol,
            "the agent's answer has an unknown code",
        ),
    }
}

fn read(tls: Option<&TlsConfig>) -> Result<Pem> {
    let Some(tls) = tls else {
        return Ok(Pem::default());
    };
    Ok(Pem {
        ca: tls.read_ca()?,
        identity: tls.read_identity()?,
    })
}

fn build(pem: &Pem) -> Result<reqwest::Client> {
    let bad = |what: &str, error: reqwest::Error| {
        Error::new(
            ErrorKind::Config,
            format!("the TLS options cannot be used: {what}"),
        )
        .because(error)
    };
    let mut builder = reqwest::Client::builder()
        // An agent is a neighbour: a proxy for the internet does not lead to it.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(CALLS)
        .tcp_nodelay(true);
    if let Some(ca) = &pem.ca {
        let authorities = Certificate::from_pem_bundle(ca);
        let authorities =
            authorities.map_err(|error| bad("\"ca\" holds no certificates", error))?;
        builder = builder.tls_certs_only(authorities);
    }
    if let Some((cert, key)) = &pem.identity {
        let identity = Identity::from_pem(&[cert.as_slice(), b"\n", key.as_slice()].concat());
        let identity =
            identity.map_err(|error| bad("\"cert\" and \"key\" hold no identity", error))?;
        builder = builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| bad("no client can be made of them", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Reply {
        Reply {
            index: None,
            filtered: false,
            deny: false,
            streamed: false,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn every_code_has_its_kind() {
        for (code, body, kind) in [
            (403, "Permission denied: x", ErrorKind::Denied),
            (401, "", ErrorKind::Denied),
            (
                429,
                "Your IP is issuing too many concurrent connections",
                ErrorKind::Throttled,
            ),
            (400, "Invalid service address", ErrorKind::Invalid),
            (413, "", ErrorKind::Invalid),
            (500, "No cluster leader", ErrorKind::Unavailable),
            (500, "rpc error: code = Unavailable", ErrorKind::Unavailable),
            (502, "<html>", ErrorKind::Unavailable),
            (
                500,
                "Scripts are disabled on this agent from remote calls",
                ErrorKind::Unsupported,
            ),
            (
                404,
                "Invalid URL path: not a recognized HTTP API endpoint",
                ErrorKind::Protocol,
            ),
            (404, "<html>", ErrorKind::Protocol),
            (301, "", ErrorKind::Protocol),
            (418, "", ErrorKind::Protocol),
        ] {
            let status = StatusCode::from_u16(code).unwrap();
            let error = judge(status, reply(body), None).unwrap_err();
            assert_eq!(error.kind(), kind, "{code} {body}");
        }
        let unknown = judge(StatusCode::NOT_FOUND, reply("Unknown check ID \"x\""), None);
        assert!(unknown.unwrap().is_none());
        let wait = Some(Duration::from_secs(3));
        let busy = judge(StatusCode::TOO_MANY_REQUESTS, reply(""), wait).unwrap_err();
        assert_eq!(busy.retry_after(), wait);
    }

    #[test]
    fn an_answer_that_is_no_json_is_no_empty_list() {
        for body in ["", "<html></html>", "[", "{}x"] {
            let answer = reply(body).json::<Vec<u8>>();
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Protocol, "{body}");
            assert!(!reply(body).is_empty());
        }
    }

    #[test]
    fn a_token_that_no_header_takes_is_refused_and_not_shown() {
        let config = ConsulConfig::default().token("hunter2\n");
        let error = Client::new(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
