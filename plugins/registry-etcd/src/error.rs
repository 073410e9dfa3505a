//! What etcd's answers mean.

use std::error::Error as StdError;

use etcd_client::Error as EtcdError;
use registry_core::{Error, ErrorKind};

/// What to do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The endpoint is not to be relied on now: use another one, and a new connection.
    Rotate,
    /// The token is no longer good: authenticate again.
    Reauthenticate,
    /// The lease is not there any more.
    LeaseGone,
    /// A lease of this id is there already.
    LeaseExists,
    /// The user is not needed: the cluster asks for none.
    NoUser,
    /// The cluster asks for a user, and was told none.
    NeedsUser,
    /// The answer is larger than what is read at once.
    Smaller,
    /// It would fail again.
    None,
}

impl Remedy {
    /// Whether the connection's user or token is not what the cluster asks for.
    pub(crate) fn concerns_user(self) -> bool {
        matches!(self, Self::Reauthenticate | Self::NoUser | Self::NeedsUser)
    }
}

/// gRPC's numbers of the codes that etcd answers with.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What a failed call means.
pub(crate) fn read(error: EtcdError, endpoint: &str) -> (Remedy, Error) {
    let status = match error {
        EtcdError::GRpcStatus(status) => status,
        EtcdError::InvalidUri(_) | EtcdError::InvalidArgs(_) => {
            let message = "etcd's client refuses the configuration";
            return (
                Remedy::None,
                Error::new(ErrorKind::Config, message).because(error),
            );
        }
        // The keep-alive of a lease that is gone; etcd-client has no other way to say it.
        EtcdError::LeaseKeepAliveError(text) if text.contains("not found") => {
            return (Remedy::LeaseGone, lease_gone());
        }
        EtcdError::TransportError(error) if names_tls(&chain(&error)) => {
            return (Remedy::Rotate, tls_refused(endpoint).because(error));
        }
        error => {
            let failed = unavailable("the connection to etcd failed", endpoint);
            return (Remedy::Rotate, failed.because(error));
        }
    };
    let text = status.message().to_owned();
    if let Some((remedy, error)) = refusal(&text) {
        return (remedy, error.with("endpoint", endpoint));
    }
    let says = |kind, why: &str| Error::new(kind, format!("{why}: {text}"));
    let (remedy, error) = match i32::from(status.code()) {
        code::UNAUTHENTICATED => (Remedy::Reauthenticate, denied(&text)),
        code::PERMISSION_DENIED => (Remedy::None, denied(&text)),
        code::RESOURCE_EXHAUSTED | code::INVALID_ARGUMENT if text.contains("large") => (
            Remedy::None,
            says(ErrorKind::Invalid, "etcd takes no request of this size"),
        ),
        code::OUT_OF_RANGE if text.contains("message length too large") => (
            Remedy::Smaller,
            says(ErrorKind::Protocol, "etcd's answer is too large"),
        ),
        code::INVALID_ARGUMENT
        | code::FAILED_PRECONDITION
        | code::NOT_FOUND
        | code::OUT_OF_RANGE
        | code::UNIMPLEMENTED => (
            Remedy::None,
            says(ErrorKind::Protocol, "etcd refused a call"),
        ),
        // `Unknown` and `Cancelled` too: a connection that breaks reports as either.
        _ if names_tls(&chain(&status)) => (Remedy::Rotate, tls_refused("")),
        _ => (
            Remedy::Rotate,
            says(ErrorKind::Unavailable, "etcd does not answer"),
        ),
    };
    (
        remedy,
        error
            .with("endpoint", endpoint)
            .because(Chain(chain(&status))),
    )
}

/// What etcd says in words: the codes beside them differ between versions and kinds of token, and a cancelled watch
/// has only these.
pub(crate) fn refusal(text: &str) -> Option<(Remedy, Error)> {
    let has = |part: &str| text.contains(part);
    let answer = if has("invalid auth token") || has("revision of auth store is old") {
        (Remedy::Reauthenticate, denied(text))
    } else if has("authentication is not enabled") {
        (Remedy::NoUser, denied(text))
    } else if has("user name is empty") {
        (Remedy::NeedsUser, denied(text))
    } else if has("authentication failed") || has("permission denied") {
        (Remedy::None, denied(text))
    } else if has("requested lease not found") {
        (Remedy::LeaseGone, lease_gone())
    } else if has("lease already exists") {
        let why = "etcd has a lease of this id already; register again";
        (Remedy::LeaseExists, Error::new(ErrorKind::Unavailable, why))
    } else if has("revision has been compacted") || has("is a future revision") {
        let why = "etcd's history was cut off or replaced while it was read; read again";
        (Remedy::None, Error::new(ErrorKind::Lost, why))
    } else if has("database space exceeded") {
        let why = "etcd's database is full (alarm NOSPACE); compact and defragment it, then disarm the alarm";
        (Remedy::None, Error::new(ErrorKind::Unavailable, why))
    } else if has("too many requests") {
        let why = "etcd asks for fewer requests";
        (Remedy::None, Error::new(ErrorKind::Throttled, why))
    } else if has("no leader") {
        let why = "etcd's cluster has no leader";
        (Remedy::Rotate, Error::new(ErrorKind::Unavailable, why))
    } else {
        return None;
    };
    Some(answer)
}

/// Nothing came within the time of one call.
pub(crate) fn late(endpoint: &str, timeout: std::time::Duration) -> Error {
    unavailable(&format!("no answer from etcd within {timeout:?}"), endpoint)
}

pub(crate) fn unavailable(why: &str, endpoint: &str) -> Error {
    Error::new(ErrorKind::Unavailable, why).with("endpoint", endpoint)
}

pub(crate) fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Lost, why)
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

pub(crate) fn lease_gone() -> Error {
    lost("the lease of a registration is gone; register again")
}

fn denied(text: &str) -> Error {
    Error::new(
        ErrorKind::Denied,
        format!("etcd refuses the user or what the user may do: {text}"),
    )
}

fn tls_refused(endpoint: &str) -> Error {
    let why = "the TLS handshake with etcd failed; check ca, cert, key and the name of the host";
    let error = Error::new(ErrorKind::Denied, why);
    if endpoint.is_empty() {
        error
    } else {
        error.with("endpoint", endpoint)
    }
}

/// rustls' words: no type of it reaches us through etcd-client.
fn names_tls(chain: &str) -> bool {
    ["certificate", "UnknownIssuer", "received fatal alert"]
        .iter()
        .any(|word| chain.contains(word))
}

/// The causes of an error in one line: where the reason of a refused connection stands.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[derive(Debug)]
struct Chain(String);

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Chain {}
