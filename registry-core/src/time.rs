//! Times that cannot overflow, whatever a caller asks for.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind, Result};

/// So far away that it never comes, and within what clocks and timers can hold.
pub(crate) const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The time after this duration, at most [`NEVER`].
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(NEVER)
}

/// The outcome of a call to a registry, or `Unavailable` once the limit is over.
pub(crate) async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    timeout_at(after(limit), call).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("no answer within {limit:?}"),
        ))
    })
}
