//! Waiting: polling with a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::case::{Failure, Outcome};

/// What a busy machine adds to every window.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

/// Within this the registrar and the discovery have noticed that a registry is back: they try at least every 5 s.
pub(crate) const RECOVERY: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(10);
const SLOWEST_POLL: Duration = Duration::from_millis(100);

/// Asks until the answer is `Ok`, and fails when it is not within `window`: the message says what was awaited and
/// what the last answer was.
pub(crate) async fn eventually<T, F, P>(window: Duration, what: &str, mut probe: P) -> Outcome<T>
where
    P: FnMut() -> F + Send,
    F: Future<Output = Outcome<T>> + Send,
    T: Send,
{
    let deadline = Instant::now() + window;
    let mut pause = POLL;
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => last = failure.message().to_owned(),
            Err(_) => {}
        }
        if Instant::now() + pause > deadline {
            return Err(Failure::new(format!(
                "waited {window:?} for {what}; last: {last}"
            )));
        }
        sleep(pause).await;
        pause = (pause * 2).min(SLOWEST_POLL);
    }
}

/// The result, if it comes within `window`.
pub(crate) async fn within<F>(window: Duration, what: &str, future: F) -> Outcome<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    tokio::time::timeout(window, future)
        .await
        .map_err(|_| Failure::new(format!("{what} took longer than {window:?}")))
}

/// Watches that a condition holds during all of `time`.
pub(crate) async fn throughout<F, P>(time: Duration, what: &str, mut probe: P) -> Outcome
where
    P: FnMut() -> F + Send,
    F: Future<Output = Outcome> + Send,
{
    let end = Instant::now() + time;
    while Instant::now() < end {
        probe()
            .await
            .map_err(|failure| Failure::new(format!("{what}: {}", failure.message())))?;
        sleep(POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_fails_says_what_for_and_what_was_there() {
        let mut asked = 0;
        let failure = eventually(Duration::from_secs(3), "rain", || {
            asked += 1;
            async { Err::<(), _>(Failure::new("sunshine")) }
        })
        .await
        .unwrap_err();
        assert_eq!(failure.message(), "waited 3s for rain; last: sunshine");
        assert!(asked > 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_does_not_outlast_the_window() {
        let hangs = || std::future::pending::<Outcome>();
        let failure = eventually(Duration::from_secs(3), "rain", hangs)
            .await
            .unwrap_err();
        assert!(failure.message().ends_with("last: no answer"));
        let begin = Instant::now();
        throughout(Duration::from_secs(1), "dry", || async { Ok(()) })
            .await
            .unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(1));
    }
}
