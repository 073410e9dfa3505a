//! How requests are sent, waited for and sent again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
#[cfg(doc)]
use registry_core::DiscoveryConfig;
use registry_core::{Error, ErrorKind, PeakEwma, Result, RetryBudget, Selector, ServiceName};

type Choose = Arc<dyn Fn(&ServiceName) -> Box<dyn Selector> + Send + Sync>;
type Rule = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// Configuration of a [`Resolve`](crate::Resolve): `default()` and setters.
#[derive(Clone)]
#[non_exhaustive]
pub struct ResolveConfig {
    /// How long a request waits while there is nobody to call. Default 0: it fails at once. The first request to a service
    /// waits for the registry's first answer before that, see [`DiscoveryConfig::first_snapshot`].
    pub wait: Duration,
    /// How long all of it may take until the head of the answer has come. Default: as long as the client lets it.
    pub timeout: Option<Duration>,
    /// How long each instance may take until the head of its answer has come. Default: as long as the client lets it. Of
    /// a request that is given up from outside, such as by a `Timeout` of tower around it, nothing is learned about the
    /// instance that hangs.
    pub attempt_timeout: Option<Duration>,
    /// How often a request is sent at most where it [may be repeated](Self::idempotent), 1 to 8. Default 3.
    pub attempts: usize,
    /// Up to how many bytes of a request's body are kept to send them again; a longer one is sent once. Default 256 KiB.
    pub replay_limit: usize,
    /// For which part of the requests to a service there may be a repetition, and how many per second beside. Default
    /// 0.2 and 10, see [`RetryBudget::new`].
    pub retry_budget: (f64, u32),
    /// How many services are followed at a time. Beyond, the one that was not called for the longest time is left.
    /// Default 256.
    pub services: usize,
    pub(crate) choose: Choose,
    pub(crate) idempotent: Rule,
}

impl Default for ResolveConfig {
    fn default() -> Self {
        Self {
            wait: Duration::ZERO,
            timeout: None,
            attempt_timeout: None,
            attempts: 3,
            replay_limit: 256 << 10,
            retry_budget: (0.2, 10),
            services: 256,
            choose: Arc::new(|_| Box::new(PeakEwma::default())),
            idempotent: Arc::new(|request| request.method.is_idempotent()),
        }
    }
}

impl ResolveConfig {
    /// Sets how long a request waits while there is nobody to call.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets how long the head of the answer may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how long one instance may take to that: then an idempotent request goes to another one.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Sets how often a request is sent at most.
    pub fn attempts(mut self, most: usize) -> Self {
        self.attempts = most;
        self
    }

    /// Sets up to how many bytes of a request's body are kept.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.replay_limit = bytes;
        self
    }

    /// Sets which part of the requests to a service may be sent again, 0 to 10, and how many per second beside.
    pub fn retry_budget(mut self, part: f64, per_second: u32) -> Self {
        self.retry_budget = (part, per_second);
        self
    }

    /// Sets how many services are followed at a time.
    pub fn services(mut self, most: usize) -> Self {
        self.services = most;
        self
    }

    /// Sets how an instance of each service is chosen. Default [`PeakEwma`]. A selector that is refused fails the requests
    /// to its service, with [`CallErrorKind::Registry`](crate::CallErrorKind::Registry).
    pub fn selector<S: Selector>(
        mut self,
        choose: impl Fn(&ServiceName) -> S + Send + Sync + 'static,
    ) -> Self {
        self.choose = Arc::new(move |service| Box::new(choose(service)));
        self
    }

    /// Says which requests may be done twice: they are sent to another instance when one answers 502, 503 or 504, is
    /// late, or when its connection breaks before it answers. Default: those whose method is idempotent, which are
    /// `GET`, `HEAD`, `OPTIONS`, `TRACE`, `PUT` and `DELETE` (RFC 9110, 9.2.2).
    pub fn idempotent(mut self, rule: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.idempotent = Arc::new(rule);
        self
    }

    pub(crate) fn budget(&self) -> RetryBudget {
        let (part, per_second) = self.retry_budget;
        RetryBudget::new(part, per_second)
    }

    /// Refuses what cannot work, with `Config`.
    pub(crate) fn check(&self) -> Result<()> {
        let zero = |time: Option<Duration>| time.is_some_and(|time| time.is_zero());
        let part = self.retry_budget.0;
        for (name, bad, allowed) in [
            ("timeout", zero(self.timeout), "more than 0"),
            ("attempt_timeout", zero(self.attempt_timeout), "more than 0"),
            ("attempts", !(1..=8).contains(&self.attempts), "1 to 8"),
            ("retry_budget", !(0.0..=10.0).contains(&part), "0 to 10"),
            ("services", self.services == 0, "1 and more"),
        ] {
            if bad {
                let why = format!("this {name} is refused; allowed: {allowed}");
                return Err(Error::new(ErrorKind::Config, why));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ResolveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolveConfig")
            .field("wait", &self.wait)
            .field("timeout", &self.timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("attempts", &self.attempts)
            .field("replay_limit", &self.replay_limit)
            .field("retry_budget", &self.retry_budget)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_as_they_are_told() {
        let config = ResolveConfig::default();
        assert_eq!((config.wait, config.timeout), (Duration::ZERO, None));
        assert_eq!((config.attempts, config.attempt_timeout), (3, None));
        assert_eq!((config.replay_limit, config.services), (256 << 10, 256));
        assert_eq!(config.retry_budget, (0.2, 10));
        for (method, idempotent) in [("PUT", true), ("DELETE", true), ("POST", false)] {
            let request = http::Request::builder().method(method).body(()).unwrap();
            assert_eq!((config.idempotent)(&request.into_parts().0), idempotent);
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let config = ResolveConfig::default;
        config().check().unwrap();
        config().wait(Duration::ZERO).check().unwrap();
        for bad in [
            config().timeout(Duration::ZERO),
            config().attempt_timeout(Duration::ZERO),
            config().attempts(0),
            config().attempts(9),
            config().services(0),
            config().retry_budget(10.1, 1),
            config().retry_budget(f64::NAN, 1),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad:?}");
        }
    }
}
