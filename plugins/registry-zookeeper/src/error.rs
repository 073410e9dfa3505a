//! What the client library says, in the terms of the contract.

use registry_core::{Error, ErrorKind};
use zookeeper_client as zk;

/// The error of a call, with what it was about.
pub(crate) fn call(what: &str, error: zk::Error) -> Error {
    let (kind, why) = match &error {
        zk::Error::NoAuth | zk::Error::AuthFailed => (
            ErrorKind::Denied,
            "the server does not allow it; check the login and the ACL of the path",
        ),
        zk::Error::InvalidAcl => (ErrorKind::Denied, "the server does not take the login"),
        zk::Error::QuotaExceeded => (ErrorKind::Denied, "the quota of the path is used up"),
        zk::Error::Throttled => (ErrorKind::Throttled, "the server asks for fewer requests"),
        zk::Error::Unimplemented => (
            ErrorKind::Unsupported,
            "the server is too old for it; ZooKeeper 3.6 or later is needed",
        ),
        zk::Error::BadArguments(_) => (ErrorKind::Invalid, "the path is refused"),
        zk::Error::UnmarshalError { .. }
        | zk::Error::MarshallingError
        | zk::Error::UnexpectedErrorCode(_) => {
            (ErrorKind::Protocol, "the answer does not fit the protocol")
        }
        _ => (ErrorKind::Unavailable, "the server does not answer"),
    };
    Error::new(kind, format!("{what}: {why}")).because(error)
}

pub(crate) fn late(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{what}: no answer in time"))
}

pub(crate) fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Lost, why)
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_truthfully() {
        for (error, kind) in [
            (zk::Error::NoAuth, ErrorKind::Denied),
            (zk::Error::AuthFailed, ErrorKind::Denied),
            (zk::Error::Throttled, ErrorKind::Throttled),
            (zk::Error::Unimplemented, ErrorKind::Unsupported),
            (zk::Error::ConnectionLoss, ErrorKind::Unavailable),
            (zk::Error::SessionExpired, ErrorKind::Unavailable),
            (zk::Error::NoHosts, ErrorKind::Unavailable),
            (zk::Error::UnexpectedErrorCode(-99), ErrorKind::Protocol),
        ] {
            let told = call("reading /a", error.clone());
            assert_eq!(told.kind(), kind, "{error}");
            assert!(told.to_string().contains("reading /a"), "{told}");
            assert!(format!("{told:?}").contains(&error.to_string()), "{told:?}");
        }
    }
}
