//! Consul: one server, three with a client agent, and one that is secured.

mod cluster;
mod secured;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_conformance::server::Consul;
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{
    Capability, Check, Drivers, Instance, InstanceKey, Registry, Result, ServiceName, TtlScope,
    Window, async_trait,
};
use serde_json::json;

pub(crate) use cluster::ClusterBackend;
pub(crate) use secured::SecuredBackend;

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
    maintain: true,
    processes: true,
    ..Faults::NONE
};

/// `consul://` with one server for each case.
pub(crate) struct ConsulBackend;

#[async_trait]
impl Backend for ConsulBackend {
    fn name(&self) -> &str {
        "consul"
    }

    fn capability(&self) -> Capability {
        capability()
    }

    fn faults(&self) -> Faults {
        FAULTS
    }

    fn missing(&self) -> Option<String> {
        Consul::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(Box::new(Agent {
            consul: Consul::start().await?,
            saved: Mutex::default(),
        }))
    }
}

fn capability() -> Capability {
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
    capability.limits.record = Some(2 << 20);
    capability
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    let drivers = Drivers::new().with(registry_consul::DRIVER);
    drivers.connect(url).await
}

/// The id that the plugin gives to a service whose name and id have nothing to encode.
fn id(key: &InstanceKey) -> String {
    format!("{}:{}", key.service, key.id)
}

struct Agent {
    consul: Consul,
    saved: Mutex<Option<PathBuf>>,
}

#[async_trait]
impl Site for Agent {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("consul://{}", via.unwrap_or(self.consul.server().address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.consul.server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Forget(key) => self.consul.deregister(&id(key)).await,
            Fault::Spoil(service) => spoil(&self.consul, service).await,
            Fault::Publish(instances) => publish(&self.consul, instances).await,
            Fault::Maintain(key) => self.consul.set_maintenance(&id(key), true).await,
            Fault::Release(key) => self.consul.set_maintenance(&id(key), false).await,
            Fault::Save => {
                let saved = self.consul.save().await?;
                *self.saved.lock().expect("nothing panics under it") = Some(saved);
                Ok(())
            }
            Fault::Restore => {
                let saved = self.saved.lock().expect("nothing panics under it").clone();
                self.consul.restore(&saved.unwrap_or_default()).await
            }
            other => self.consul.server().inject(other).await,
        }
    }

    fn log(&self) -> String {
        self.consul.server().log()
    }
}

async fn register(consul: &Consul, record: serde_json::Value) -> Result<()> {
    let path = "/v1/agent/service/register";
    consul.ask("PUT", path, &record.to_string()).await.map(drop)
}

/// Registers as a program on go-micro does. The tag is the version, which is empty.
async fn publish(consul: &Consul, instances: &[Arc<Instance>]) -> Result<()> {
    for instance in instances {
        let address = instance.address.as_str().rsplit_once(':');
        let (host, port) = address.unwrap_or_default();
        let record = json!({
            "ID": instance.id.as_str(), "Name": instance.service.as_str(), "Address": host,
            "Port": port.parse::<u16>().unwrap_or_default(), "Tags": ["v-789c010000ffff00000001"],
            "Check": { "TTL": "120s", "Status": "passing" },
        });
        register(consul, record).await?;
    }
    Ok(())
}

/// Registers what is no instance of a service.
async fn spoil(consul: &Consul, service: &ServiceName) -> Result<()> {
    let record = json!({
        "ID": format!("{service}-garbage"), "Name": service.as_str(), "Address": "not an address",
        "Port": -1, "Tags": ["e-789c", "t-zz", "endpoint={", "version="],
        "Meta": { "registry-id": "a/b", "registry-owner": "nobody" },
    });
    register(consul, record).await
}
