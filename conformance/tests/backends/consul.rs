//! Consul: one agent that is its own server, for each case.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_conformance::{Backend, Fault, Faults, LocalProcess, Server, Site, free_port};
use registry_consul::{Consul, ConsulConfig};
use registry_core::{
    Capability, Check, Error, ErrorKind, InstanceKey, Registry, Result, TtlScope, Window,
    async_trait,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const VERSION: &str = "1.14.4";

/// How long a server takes to elect itself, on a machine that is busy.
const READY: Duration = Duration::from_secs(30);

/// The binary that `CONSUL` names, or the one in the cache.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("CONSUL") {
        return program.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache
        .unwrap_or_else(home)
        .join("registry-conformance")
        .join(format!("consul-{VERSION}"))
        .join("consul")
}

pub(crate) struct ConsulBackend;

#[async_trait]
impl Backend for ConsulBackend {
    fn name(&self) -> &str {
        "consul"
    }

    fn capability(&self) -> Capability {
        let after_ttl = |seconds| Window {
            ttl_times: 1,
            plus: Duration::from_secs(seconds),
        };
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Registration;
        capability.default_ttl = Some(Duration::from_secs(15));
        capability.checks = &[Check::Http, Check::Tcp, Check::Grpc, Check::Command];
        capability.watch_all = true;
        capability.datacenters = true;
        capability.conflicts = true;
        capability.can_forget = true;
        capability.windows.crash = Some(after_ttl(1));
        capability.windows.removed = Some(after_ttl(95));
        capability.windows.reregister = Some(after_ttl(1));
        capability
    }

    fn faults(&self) -> Faults {
        Faults {
            outage: true,
            hang: true,
            wipe: true,
            forget: true,
            spoil: true,
            wire: true,
            restore: true,
            publish: true,
            maintain: true,
            processes: true,
            ..Faults::NONE
        }
    }

    fn missing(&self) -> Option<String> {
        let program = program();
        (!program.exists()).then(|| {
            let program = program.display();
            format!("there is no {program}; install Consul {VERSION} there or name it in CONSUL")
        })
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        let config = ConsulConfig::try_from(&url.parse()?)?;
        Ok(Arc::new(Consul::new(config)?))
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let [http, server, serf] = [(); 3].map(|()| free_port());
        let address = SocketAddr::from(([127, 0, 0, 1], http));
        let config = json!({
            "ports": {
                "http": http, "server": server, "serf_lan": serf,
                "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
            },
            "performance": { "raft_multiplier": 1 },
            "disable_update_check": true,
        });
        let process = LocalProcess::start(address, move |data| {
            let file = data.with_extension("json");
            // What cannot be written is missed by the server, which says so.
            let _ = std::fs::write(&file, config.to_string());
            let mut command = Command::new(program());
            command
                .args(["agent", "-server", "-bootstrap-expect=1", "-node=suite"])
                .args([
                    "-bind=127.0.0.1",
                    "-client=127.0.0.1",
                    "-disable-host-node-id",
                ])
                .arg("-data-dir")
                .arg(data)
                .arg("-config-file")
                .arg(file);
            command
        })
        .await?;
        let site = ConsulSite {
            process,
            saved: Mutex::default(),
            http: reqwest::Client::new(),
        };
        site.ready().await?;
        Ok(Box::new(site))
    }
}

struct ConsulSite {
    process: LocalProcess,
    /// The snapshot that `Save` made.
    saved: Mutex<Vec<u8>>,
    http: reqwest::Client,
}

impl ConsulSite {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let url = format!("http://{}/v1/{path}", self.process.address());
        let answer = self.http.request(method, url).json(&body).send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn put(&self, path: &str, body: Value) -> Result<()> {
        let answer = self.ask(Method::PUT, path, body).await;
        let answer = answer.map_err(|error| failed("the agent does not answer").because(error))?;
        match answer.0.is_success() {
            true => Ok(()),
            false => Err(failed(&format!("the agent answers {answer:?}"))),
        }
    }

    async fn snapshot(&self, method: Method, body: Vec<u8>) -> reqwest::Result<Vec<u8>> {
        let url = format!("http://{}/v1/snapshot", self.process.address());
        let answer = self.http.request(method, url).body(body).send().await?;
        Ok(answer.error_for_status()?.bytes().await?.into())
    }

    async fn maintain(&self, key: &InstanceKey, enable: bool) -> Result<()> {
        let path = format!(
            "agent/service/maintenance/{}:{}?enable={enable}",
            key.service, key.id
        );
        self.put(&path, Value::Null).await
    }

    /// Waits until the catalog has the server's own node: the server answers long before it can serve.
    async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            let answer = self
                .ask(Method::GET, "catalog/node/suite", Value::Null)
                .await;
            if answer.is_ok_and(|(_, node)| node["Node"].is_object()) {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(failed("the server elects no leader"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, why)
}

#[async_trait]
impl Site for ConsulSite {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("consul://{}", via.unwrap_or(self.process.address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.process.address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Stop => self.process.kill().await?,
            Fault::Start => {
                self.process.restart().await?;
                self.ready().await?;
            }
            Fault::Pause => self.process.pause().await?,
            Fault::Resume => self.process.resume().await?,
            Fault::Wipe => {
                self.process.wipe().await?;
                self.ready().await?;
            }
            Fault::Forget(key) => {
                // As the plugin names it, where the id has nothing to encode.
                let path = format!("agent/service/deregister/{}:{}", key.service, key.id);
                self.put(&path, Value::Null).await?;
            }
            Fault::Spoil(service) => {
                let record = json!({
                    "ID": format!("{service}-garbage"), "Name": service.as_str(), "Address": "not an address",
                    "Port": -1, "Tags": ["e-789c", "t-zz", "endpoint={", "version="],
                    "Meta": { "registry-id": "a/b", "registry-owner": "nobody" },
                });
                self.put("agent/service/register", record).await?;
            }
            Fault::Save => {
                let saved = self.snapshot(Method::GET, Vec::new()).await;
                *lock(&self.saved) = saved.map_err(|error| failed("no snapshot").because(error))?;
            }
            Fault::Restore => {
                let saved = lock(&self.saved).clone();
                let restored = self.snapshot(Method::PUT, saved).await;
                restored.map_err(|error| failed("nothing is restored").because(error))?;
            }
            Fault::Publish(instances) => {
                for instance in instances {
                    // As a program on go-micro does; the tag is its version, which is empty.
                    let (host, port) = instance
                        .address
                        .as_str()
                        .rsplit_once(':')
                        .unwrap_or_default();
                    let record = json!({
                        "ID": instance.id.as_str(), "Name": instance.service.as_str(), "Address": host,
                        "Port": port.parse::<u16>().unwrap_or_default(), "Tags": ["v-789c010000ffff00000001"],
                        "Check": { "TTL": "120s", "Status": "passing" },
                    });
                    self.put("agent/service/register", record).await?;
                }
            }
            Fault::Maintain(key) => self.maintain(key, true).await?,
            Fault::Release(key) => self.maintain(key, false).await?,
            other => return Err(other.unsupported()),
        }
        Ok(())
    }

    fn log(&self) -> String {
        self.process.log()
    }
}
