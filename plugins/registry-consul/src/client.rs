//! HTTP to the agents: one request, one answer, every failure in words.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use registry_core::{Error, ErrorKind, Result};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use tokio::sync::{Notify, Semaphore};

use crate::config::{BASE_CONNECTIONS, ConsulConfig};
use crate::http::Http;
use crate::reply::{Reply, judge};

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

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
    http: Http,
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
        Ok(Self {
            http: Http::new(config.tls.clone(), CALLS)?,
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
        match healthy.contains(&status) && reply.is_object() {
            true => Ok(Some(reply)),
            false => judge(status, reply),
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
        let exchange = self.exchange(agent, method, path, query, body, limit);
        let (status, reply) = exchange.await?;
        judge(status, reply)
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
        let base = &self.bases[agent];
        let http = self.http.client()?;
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
        let answer = async { Reply::read(request.send().await?).await }.await;
        if agent == 0 {
            let gone = answer.is_err();
            if self.away.swap(gone, Ordering::Relaxed) && !gone {
                self.back.notify_one();
            }
        }
        let answer = answer.map_err(|error| self.failed(base, path, error, limit))?;
        answer.map_err(|error| error.with("request", path))
    }

    fn failed(&self, base: &str, path: &str, error: reqwest::Error, limit: Duration) -> Error {
        let agent = base.trim_end_matches("/v1/").to_owned();
        if error.is_timeout() && !error.is_connect() {
            return silent(limit, path).with("agent", agent);
        }
        if self.http.is_tls() && is_distrust(&error) {
            let why = "TLS is refused: one side does not trust the other's certificate; see \"ca\", \"cert\" and \"key\"";
            return Error::new(ErrorKind::Denied, why)
                .with("agent", agent)
                .because(error.without_url());
        }
        let why = match (error.is_connect(), self.http.is_tls()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_no_header_takes_is_refused_and_not_shown() {
        let config = ConsulConfig::default().token("hunter2\n");
        let error = Client::new(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
