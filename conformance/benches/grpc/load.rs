//! Calls, how long they took and how many failed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, StdError};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Calls {
    times: Vec<Duration>,
    failed: usize,
}

impl Calls {
    pub(crate) fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.failed += other.failed;
    }

    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = sorted.get((last as f64 * share).round() as usize);
        at.copied().unwrap_or_default()
    }

    pub(crate) fn ratio(&self, other: &Self, share: f64) -> f64 {
        self.at(share).as_secs_f64() / other.at(share).as_secs_f64()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.times.len() + self.failed;
        let milliseconds = |share| self.at(share).as_secs_f64() * 1000.0;
        write!(
            f,
            "failed {:>5.1} %   median {:>7.3} ms   p99 {:>8.3} ms",
            100.0 * self.failed as f64 / all as f64,
            milliseconds(0.5),
            milliseconds(0.99)
        )
    }
}

/// Makes so many calls, `abreast` at a time.
pub(crate) async fn run<C>(channel: &C, abreast: usize, calls: usize) -> Calls
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Error: Into<StdError>,
    C::Future: Send,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let left = Arc::new(AtomicUsize::new(calls));
    let mut callers = JoinSet::new();
    for _ in 0..abreast {
        let (mut client, left) = (HealthClient::new(channel.clone()), left.clone());
        callers.spawn(async move {
            let mut calls = Calls::default();
            let take = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let begin = Instant::now();
                let call = client.check(HealthCheckRequest::default());
                match timeout(PATIENCE, call).await {
                    Ok(Ok(_)) => calls.times.push(begin.elapsed()),
                    _ => calls.failed += 1,
                }
            }
            calls
        });
    }
    let mut all = Calls::default();
    while let Some(calls) = callers.join_next().await {
        all.add(calls.unwrap_or_default());
    }
    all
}
