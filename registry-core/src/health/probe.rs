//! Asks a service how it is.

use std::error::Error as _;
use std::sync::OnceLock;

use reqwest::header::{CONTENT_TYPE, HeaderValue, TE};
use reqwest::{Client, Response};
use tokio::net::TcpStream;

use super::{Report, command};
use crate::instance::Address;
use crate::registration::CheckKind;

/// HTTP clients of one check, made when they are needed first.
#[derive(Default)]
pub(super) struct Clients {
    http: OnceLock<Client>,
    /// Speaks HTTP/2 from the first byte on, as gRPC does without TLS.
    grpc: OnceLock<Client>,
}

/// The answer of the standard health service that says `SERVING`: one uncompressed message, whose field 1 is 1.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];

/// The longest answer of a health service that is read.
const LONGEST: usize = 1024;

/// Asks once. The caller limits the time; dropping it ends what was begun.
pub(super) async fn probe(kind: &CheckKind, clients: &Clients) -> Report {
    match kind {
        CheckKind::Http(url) => http(clients, url).await,
        CheckKind::Tcp(address) => match TcpStream::connect(address.to_string()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("no connection: {error}")),
        },
        CheckKind::Grpc(address, service) => grpc(clients, address, service).await,
        CheckKind::Command(command) => command::run(command).await,
        CheckKind::Ttl => Ok(()),
    }
}

async fn http(clients: &Clients, url: &str) -> Report {
    let client = client(&clients.http, |builder| builder)?;
    let answer = client.get(url).send().await.map_err(chain)?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("the answer is {status}")),
    }
}

/// Asks `grpc.health.v1.Health/Check`, see <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
async fn grpc(clients: &Clients, address: &Address, service: &str) -> Report {
    let client = client(&clients.grpc, reqwest::ClientBuilder::http2_prior_knowledge)?;
    let url = format!("http://{address}/grpc.health.v1.Health/Check");
    let request = client
        .post(url)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(message(service));
    let mut answer = request.send().await.map_err(chain)?;
    if !answer.status().is_success() {
        return Err(format!("the answer is {}", answer.status()));
    }
    if let Some(status) = answer.headers().get("grpc-status")
        && status != "0"
    {
        let said = header(&answer, "grpc-message");
        return Err(format!("the health service says status {status:?} {said}"));
    }
    let mut said = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(chain)? {
        said.extend_from_slice(&chunk);
        if said.len() > LONGEST {
            return Err("the answer is not one of a health service".to_owned());
        }
    }
    match said == SERVING {
        true => Ok(()),
        false => Err("the health service does not say SERVING".to_owned()),
    }
}

/// A `HealthCheckRequest` for this service, as gRPC frames it.
fn message(service: &str) -> Vec<u8> {
    let mut request = Vec::new();
    if !service.is_empty() {
        // Field 1, of variable length.
        request.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            request.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        request.push(length as u8);
        request.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(request.len() as u32).to_be_bytes());
    frame.extend(request);
    frame
}

fn client(
    kept: &OnceLock<Client>,
    set: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<Client, String> {
    if let Some(client) = kept.get() {
        return Ok(client.clone());
    }
    // A connection that is kept would hide that no new one is taken.
    let builder = Client::builder().no_proxy().pool_max_idle_per_host(0);
    let client = set(builder).build().map_err(chain)?;
    Ok(kept.get_or_init(|| client).clone())
}

fn header(answer: &Response, name: &str) -> String {
    let value = answer.headers().get(name);
    let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    value.unwrap_or_default()
}

fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
