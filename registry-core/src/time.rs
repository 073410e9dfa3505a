//! Times that cannot overflow, whatever a caller asks for.

use std::time::Duration;

use tokio::time::Instant;

/// So far away that it never comes, and within what clocks and timers can hold.
pub(crate) const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The time after this duration, at most [`NEVER`].
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(NEVER)
}
