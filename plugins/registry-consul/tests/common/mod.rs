//! A real agent, for what the suite cannot ask.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use registry_consul::{Consul, ConsulConfig};
use registry_core::{Change, Instance, ReadOptions, Registry, ServiceName, Status, Watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A server with data of its own, killed when it is dropped.
pub(crate) struct Agent {
    child: Child,
    directory: PathBuf,
    pub(crate) port: u16,
    http: reqwest::Client,
}

impl Agent {
    /// Starts a server with more configuration; `None` where there is no Consul and nobody requires it.
    pub(crate) async fn start(more: Value) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let program = program();
        if !program.exists() {
            let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
            let required = required.split(',').any(|name| name.trim() == "consul");
            assert!(!required, "there is no {}", program.display());
            eprintln!("left out: there is no {}", program.display());
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-consul-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let [port, server, serf] = [(); 3].map(|()| free_port());
        let mut config = json!({
            "ports": {
                "http": port, "server": server, "serf_lan": serf,
                "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
            },
            "performance": { "raft_multiplier": 1 },
            "disable_update_check": true,
        });
        for (key, value) in more.as_object().unwrap() {
            match (config[key].as_object_mut(), value.as_object()) {
                (Some(before), Some(more)) => before.extend(more.clone()),
                _ => config[key] = value.clone(),
            }
        }
        let file = directory.join("agent.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let child = spawn(&directory);
        let this = Self {
            child,
            directory,
            port,
            http: reqwest::Client::new(),
        };
        this.has_leader().await;
        Some(this)
    }

    /// Kills the server and starts it again, with its data.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.directory);
    }

    pub(crate) async fn has_leader(&self) {
        eventually(Duration::from_secs(30), "a leader", async || {
            let leader = self.get("status/leader", None).await;
            leader.as_str().is_some_and(|leader| !leader.is_empty())
        })
        .await;
    }

    /// What the agent answers; null for what is no JSON.
    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Value {
        self.ask(reqwest::Method::GET, path, token, None).await
    }

    pub(crate) async fn put(&self, path: &str, token: Option<&str>, body: Value) -> Value {
        self.ask(reqwest::Method::PUT, path, token, Some(body))
            .await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Value {
        self.ask(reqwest::Method::DELETE, path, Some(token), None)
            .await
    }

    async fn ask(
        &self,
        method: reqwest::Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Value {
        let url = format!("http://127.0.0.1:{}/v1/{path}", self.port);
        let mut request = self.http.request(method, url);
        if let Some(token) = token {
            request = request.header("X-Consul-Token", token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let Ok(answer) = request.send().await else {
            return Value::Null;
        };
        answer.json().await.unwrap_or_default()
    }

    /// A client of its own.
    pub(crate) fn client(&self, options: &str) -> Arc<Consul> {
        let url = format!("consul://127.0.0.1:{}?{options}", self.port);
        let config = ConsulConfig::try_from(&url.parse().unwrap()).unwrap();
        Arc::new(Consul::new(config).unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn spawn(directory: &Path) -> Child {
    Command::new(program())
        .args(["agent", "-server", "-bootstrap-expect=1", "-node=test"])
        .args([
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            "-disable-host-node-id",
        ])
        .arg("-data-dir")
        .arg(directory.join("data"))
        .arg("-config-file")
        .arg(directory.join("agent.json"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("CONSUL") {
        return program.into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(home, PathBuf::from)
        .join("registry-conformance/consul-1.14.4/consul")
}

/// The next changes that a watch tells, but for that nothing has changed.
pub(crate) async fn told(watch: &mut dyn Watcher, limit: Duration) -> Vec<Change> {
    let told = async {
        loop {
            let told = watch.next().await.unwrap();
            if told != [Change::Current] {
                return told;
            }
        }
    };
    tokio::time::timeout(limit, told).await.unwrap()
}

/// A port below those that the system gives to clients.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(11_000..20_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Asks until it is so.
pub(crate) async fn eventually(limit: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What a lookup finds.
pub(crate) async fn lookup(registry: &Consul, service: &str) -> Vec<Arc<Instance>> {
    let service = ServiceName::try_from(service).unwrap();
    registry
        .lookup(&service, &ReadOptions::default())
        .await
        .unwrap()
}

/// Waits until the only instance of a service has this status, and says how long that took.
pub(crate) async fn turns(
    registry: &Consul,
    service: &str,
    status: Status,
    limit: Duration,
) -> Duration {
    let begin = Instant::now();
    let what = format!("{service} to be {status}");
    eventually(limit, &what, async || {
        let found = lookup(registry, service).await;
        found.len() == 1 && found[0].status == status
    })
    .await;
    begin.elapsed()
}
