//! ZooKeeper: a server, an ensemble of three, and one that is secured.

mod cluster;
mod secured;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use registry_conformance::server::ZooKeeper;
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{
    Capability, Drivers, Error, ErrorKind, Instance, InstanceKey, Registry, Result, ServiceName,
    TtlScope, Window, async_trait,
};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::java::{Machines, Turn};

pub(crate) use cluster::ClusterBackend;
pub(crate) use secured::SecuredBackend;

/// Short, so that a death can be waited for, and an id that another session has within one attempt of a registrar.
const SESSION: Duration = Duration::from_secs(3);

const ROOT: &str = "/micro-registry";

/// What one server can be made to do.
const FAULTS: Faults = Faults {
    outage: true,
    hang: true,
    wipe: true,
    forget: true,
    spoil: true,
    wire: true,
    restore: true,
    publish: true,
    processes: true,
    ..Faults::NONE
};

static MACHINES: LazyLock<Machines> = LazyLock::new(Machines::default);

/// `zookeeper://` with one server for each case.
pub(crate) struct ZooKeeperBackend;

#[async_trait]
impl Backend for ZooKeeperBackend {
    fn name(&self) -> &str {
        "zookeeper"
    }

    fn capability(&self) -> Capability {
        capability()
    }

    fn faults(&self) -> Faults {
        FAULTS
    }

    fn missing(&self) -> Option<String> {
        ZooKeeper::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let turn = MACHINES.turn(1);
        Ok(Box::new(Single {
            zookeeper: ZooKeeper::start().await?,
            saved: Mutex::default(),
            _turn: turn,
        }))
    }
}

fn capability() -> Capability {
    let mut capability = Capability::new();
    capability.ttl = TtlScope::Connection;
    capability.default_ttl = Some(SESSION);
    capability.watch_all = true;
    capability.conflicts = true;
    capability.can_forget = true;
    capability.windows.visible = Duration::from_millis(200);
    capability.windows.gone = Duration::from_millis(200);
    capability.windows.crash = Some(Window {
        ttl_times: 1,
        plus: Duration::from_secs(2),
    });
    capability.windows.removed = capability.windows.crash;
    capability.windows.reregister = Some(Window::fixed(Duration::from_secs(3)));
    // 1 MiB for a request, less one byte and what is not the record.
    capability.limits.record = Some(1_048_575 - 4096);
    capability
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    let drivers = Drivers::new().with(registry_zookeeper::DRIVER);
    drivers.connect(url).await
}

/// The URL of these servers.
fn url(servers: &str, session: Duration) -> String {
    format!("zookeeper://{servers}?session={}ms", session.as_millis())
}

struct Single {
    zookeeper: ZooKeeper,
    saved: Mutex<Option<PathBuf>>,
    // The last one: it is given back when the server has ended.
    _turn: Turn,
}

#[async_trait]
impl Site for Single {
    fn url(&self, via: Option<SocketAddr>) -> String {
        let server = via.unwrap_or(self.zookeeper.server().address());
        url(&server.to_string(), SESSION)
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.zookeeper.server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Save => {
                let saved = self.zookeeper.save().await?;
                *self.saved.lock().expect("nothing panics under it") = Some(saved);
                Ok(())
            }
            Fault::Restore => {
                let saved = self.saved.lock().expect("nothing panics under it").clone();
                self.zookeeper.restore(&saved.unwrap_or_default()).await
            }
            Fault::Forget(key) => self.forget(key).await,
            Fault::Spoil(service) => self.spoil(service).await,
            Fault::Publish(instances) => self.publish(instances).await,
            other => self.zookeeper.server().inject(other).await,
        }
    }

    async fn open_watches(&self) -> Option<usize> {
        self.zookeeper.open_watches().await.ok()
    }

    fn log(&self) -> String {
        self.zookeeper.server().log()
    }
}

impl Single {
    async fn client(&self) -> Result<Client> {
        let address = self.zookeeper.server().address();
        Client::connect(&address.to_string()).await.map_err(failed)
    }

    async fn forget(&self, key: &InstanceKey) -> Result<()> {
        let client = self.client().await?;
        let path = format!("{ROOT}/{}/{}", key.service, key.id);
        match client.delete(&path, None).await {
            // Somebody was quicker.
            Ok(()) | Err(zookeeper_client::Error::NoNode) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Nodes that no reader of ours can read, with and without the form of a record.
    async fn spoil(&self, service: &ServiceName) -> Result<()> {
        let client = self.client().await?;
        let large = vec![b'x'; 900_000];
        let nodes: [(&str, &[u8]); 7] = [
            ("empty", b""),
            ("noise", b"\xff\xfe\x00"),
            ("cut", br#"{"name":"web","nodes":[{"id":"#),
            ("null", b"null"),
            (
                "stranger",
                br#"{"name":"another","nodes":[{"id":"a","address":"127.0.0.1:1"}]}"#,
            ),
            (
                "port",
                br#"{"name":"web","nodes":[{"id":"a","address":"127.0.0.1:70000"}]}"#,
            ),
            ("large", &large),
        ];
        for (name, data) in nodes {
            write(&client, service, name, data).await?;
        }
        Ok(())
    }

    /// As go-micro does: its JSON, in nodes that stay for ever.
    async fn publish(&self, instances: &[Arc<Instance>]) -> Result<()> {
        let client = self.client().await?;
        for instance in instances {
            let record = serde_json::json!({
                "name": instance.service.as_str(),
                "version": "",
                "metadata": null,
                "endpoints": [],
                "nodes": [{
                    "id": instance.id.as_str(),
                    "address": instance.address.as_str(),
                    "metadata": {},
                }],
            });
            let data = record.to_string();
            write(
                &client,
                &instance.service,
                instance.id.as_str(),
                data.as_bytes(),
            )
            .await?;
        }
        Ok(())
    }
}

async fn write(client: &Client, service: &ServiceName, node: &str, data: &[u8]) -> Result<()> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let parent = format!("{ROOT}/{service}");
    client.mkdir(&parent, &options).await.map_err(failed)?;
    let created = client
        .create(&format!("{parent}/{node}"), data, &options)
        .await;
    created.map(drop).map_err(failed)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "the fixture failed").because(error)
}
