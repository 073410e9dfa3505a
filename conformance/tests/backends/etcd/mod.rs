//! etcd: one member, a cluster of three, and one that is secured.

mod cluster;
mod secured;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_conformance::server::Etcd;
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{
    Capability, Drivers, Instance, InstanceKey, Registry, Result, ServiceName, TtlScope, Window,
    async_trait,
};

pub(crate) use cluster::ClusterBackend;
pub(crate) use secured::SecuredBackend;

const PREFIX: &str = "/micro/registry";

/// What one member can be made to do.
const FAULTS: Faults = Faults {
    outage: true,
    hang: true,
    wipe: true,
    forget: true,
    spoil: true,
    wire: true,
    compact: true,
    restore: true,
    publish: true,
    processes: true,
    ..Faults::NONE
};

/// `etcd://` with one member for each case.
pub(crate) struct EtcdBackend;

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> &str {
        "etcd"
    }

    fn capability(&self) -> Capability {
        capability()
    }

    fn faults(&self) -> Faults {
        FAULTS
    }

    fn missing(&self) -> Option<String> {
        Etcd::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(Box::new(Member {
            etcd: Etcd::start().await?,
            saved: Mutex::default(),
            revoke: AtomicBool::new(true),
        }))
    }
}

fn capability() -> Capability {
    let mut capability = Capability::new();
    capability.ttl = TtlScope::Registration;
    capability.default_ttl = Some(Duration::from_secs(15));
    capability.watch_all = true;
    capability.atomic_batches = true;
    capability.conflicts = true;
    capability.can_forget = true;
    capability.windows.crash = Some(Window {
        ttl_times: 1,
        plus: Duration::from_secs(2),
    });
    capability.windows.removed = capability.windows.crash;
    capability.windows.reregister = Some(Window::fixed(Duration::from_secs(1)));
    // Of the 1.5 MiB that etcd takes for one request.
    capability.limits.record = Some(1_500_000);
    capability
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    let drivers = Drivers::new().with(registry_etcd::DRIVER);
    drivers.connect(url).await
}

fn key(key: &InstanceKey) -> String {
    format!("{PREFIX}/{}/{}", key.service, key.id)
}

struct Member {
    etcd: Etcd,
    saved: Mutex<Option<PathBuf>>,
    /// Whether the next record that is forgotten loses its lease, or the key alone.
    revoke: AtomicBool,
}

#[async_trait]
impl Site for Member {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("etcd://{}", via.unwrap_or(self.etcd.server().address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.etcd.server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Forget(lost) if self.revoke.fetch_xor(true, Ordering::Relaxed) => {
                match self.etcd.revoke_lease_of(&key(lost)).await {
                    // Its owner was faster.
                    Err(_) => self.etcd.delete(&key(lost)).await,
                    Ok(()) => Ok(()),
                }
            }
            Fault::Forget(lost) => self.etcd.delete(&key(lost)).await,
            Fault::Spoil(service) => spoil(&self.etcd, service).await,
            Fault::Publish(instances) => publish(&self.etcd, instances).await,
            Fault::Compact => self.etcd.compact().await,
            Fault::Save => {
                let saved = self.etcd.save().await?;
                *self.saved.lock().expect("nothing panics under it") = Some(saved);
                Ok(())
            }
            Fault::Restore => {
                let saved = self.saved.lock().expect("nothing panics under it").clone();
                self.etcd.restore(&saved.unwrap_or_default()).await
            }
            other => self.etcd.server().inject(other).await,
        }
    }

    async fn open_watches(&self) -> Option<usize> {
        self.etcd.open_watches().await.ok()
    }

    fn log(&self) -> String {
        self.etcd.server().log()
    }
}

/// Writes as a stranger does who knows the layout, in one transaction.
async fn publish(etcd: &Etcd, instances: &[Arc<Instance>]) -> Result<()> {
    let entry = |instance: &Arc<Instance>| {
        let key = key(&instance.key());
        (key, registry_go_micro::encode(instance))
    };
    let entries: Vec<_> = instances.iter().map(entry).collect();
    let entries: Vec<_> = entries
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    etcd.put_all(&entries, 120).await
}

/// Puts records beside those of a service that are no instance of it.
async fn spoil(etcd: &Etcd, service: &ServiceName) -> Result<()> {
    let node = |id: &str, address: &str| {
        let node = format!(r#"{{"id":"{id}","address":"{address}"}}"#);
        format!(r#"{{"name":"{service}","nodes":[{node}]}}"#).into_bytes()
    };
    let records = [
        ("empty", Vec::new()),
        (
            "truncated",
            node("truncated", "127.0.0.1:80")[..40].to_vec(),
        ),
        ("bytes", vec![0xff; 100]),
        ("long", vec![b'['; 900_000]),
        ("null", b"null".to_vec()),
        ("port", node("port", "127.0.0.1:70000")),
        ("another", node("one", "127.0.0.1:80")),
        ("deeper/key", node("key", "127.0.0.1:80")),
        ("", node("", "127.0.0.1:80")),
    ];
    for (id, value) in records {
        etcd.put(&format!("{PREFIX}/{service}/{id}"), &value)
            .await?;
    }
    Ok(())
}
