//! What registrars and discoveries tell the recorder of the crate `metrics`; without the feature, nothing.

use tokio::time::Instant;

use crate::error::Result;
use crate::instance::ServiceName;

/// A call to the registry has ended.
pub(crate) fn attempt<T>(operation: &'static str, begin: Instant, result: &Result<T>) {
    #[cfg(feature = "metrics")]
    {
        let outcome = result
            .as_ref()
            .map_or_else(|error| error.kind().name(), |_| "ok");
        let labels = [("operation", operation), ("outcome", outcome)];
        metrics::counter!("registry_attempts_total", &labels).increment(1);
        metrics::histogram!("registry_attempt_seconds", "operation" => operation)
            .record(begin.elapsed().as_secs_f64());
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (operation, begin, result);
}

/// The registry had forgotten a registration that is held.
pub(crate) fn forgotten() {
    #[cfg(feature = "metrics")]
    metrics::counter!("registry_forgotten_total").increment(1);
}

/// A watch has ended, and everything is read anew.
pub(crate) fn resync(service: &ServiceName) {
    #[cfg(feature = "metrics")]
    metrics::counter!("registry_resyncs_total", "service" => service.as_str().to_owned())
        .increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = service;
}

/// Counts one registration under its state, for as long as this is held.
#[derive(Debug)]
pub(crate) struct Counted(&'static str);

impl Counted {
    pub(crate) fn new(state: &'static str) -> Self {
        #[cfg(feature = "metrics")]
        metrics::gauge!("registry_registrations", "state" => state).increment(1.0);
        Self(state)
    }

    pub(crate) fn turns(&mut self, state: &'static str) {
        if self.0 != state {
            *self = Self::new(state);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        #[cfg(feature = "metrics")]
        metrics::gauge!("registry_registrations", "state" => self.0).decrement(1.0);
    }
}
