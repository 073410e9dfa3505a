//! The smallest HTTP client that asks a server of the suite.

use std::net::SocketAddr;
use std::time::Duration;

use registry_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks for `path` and returns the body of a 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    request(address, "GET", path, &[], "").await
}

/// One request of HTTP/1.0, which servers answer in one piece and then close. Headers are lines without their end.
///
/// # Errors
/// `Unavailable` without an answer within 10 s; `Protocol` when the answer is not a 2xx: the message has its text.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[String],
    body: &str,
) -> Result<String> {
    let asked = || format!("{method} {path} at {address}");
    let mut head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("{head}\r\n{body}").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let unavailable = |why: &str| Error::new(ErrorKind::Unavailable, format!("{}: {why}", asked()));
    let answer = timeout(LIMIT, exchange)
        .await
        .map_err(|_| unavailable(&format!("no answer within {LIMIT:?}")))?
        .map_err(|error| unavailable("no answer").because(error))?;
    let protocol = |why: &str| Error::new(ErrorKind::Protocol, format!("{}: {why}", asked()));
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| protocol("no whole answer"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status.starts_with('2') {
        true => Ok(body.to_owned()),
        false => Err(protocol(&format!("{status} {}", body.trim()))),
    }
}
