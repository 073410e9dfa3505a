//! Eureka of Spring Cloud: one server for all cases that do it no harm, and a pair of peers for the others, one case at
//! a time.
//!
//! A server of Eureka keeps its data in its peers and nowhere else. Clients know one of the pair; the other one is what
//! that one dies without losing anything, and what it fills itself from when it starts again. It removes nobody, as a
//! server does whose clients have gone silent all at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use registry_conformance::{Backend, Fault, Faults, LocalProcess, Server as _, Site, free_port};
use registry_core::{
    Capability, Drivers, Error, ErrorKind, Instance, InstanceKey, Registry, Result, TtlScope,
    Window, async_trait,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

/// How long peers may take to tell each other of a change.
const REPLICATED: Duration = Duration::from_secs(10);

/// `eureka://`, one server.
#[derive(Default)]
pub(crate) struct EurekaBackend {
    /// Ends with the last case.
    server: Arc<Mutex<Option<Arc<Node>>>>,
}

/// `eureka://`, of which one peer is known.
#[derive(Default)]
pub(crate) struct EurekaPeers {
    pair: Arc<Mutex<Option<Pair>>>,
}

const GENTLE: Faults = Faults {
    forget: true,
    spoil: true,
    wire: true,
    publish: true,
    maintain: true,
    processes: true,
    ..Faults::NONE
};

fn capability() -> Capability {
    let seen = Duration::from_millis(2500);
    let mut capability = Capability::new();
    capability.ttl = TtlScope::Registration;
    capability.default_ttl = Some(Duration::from_secs(3));
    capability.watch_all = true;
    capability.recheck = true;
    capability.faults_visible = false;
    capability.can_forget = true;
    capability.windows.visible = seen;
    capability.windows.gone = seen;
    capability.windows.crash = Some(Window {
        ttl_times: 2,
        plus: seen + Duration::from_secs(1),
    });
    capability.windows.removed = capability.windows.crash;
    capability.windows.reregister = Some(Window {
        ttl_times: 1,
        plus: seen,
    });
    capability.windows.settle = Duration::from_secs(4);
    capability
}

fn url(address: SocketAddr) -> String {
    format!(
        "eureka://{address}/eureka?poll=500ms&ttl=3s&cache=1s&eviction=1s&self-preservation=false"
    )
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    let drivers = Drivers::new().with(registry_eureka::DRIVER);
    drivers.connect(url).await
}

#[async_trait]
impl Backend for EurekaBackend {
    fn name(&self) -> &str {
        "eureka"
    }

    fn capability(&self) -> Capability {
        capability()
    }

    fn faults(&self) -> Faults {
        GENTLE
    }

    fn missing(&self) -> Option<String> {
        program().as_ref().err().cloned()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let mut shared = self.server.lock().await;
        let server = match &*shared {
            Some(server) => server.clone(),
            None => {
                let server = Node::start(&["--eureka.client.register-with-eureka=false"]);
                shared.insert(Arc::new(server.await?)).clone()
            }
        };
        // Cases with many instances run alone, and leave nobody behind who would be in the way of the next one.
        if Arc::strong_count(&server) == 2 && server.records().await?.len() > CROWD {
            server.clear().await?;
        }
        Ok(Box::new(Shared(server)))
    }
}

/// So many instances that are left over slow a case down.
const CROWD: usize = 1000;

#[async_trait]
impl Backend for EurekaPeers {
    fn name(&self) -> &str {
        "eureka-peers"
    }

    fn capability(&self) -> Capability {
        capability()
    }

    fn faults(&self) -> Faults {
        Faults {
            outage: true,
            hang: true,
            wipe: true,
            ..GENTLE
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(GENTLE)
    }

    fn missing(&self) -> Option<String> {
        program().as_ref().err().cloned()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        // The limit of a case counts from before this, and its turn comes when those before it are over.
        let prepared = block_in_place(|| Handle::current().block_on(prepare(self.pair.clone())));
        Ok(Box::new(prepared?))
    }
}

async fn prepare(pair: Arc<Mutex<Option<Pair>>>) -> Result<Peers> {
    let mut turn = pair.lock_owned().await;
    let server = match &*turn {
        Some(pair) => {
            pair.ready().await?;
            pair.known.clone()
        }
        None => turn.insert(Pair::start().await?).known.clone(),
    };
    Ok(Peers { server, turn })
}

/// The one server that all cases share, each with services of its own.
struct Shared(Arc<Node>);

#[async_trait]
impl Site for Shared {
    fn url(&self, via: Option<SocketAddr>) -> String {
        url(via.unwrap_or(self.0.process.address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.0.process.address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        self.0.inject(fault).await
    }

    fn log(&self) -> String {
        self.0.process.log()
    }
}

/// The pair, while it is one case's.
struct Peers {
    server: Arc<Node>,
    turn: OwnedMutexGuard<Option<Pair>>,
}

#[async_trait]
impl Site for Peers {
    fn url(&self, via: Option<SocketAddr>) -> String {
        url(via.unwrap_or(self.server.process.address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.server.process.address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        let pair = self.turn.as_ref().expect("it was started");
        match fault {
            Fault::Stop => pair.stop().await,
            Fault::Start => pair.restart().await,
            Fault::Pause => self.server.process.pause().await,
            Fault::Resume => self.server.process.resume().await,
            Fault::Wipe => pair.wipe().await,
            other => self.server.inject(other).await,
        }
    }

    fn log(&self) -> String {
        self.server.process.log()
    }
}

/// Two servers that tell each other of everything. Clients know the first one.
struct Pair {
    known: Arc<Node>,
    archive: Node,
}

impl Pair {
    async fn start() -> Result<Self> {
        // A server takes a peer for itself when both have one name.
        let (here, there) = (free_port(), free_port());
        let known = [
            "--eureka.instance.hostname=localhost".to_owned(),
            format!("--eureka.client.service-url.defaultZone=http://127.0.0.1:{there}/eureka/"),
        ];
        let archive = [
            "--eureka.instance.hostname=127.0.0.1".to_owned(),
            format!("--eureka.client.service-url.defaultZone=http://localhost:{here}/eureka/"),
        ];
        let (known, archive) = tokio::try_join!(
            Node::start_at(here, peer(known, "1000")),
            Node::start_at(there, peer(archive, "3600000")),
        )?;
        let pair = Self {
            known: Arc::new(known),
            archive,
        };
        pair.equal().await?;
        Ok(pair)
    }

    /// Brings it to where a case may begin.
    async fn ready(&self) -> Result<()> {
        // An error means that it is dead.
        let _ = self.known.process.resume().await;
        for server in [&*self.known, &self.archive] {
            if server.records().await.is_err() {
                server.process.restart().await?;
            }
        }
        for server in [&*self.known, &self.archive] {
            server.clear().await?;
        }
        self.equal().await
    }

    /// Waits until both hold the same.
    async fn equal(&self) -> Result<()> {
        eventually(REPLICATED, || async {
            let (here, there) = (self.known.records().await?, self.archive.records().await?);
            match here == there {
                true => Ok(()),
                false => Err(unavailable(&format!(
                    "the peers hold different records: {here:?} and {there:?}"
                ))),
            }
        })
        .await
    }

    async fn stop(&self) -> Result<()> {
        self.equal().await?;
        self.known.process.kill().await
    }

    async fn restart(&self) -> Result<()> {
        self.known.process.restart().await?;
        self.equal().await
    }

    /// The other one starts again with the next case: one that takes part in it is enough.
    async fn wipe(&self) -> Result<()> {
        self.archive.process.kill().await?;
        self.known.process.wipe().await
    }
}

fn peer(own: [String; 2], eviction: &str) -> Vec<String> {
    let common = [
        "--spring.application.name=eureka",
        "--eureka.client.register-with-eureka=true",
        "--eureka.client.fetch-registry=true",
        "--eureka.client.registry-fetch-interval-seconds=1",
        "--eureka.instance.lease-renewal-interval-in-seconds=1",
        "--eureka.instance.lease-expiration-duration-in-seconds=3",
        "--eureka.server.registry-sync-retry-wait-ms=500",
    ];
    let eviction = format!("--eureka.server.eviction-interval-timer-in-ms={eviction}");
    let common = common.into_iter().map(str::to_owned);
    common.chain(own).chain([eviction]).collect()
}

/// A server, and what another program and an operator do to it.
#[derive(Debug)]
struct Node {
    process: LocalProcess,
}

impl Node {
    async fn start(arguments: &[&str]) -> Result<Self> {
        let mut arguments: Vec<_> = arguments.iter().map(|&one| one.to_owned()).collect();
        arguments.push("--eureka.server.eviction-interval-timer-in-ms=1000".to_owned());
        Self::start_at(free_port(), arguments).await
    }

    async fn start_at(port: u16, arguments: Vec<String>) -> Result<Self> {
        let jar = program()
            .as_ref()
            .map_err(|missing| unavailable(missing.as_str()))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let command = move |data: &Path| {
            let mut java = Command::new("java");
            java.args([
                "-Xmx512m",
                "-Xss512k",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
            ])
            .arg("-jar")
            .arg(jar)
            .args([
                "--eureka.server.enable-self-preservation=false",
                "--eureka.server.renewal-percent-threshold=0",
                "--eureka.server.use-read-only-response-cache=false",
                "--eureka.server.retention-time-in-m-s-in-delta-queue=5000",
                "--eureka.server.delta-retention-timer-interval-in-ms=500",
                "--server.address=127.0.0.1",
            ])
            .arg(format!("--server.port={port}"))
            .args(&arguments)
            .current_dir(data);
            java
        };
        let serves = move || async move { ask(address, "GET", "/apps", None).await.map(drop) };
        let process = LocalProcess::start_when(address, command, serves).await?;
        Ok(Self { process })
    }

    /// Everything but the servers themselves: what a record says of its time, by its path.
    async fn records(&self) -> Result<BTreeMap<String, String>> {
        let body = self.ask("GET", "/apps", None).await?;
        let all: Value = serde_json::from_str(&body)
            .map_err(|error| unavailable("no list of instances").because(error))?;
        let applications = all["applications"]["application"].as_array();
        let mut records = BTreeMap::new();
        for record in applications
            .into_iter()
            .flatten()
            .flat_map(|application| application["instance"].as_array().into_iter().flatten())
        {
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            if text("app") != "EUREKA" {
                let path = format!("/apps/{}/{}", text("app"), text("instanceId"));
                records.insert(path, text("lastDirtyTimestamp") + &text("status"));
            }
        }
        Ok(records)
    }

    async fn clear(&self) -> Result<()> {
        for path in self.records().await?.into_keys() {
            self.ask("DELETE", &encoded(&path), None).await?;
        }
        Ok(())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Forget(key) => self.ask("DELETE", &path(key), None).await,
            Fault::Maintain(key) => {
                let path = format!("{}/status?value=OUT_OF_SERVICE", path(key));
                self.ask("PUT", &path, None).await
            }
            Fault::Release(key) => {
                let path = format!("{}/status?value=UP", path(key));
                self.ask("DELETE", &path, None).await
            }
            Fault::Publish(instances) => {
                for instance in instances {
                    self.post(theirs(instance)).await?;
                }
                return Ok(());
            }
            Fault::Spoil(service) => {
                for (number, fields) in spoilt().into_iter().enumerate() {
                    let id = format!("spoilt-{number}");
                    let mut record = record(service.as_str(), &id, "127.0.0.9", 9);
                    let fields = fields.as_object().cloned().unwrap_or_default();
                    record.as_object_mut().expect("it is one").extend(fields);
                    self.post(record).await?;
                }
                return Ok(());
            }
            other => return Err(other.unsupported()),
        }
        .map(drop)
    }

    async fn post(&self, record: Value) -> Result<()> {
        let app = record["app"].as_str().unwrap_or_default().to_owned();
        let body = json!({ "instance": record }).to_string();
        let path = format!("/apps/{app}");
        self.ask("POST", &path, Some(&body)).await.map(drop)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<String> {
        ask(self.process.address(), method, path, body).await
    }
}

/// One request on a connection of its own. What is not known is as good as done.
async fn ask(address: SocketAddr, method: &str, path: &str, body: Option<&str>) -> Result<String> {
    let body = body.unwrap_or_default();
    let request = format!(
        "{method} /eureka{path} HTTP/1.1\r\nHost: eureka\r\nConnection: close\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&reply).into_owned())
    };
    let reply = timeout(Duration::from_secs(10), exchange).await;
    let reply = reply.map_err(|_| unavailable("no answer to an operator"))?;
    let reply = reply.map_err(|error| unavailable("no operator's hand").because(error))?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !matches!(status, "200" | "204" | "404") {
        return Err(unavailable(&format!("{method} {path}: {reply}")));
    }
    match head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        true => Ok(unchunked(body)),
        false => Ok(body.to_owned()),
    }
}

fn encoded(path: &str) -> String {
    let encode = |byte: u8| match byte {
        b'/' | b':' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    path.bytes().map(encode).collect()
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// Where our record of an instance is, whose id has nothing to be escaped.
fn path(key: &InstanceKey) -> String {
    let app = key.service.as_str().to_uppercase();
    format!("/apps/{app}/{}:{}", key.service, key.id)
}

/// The record of a program of Spring.
fn theirs(instance: &Instance) -> Value {
    let address = instance.address.socket_addr().expect("cases use addresses");
    let (host, port) = (address.ip().to_string(), address.port());
    record(instance.service.as_str(), instance.id.as_str(), &host, port)
}

fn record(service: &str, id: &str, host: &str, port: u16) -> Value {
    json!({
        "instanceId": id,
        "app": service.to_uppercase(),
        "hostName": host,
        "ipAddr": host,
        "vipAddress": service,
        "secureVipAddress": service,
        "status": "UP",
        "port": { "$": port, "@enabled": "true" },
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 120 },
        "metadata": { "@class": "java.util.Collections$EmptyMap" },
    })
}

/// What the server takes and nobody can call.
fn spoilt() -> [Value; 5] {
    let long = "x".repeat(200);
    [
        json!({ "port": { "$": 70_000, "@enabled": "true" } }),
        json!({ "port": { "$": 0, "@enabled": "true" } }),
        json!({ "hostName": "no host", "ipAddr": "0.0.0.0" }),
        json!({ "instanceId": long }),
        json!({ "instanceId": "\u{7}" }),
    ]
}

/// Where the server is, which is built when it is asked for first; or why it cannot run.
fn program() -> &'static Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let java = Command::new("java").arg("-version").output();
        java.map_err(|error| format!("java: {error}"))?;
        if let Some(jar) = std::env::var_os("REGISTRY_TEST_EUREKA_JAR") {
            return Ok(jar.into());
        }
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/eureka/build");
        let built = Command::new(&build).output();
        let built = built.map_err(|error| format!("{}: {error}", build.display()))?;
        match built.status.success() {
            true => Ok(String::from_utf8_lossy(&built.stdout).trim().into()),
            false => Err(String::from_utf8_lossy(&built.stderr).into_owned()),
        }
    })
}

async fn eventually<F: Future<Output = Result<()>> + Send>(
    window: Duration,
    ask: impl Fn() -> F + Send,
) -> Result<()> {
    let deadline = Instant::now() + window;
    loop {
        match ask().await {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
            answer => return answer,
        }
    }
}

fn unavailable(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, why)
}
