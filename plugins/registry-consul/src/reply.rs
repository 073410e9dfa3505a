//! What an agent answers, and what it means.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

/// Longest answer that is read, unpacked.
const LONGEST: usize = 128 << 20;

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
    /// How long the agent asks to wait before the next request.
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Reply {
    /// Reads an answer to its end. One that is too long is refused.
    pub(crate) async fn read(
        mut response: Response,
    ) -> reqwest::Result<Result<(StatusCode, Self)>> {
        let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let seconds = text("retry-after").and_then(|seconds| seconds.parse().ok());
        let mut reply = Self {
            index: text("x-consul-index").and_then(|index| index.parse().ok()),
            filtered: text("x-consul-results-filtered-by-acls") == Some("true"),
            deny: text("x-consul-default-acl-policy") == Some("deny"),
            streamed: text("x-consul-query-backend") == Some("streaming"),
            retry_after: seconds.map(Duration::from_secs),
            body: Vec::new(),
        };
        let status = response.status();
        while let Some(chunk) = response.chunk().await? {
            if reply.body.len() + chunk.len() > LONGEST {
                let why = format!(
                    "the answer is longer than {LONGEST} bytes; does the URL name an agent of Consul?"
                );
                return Ok(Err(Error::new(ErrorKind::Protocol, why)));
            }
            reply.body.extend_from_slice(&chunk);
        }
        Ok(Ok((status, reply)))
    }

    /// The answer, from JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let why = "the agent's answer is not the JSON of Consul; does the URL name an agent?";
            Error::new(ErrorKind::Protocol, why).because(error)
        })
    }

    /// Whether it is an object of JSON, as far as its beginning tells.
    pub(crate) fn is_object(&self) -> bool {
        self.body.starts_with(b"{")
    }

    /// Whether it lists nothing.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.body.trim_ascii(), b"[]" | b"{}" | b"null")
    }
}

/// What an answer's code means. `None` is a 404 of Consul.
pub(crate) fn judge(status: StatusCode, reply: Reply) -> Result<Option<Reply>> {
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
        .map_err(|error| match reply.retry_after {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Reply {
        Reply {
            index: None,
            filtered: false,
            deny: false,
            streamed: false,
            retry_after: None,
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
            let error = judge(status, reply(body)).unwrap_err();
            assert_eq!(error.kind(), kind, "{code} {body}");
        }
        let unknown = judge(StatusCode::NOT_FOUND, reply("Unknown check ID \"x\""));
        assert!(unknown.unwrap().is_none());
        let wait = Some(Duration::from_secs(3));
        let mut busy = reply("");
        busy.retry_after = wait;
        let busy = judge(StatusCode::TOO_MANY_REQUESTS, busy).unwrap_err();
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
}
