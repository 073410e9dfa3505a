//! Many requests on their way at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use registry_core::Result;
use zookeeper_client as zk;

use crate::client::Conn;
use crate::error;

/// Most requests on their way at once.
pub(crate) const WINDOW: usize = 512;

/// Begins requests in this order, up to 512 ahead of their answers, and gives the answers in the same order.
///
/// The server answers in the order of the requests, so that only the first one has to be waited for. A request is sent
/// when its future is made.
pub(crate) async fn pipeline<T, F>(
    conn: &Conn,
    what: &str,
    requests: impl Iterator<Item = F> + Send,
) -> Vec<Result<T>>
where
    F: Future<Output = Result<T, zk::Error>> + Send,
    T: Send,
{
    let raw = pipeline_raw(conn, what, requests).await;
    let name =
        |answer: Result<Result<T, zk::Error>>| answer?.map_err(|error| error::call(what, error));
    raw.into_iter().map(name).collect()
}

/// As [`pipeline`], for a caller who understands some of the server's own errors.
pub(crate) async fn pipeline_raw<T, F>(
    conn: &Conn,
    what: &str,
    mut requests: impl Iterator<Item = F> + Send,
) -> Vec<Result<Result<T, zk::Error>>>
where
    F: Future<Output = Result<T, zk::Error>> + Send,
    T: Send,
{
    let mut running: VecDeque<Pin<Box<F>>> = VecDeque::new();
    let mut answers = Vec::new();
    loop {
        running.extend(requests.by_ref().take(WINDOW - running.len()).map(Box::pin));
        let Some(first) = running.pop_front() else {
            return answers;
        };
        match conn.attempt(what, first).await {
            Ok(answer) => answers.push(Ok(answer)),
            Err(error) => {
                // Nothing comes any more: nobody waits for each of the others.
                let left = 1 + running.len() + requests.count();
                answers.extend(std::iter::repeat_with(|| Err(error.clone())).take(left));
                return answers;
            }
        }
    }
}
