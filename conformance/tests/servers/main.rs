//! The servers of the suite themselves: they start, fail in each way, and come back.
//!
//! What fails here would be blamed on a plugin elsewhere.

mod consul;
mod etcd;
mod eureka;
mod zookeeper;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use registry_conformance::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    let trials = [
        etcd::trials(),
        consul::trials(),
        zookeeper::trials(),
        eureka::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that is ignored where its server is missing, unless `REGISTRY_TEST_REQUIRE` names it.
fn trial<F>(
    server: &'static str,
    name: &str,
    missing: fn() -> Option<String>,
    test: fn() -> F,
) -> Trial
where
    F: Future<Output = Result> + 'static,
{
    Trial::ignorable_test(format!("{server}::{name}"), move || {
        if let Some(reason) = missing() {
            let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
            return match required.split(',').any(|name| name.trim() == server) {
                true => Err(format!("required, and cannot run: {reason}").into()),
                false => Ok(Completion::ignored_with(reason)),
            };
        }
        let runtime = tokio::runtime::Runtime::new()?;
        let end = runtime.block_on(async { timeout(LIMIT, test()).await });
        match end {
            Ok(Ok(())) => Ok(Completion::Completed),
            Ok(Err(error)) => Err(format!("{error:?}").into()),
            Err(_) => Err(format!("it did not end within {LIMIT:?}").into()),
        }
    })
}

/// Fails with this message when the condition does not hold.
fn ensure(holds: bool, message: &str) -> Result {
    match holds {
        true => Ok(()),
        false => Err(message.into()),
    }
}

/// Asks until the answer is `true`.
async fn eventually(window: Duration, what: &str, mut ask: impl AsyncFnMut() -> bool) -> Result {
    let deadline = Instant::now() + window;
    while !ask().await {
        ensure(
            Instant::now() < deadline,
            &format!("waited {window:?} for {what}"),
        )?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A paused server lets clients connect and says nothing; one that was killed does not, and both come back. It answers
/// `request`.
async fn fails_and_comes_back(server: &dyn Server, request: &str) -> Result {
    ensure(answers(server, request).await, "it does not answer")?;
    server.pause().await?;
    TcpStream::connect(server.address()).await?;
    ensure(
        !answers(server, request).await,
        "it answers while it is paused",
    )?;
    server.resume().await?;
    eventually(Duration::from_secs(20), "an answer", async || {
        answers(server, request).await
    })
    .await?;
    for graceful in [false, true] {
        match graceful {
            true => server.terminate().await?,
            false => server.kill().await?,
        }
        let refused = TcpStream::connect(server.address()).await.is_err();
        ensure(refused, "it accepts connections after its end")?;
        ensure(server.pause().await.is_err(), "it is paused after its end")?;
        server.restart().await?;
        ensure(answers(server, request).await, "it is ready and silent")?;
    }
    ensure(!server.log().is_empty(), "it has no log")
}

/// A plain HTTP request for this path.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.0\r\n\r\n")
}

/// Whether a request is answered within a second.
async fn answers(server: &dyn Server, request: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(server.address()).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_u8().await
    };
    matches!(timeout(Duration::from_secs(1), ask).await, Ok(Ok(_)))
}
