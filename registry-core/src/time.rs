//! Limits for what others do: times that cannot overflow whatever a caller asks for, and panics of plugins.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind, Result};

/// So far away that it never comes, and within what clocks and timers can hold.
pub(crate) const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The time after this duration, at most [`NEVER`].
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(NEVER)
}

/// The outcome of a call to a registry; `Unavailable` once the limit is over, `Protocol` if it panics.
pub(crate) async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    timeout_at(after(limit), caught(call))
        .await
        .unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("no answer within {limit:?}"),
            ))
        })
}

/// The outcome of a call to a plugin; `Protocol` if it panics, so that one defect does not end a task that serves all.
pub(crate) async fn caught<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let mut call = pin!(call);
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))).unwrap_or_else(|_| {
            let error = Error::new(
                ErrorKind::Protocol,
                "the plugin panicked; report this to its authors",
            );
            Poll::Ready(Err(error))
        })
    })
    .await
}
