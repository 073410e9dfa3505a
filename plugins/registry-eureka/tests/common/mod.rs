//! Real servers, and a proxy that changes what they answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use registry_conformance::free_port;
use registry_conformance::server::{LocalProcess, Server as _};
use registry_core::{Error, ErrorKind, Instance, Registration, Result};
use registry_eureka::{Eureka, EurekaConfig};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// How long anything may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Whether these tests cannot run here, which fails where they are required.
pub(crate) fn left_out() -> bool {
    let missing = |program: &str| Command::new(program).arg("-version").output().err();
    let missing = ["java", "mvn"].iter().find_map(|program| missing(program));
    let Some(error) = missing else { return false };
    let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == "eureka");
    assert!(!required, "there is no Java, or no Maven: {error}");
    eprintln!("left out: there is no Java, or no Maven: {error}");
    true
}

/// Servers start one at a time: Java takes all of a machine for it.
static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A server whose windows are short.
pub(crate) async fn start(port: u16, more: &[&str]) -> LocalProcess {
    let _starting = STARTING.lock().await;
    let build =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/servers/eureka/build");
    let built = Command::new(build)
        .output()
        .expect("the server can be built");
    let jar = String::from_utf8(built.stdout)
        .expect("a path")
        .trim()
        .to_owned();
    let more: Vec<_> = more.iter().map(|&one| one.to_owned()).collect();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let arguments = more.clone();
    let command = move |data: &Path| {
        let mut java = Command::new("java");
        java.args([
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-jar",
            &jar,
        ]);
        java.args([
            "--server.address=127.0.0.1",
            "--eureka.server.eviction-interval-timer-in-ms=500",
            "--eureka.server.renewal-percent-threshold=0.85",
            "--eureka.server.use-read-only-response-cache=false",
            "--eureka.server.retention-time-in-m-s-in-delta-queue=5000",
            "--eureka.server.delta-retention-timer-interval-in-ms=500",
        ]);
        java.arg(format!("--server.port={port}"))
            .args(&arguments)
            .current_dir(data);
        java
    };
    let secured = more.iter().any(|one| one.starts_with("--server.ssl"));
    let serves = move || async move {
        let failed = |error| Error::new(ErrorKind::Unavailable, "it does not serve").because(error);
        match reqwest::get(format!("http://{address}/eureka/apps")).await {
            Ok(reply) if secured => drop(reply),
            reply => drop(
                reply
                    .and_then(reqwest::Response::error_for_status)
                    .map_err(failed)?,
            ),
        }
        Ok(())
    };
    LocalProcess::start_when(address, command, serves)
        .await
        .expect("the server starts")
}

/// The server of most tests. Each has services of its own; it ends with the program.
pub(crate) async fn shared() -> SocketAddr {
    static SHARED: tokio::sync::OnceCell<LocalProcess> = tokio::sync::OnceCell::const_new();
    let started = SHARED.get_or_init(|| async {
        start(
            free_port(),
            &["--eureka.server.enable-self-preservation=false"],
        )
        .await
    });
    started.await.address()
}

pub(crate) fn config(servers: &[SocketAddr]) -> EurekaConfig {
    EurekaConfig::default()
        .servers(servers.iter().map(ToString::to_string))
        .poll(Duration::from_millis(300))
        .timeout(Duration::from_secs(3))
}

pub(crate) fn client(address: SocketAddr) -> Eureka {
    Eureka::new(config(&[address])).unwrap()
}

/// An instance of a service that only one test uses.
pub(crate) fn instance() -> Instance {
    let service = format!("Web-{:08x}", fastrand::u32(..));
    Instance::new(service, "10.0.0.1:80")
        .id("a")
        .build()
        .unwrap()
}

pub(crate) fn registration(instance: &Instance) -> Registration {
    Registration::from(instance.clone()).ttl(Duration::from_secs(120))
}

/// One request of another program.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<serde_json::Value>,
) -> (u16, String) {
    let url = format!("http://{address}/eureka{path}");
    let mut request = reqwest::Client::new()
        .request(method.parse().unwrap(), url)
        .header("accept", "application/json");
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let reply = request.send().await.unwrap();
    (reply.status().as_u16(), reply.text().await.unwrap())
}

/// Asks until it holds.
pub(crate) async fn eventually<F: Future<Output = Result<bool>>>(what: &str, ask: impl Fn() -> F) {
    let deadline = Instant::now() + LONG;
    loop {
        let now = ask().await;
        if matches!(now, Ok(true)) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited {LONG:?} for {what}; last: {now:?}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// What an answer is before and after the proxy changed it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content: String,
    pub(crate) body: String,
}

/// Gets the path and the authorization of the request, and the answer to change.
type Change = Box<dyn Fn(&str, Option<&str>, &mut Answer) + Send + Sync>;

/// Stands in front of a real server and changes its answers.
pub(crate) struct Rewriting {
    pub(crate) address: SocketAddr,
    change: Arc<Mutex<Change>>,
    /// How often everything was asked for.
    full: Arc<AtomicUsize>,
    /// How often changes were.
    delta: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Rewriting {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let change: Arc<Mutex<Change>> = Arc::new(Mutex::new(Box::new(|_, _, _| {})));
        let (full, delta) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let http = reqwest::Client::new();
        let own = (change.clone(), full.clone(), delta.clone());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (own, http) = (own.clone(), http.clone());
                let serve = service_fn(move |request: Request<Incoming>| {
                    let ((change, full, delta), http) = (own.clone(), http.clone());
                    async move {
                        let path = request.uri().to_string();
                        let counter = match path.as_str() {
                            "/eureka/apps" => Some(full),
                            "/eureka/apps/delta" => Some(delta),
                            _ => None,
                        };
                        if let Some(counter) = counter {
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                        let header = |name: &str| {
                            let value = request.headers().get(name)?;
                            Some(value.to_str().ok()?.to_owned())
                        };
                        let login = header("authorization");
                        let mut forwarded = http
                            .request(request.method().clone(), format!("http://{server}{path}"));
                        for name in ["accept", "content-type"] {
                            if let Some(value) = header(name) {
                                forwarded = forwarded.header(name, value);
                            }
                        }
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let reply = forwarded.body(body).send().await.unwrap();
                        let content = reply.headers().get("content-type").cloned();
                        let mut answer = Answer {
                            status: reply.status().as_u16(),
                            content: content
                                .map(|c| c.to_str().unwrap().to_owned())
                                .unwrap_or_default(),
                            body: reply.text().await.unwrap(),
                        };
                        change.lock().unwrap()(&path, login.as_deref(), &mut answer);
                        let mut response = Response::builder().status(answer.status);
                        if !answer.content.is_empty() {
                            response = response.header("content-type", answer.content);
                        }
                        if answer.status == 302 {
                            response = response.header("location", "/eureka/apps");
                        }
                        Ok::<_, Infallible>(
                            response.body(Full::new(Bytes::from(answer.body))).unwrap(),
                        )
                    }
                });
                open.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    // It ends as the client likes.
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), serve)
                        .await;
                });
            }
        });
        Self {
            address,
            change,
            full,
            delta,
            task,
        }
    }

    pub(crate) fn set(
        &self,
        change: impl Fn(&str, Option<&str>, &mut Answer) + Send + Sync + 'static,
    ) {
        *self.change.lock().unwrap() = Box::new(change);
    }

    /// How often everything was asked for, and how often changes were.
    pub(crate) fn asked(&self) -> (usize, usize) {
        (
            self.full.load(Ordering::Relaxed),
            self.delta.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        self.task.abort();
    }
}
