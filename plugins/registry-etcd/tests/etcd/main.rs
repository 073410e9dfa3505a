//! What the conformance suite does not ask of every backend, asked of a real etcd.

mod leases;
mod reading;
mod servers;

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use registry_conformance::{LocalProcess, Server as _, free_port};
use registry_core::{
    Change, Held, Instance, ReadOptions, Registration, Registry, Renewal, Scope, ServiceName,
    Watcher,
};
use registry_etcd::{Etcd, EtcdConfig};
use tokio::time::{Instant, sleep, timeout};

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(5);

struct Server {
    process: LocalProcess,
    raw: Client,
}

impl Server {
    /// A server of its own; `None`, with a word about it, where etcd is not installed.
    async fn start(arguments: &'static [&'static str]) -> Option<Self> {
        let mut version = Command::new("etcd");
        version.arg("--version").stdout(Stdio::null());
        if let Err(error) = version.status() {
            let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("etcd"), "etcd: {error}");
            eprintln!("nothing is asked of etcd: {error}");
            return None;
        }
        let (client, peer) = (free_port(), free_port());
        let command = move |data: &Path| {
            let url = |port| format!("http://127.0.0.1:{port}");
            let (client, peer) = (url(client), url(peer));
            let mut command = Command::new("etcd");
            command.arg("--data-dir").arg(data.join("etcd"));
            command.args(["--unsafe-no-fsync", "--name", "t"]);
            command.args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ]);
            command.args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ]);
            command.args(["--initial-cluster", &format!("t={peer}")]);
            command.args(arguments);
            command
        };
        let process = LocalProcess::start(([127, 0, 0, 1], client).into(), command);
        let process = process.await.unwrap();
        let address = process.address().to_string();
        let raw = Client::connect([address], None).await.unwrap();
        let this = Self { process, raw };
        // It accepts connections before it has a leader.
        until(async || this.raw.clone().get("any", None).await.is_ok()).await;
        Some(this)
    }

    fn address(&self) -> String {
        self.process.address().to_string()
    }

    fn client(&self) -> Etcd {
        Etcd::new(EtcdConfig::default().endpoint(self.address())).unwrap()
    }

    async fn put(&self, key: &str, value: &str) {
        self.raw.clone().put(key, value, None).await.unwrap();
    }

    /// The number of TCP connections that this process has to the server.
    fn connections(&self) -> usize {
        let port = format!(":{:04X}", self.process.address().port());
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let mine: HashSet<_> = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
            .filter_map(|link| {
                let link = link.to_string_lossy().into_owned();
                Some(
                    link.strip_prefix("socket:[")?
                        .trim_end_matches(']')
                        .to_owned(),
                )
            })
            .collect();
        let lines = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The state 01 is an established connection; the tenth column is the socket's number.
        lines
            .filter(|line| line.len() > 9 && line[2].ends_with(&port) && line[3] == "01")
            .filter(|line| mine.contains(line[9]))
            .count()
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "it does not come to hold");
        sleep(Duration::from_millis(10)).await;
    }
}

fn registration(id: &str) -> Registration {
    let instance = Instance::new("web", "10.0.0.1:80").id(id).build().unwrap();
    Registration::from(instance).ttl(Duration::from_secs(60))
}

fn service() -> ServiceName {
    "web".try_into().unwrap()
}

fn record(id: &str) -> String {
    registry_go_micro::encode(&registration(id).instance)
}

async fn register(client: &Etcd, registration: Registration) -> Held {
    let registered = client.register(&registration).await.unwrap();
    Held::new(Arc::new(registration), registered)
}

async fn renew(client: &Etcd, held: &Held) -> Renewal {
    let mut answers = client.renew(std::slice::from_ref(held)).await;
    answers.remove(0).unwrap()
}

async fn watch(client: &Etcd) -> Box<dyn Watcher> {
    let scope = Scope::from(service());
    client.watch(&scope, &ReadOptions::default()).await.unwrap()
}

async fn next(watch: &mut Box<dyn Watcher>) -> Vec<Change> {
    loop {
        let changes = timeout(SOON, watch.next()).await.unwrap().unwrap();
        if changes != [Change::Current] {
            return changes;
        }
    }
}

fn size(changes: &[Change]) -> usize {
    match changes {
        [Change::Snapshot(instances)] => instances.len(),
        changes => changes.len(),
    }
}
