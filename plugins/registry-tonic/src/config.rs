//! How a channel connects, waits and retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Error, ErrorKind, Result, RetryBudget, TlsConfig};
use tokio_rustls::rustls::pki_types::ServerName;

type Rule = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Configuration of a [`Channel`](crate::Channel): `default()` and setters.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// How long a connection may take to be made: name resolution, TCP, TLS and the peer's first words in HTTP/2
    /// together. Default 5 s.
    pub connect_timeout: Duration,
    /// The pause before an instance that could not be connected to is tried again. It doubles up to
    /// [`longest_pause`](Self::longest_pause), and each is shortened by up to a half at random. Default 100 ms.
    pub first_pause: Duration,
    /// The longest such pause: an instance that is back is noticed within this. Default 5 s.
    pub longest_pause: Duration,
    /// How long a connection is silent before the peer is asked for a sign of life; `None` for never. It doubles, up
    /// to 10 min, for a peer that closes the connection because of that: servers of grpc-go do, by default, when
    /// nothing else is said for some minutes. Default 30 s.
    pub keep_alive: Option<Duration>,
    /// How long the peer may take to give it before the connection counts as broken. Default 10 s.
    pub keep_alive_timeout: Duration,
    /// TLS to the instances. Default: none.
    pub tls: Option<TlsConfig>,
    /// The name that certificates must be made out to and that is sent as SNI and as the request's authority, for
    /// instances whose addresses are not in their certificates. Default: the host of each address.
    pub server_name: Option<String>,
    /// The gRPC service, such as `greeter.Greeter` or the empty name for all of a server, whose health each instance
    /// is asked for by the standard health service: who does not say that it serves is not called. One without a health
    /// service serves. Default: none is asked.
    pub health: Option<String>,
    /// Limits calls that have no deadline of their own, and those with a later one. Default: none.
    pub timeout: Option<Duration>,
    /// Whether a call waits while there is nobody to call. Default `false`: it fails at once.
    pub wait_for_ready: bool,
    /// How long it then waits at most where its deadline is not sooner. Default 30 s.
    pub longest_wait: Duration,
    /// How often a call is sent at most where it [may be repeated](Self::idempotent), 1 to 8. Default 3.
    pub attempts: usize,
    /// Up to how many bytes of a request are kept to send them again; a longer one is sent once. Default 256 KiB.
    pub replay_limit: usize,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) idempotent: Rule,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            keep_alive: Some(Duration::from_secs(30)),
            keep_alive_timeout: Duration::from_secs(10),
            tls: None,
            server_name: None,
            health: None,
            timeout: None,
            wait_for_ready: false,
            longest_wait: Duration::from_secs(30),
            attempts: 3,
            replay_limit: 256 << 10,
            budget: Arc::default(),
            idempotent: Arc::new(|_| false),
        }
    }
}

impl ChannelConfig {
    /// Sets how long a connection may take to be made.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the first and the longest pause before an instance is tried again.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// Sets when the peer of a silent connection is asked for a sign of life.
    pub fn keep_alive(mut self, interval: Option<Duration>) -> Self {
        self.keep_alive = interval;
        self
    }

    /// Sets how long the peer may take to give it.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = timeout;
        self
    }

    /// Sets how TLS is spoken.
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the name that certificates must be made out to.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Asks each instance for the health of this gRPC service; the empty name is that of a whole server.
    pub fn health(mut self, service: impl Into<String>) -> Self {
        self.health = Some(service.into());
        self
    }

    /// Limits every call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets whether a call waits while there is nobody to call.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Sets how long it then waits at most.
    pub fn longest_wait(mut self, wait: Duration) -> Self {
        self.longest_wait = wait;
        self
    }

    /// Sets how often a call is sent at most.
    pub fn attempts(mut self, most: usize) -> Self {
        self.attempts = most;
        self
    }

    /// Sets up to how many bytes of a request are kept.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.replay_limit = bytes;
        self
    }

    /// Sets which part of the calls may be sent again. Default: the budget's own default.
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Arc::new(budget);
        self
    }

    /// Says of which methods, such as `/greeter.Greeter/SayHello`, a call may be done twice: it is sent to another
    /// instance when one answers `UNAVAILABLE`, or when its connection breaks before it answers; and to the same one,
    /// where nobody else is left, after the pause that it asked for or when it is connected to again. Default: none.
    pub fn idempotent(mut self, rule: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.idempotent = Arc::new(rule);
        self
    }

    /// Refuses what cannot work, with `Config`.
    pub(crate) fn check(&self) -> Result<()> {
        let config = |why: &str| Err(Error::new(ErrorKind::Config, why));
        let zero = |time: Option<Duration>| time.is_some_and(|time| time.is_zero());
        if self.connect_timeout.is_zero()
            || self.first_pause.is_zero()
            || zero(self.keep_alive)
            || self.keep_alive_timeout.is_zero()
            || zero(self.timeout)
        {
            return config("a time of 0 is refused; allowed: more than 0");
        }
        if self.longest_pause < self.first_pause {
            return config("the longest pause is shorter than the first");
        }
        if !(1..=8).contains(&self.attempts) {
            return config("this number of attempts is refused; allowed: 1 to 8");
        }
        if let Some(name) = &self.server_name {
            let bad = ServerName::try_from(name.as_str()).is_err()
                || name.parse::<http::uri::Authority>().is_err();
            if bad {
                return config("the server name is refused; write a host name or an IPv4 address");
            }
        }
        if let Some(tls) = &self.tls {
            tls.read_ca()?;
            tls.read_identity()?;
        }
        Ok(())
    }
}

impl fmt::Debug for ChannelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelConfig")
            .field("connect_timeout", &self.connect_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("tls", &self.tls)
            .field("server_name", &self.server_name)
            .field("health", &self.health)
            .field("timeout", &self.timeout)
            .field("wait_for_ready", &self.wait_for_ready)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let config = ChannelConfig::default;
        config().check().unwrap();
        config().server_name("greeter.internal").check().unwrap();
        let zero = Duration::ZERO;
        for bad in [
            config().connect_timeout(zero),
            config().keep_alive(Some(zero)),
            config().timeout(zero),
            config().pauses(Duration::from_secs(2), Duration::from_secs(1)),
            config().attempts(0),
            config().attempts(9),
            config().server_name("no name"),
            config().tls(TlsConfig::default().ca("no/such.pem")),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad:?}");
        }
    }
}
