//! etcd, one member for each case.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use registry_conformance::{Backend, Fault, Faults, LocalProcess, Server as _, Site, free_port};
use registry_core::{
    Capability, Drivers, Error, ErrorKind, Instance, InstanceKey, Registry, Result, ServiceName,
    TtlScope, Window, async_trait,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFIX: &str = "/micro/registry";

/// `etcd://`
pub(crate) struct EtcdBackend;

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> &str {
        "etcd"
    }

    fn capability(&self) -> Capability {
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

    fn faults(&self) -> Faults {
        Faults {
            outage: true,
            hang: true,
            wipe: true,
            forget: true,
            spoil: true,
            wire: true,
            compact: true,
            publish: true,
            processes: true,
            ..Faults::NONE
        }
    }

    fn missing(&self) -> Option<String> {
        let version = Command::new("etcd")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        version.err().map(|error| format!("etcd: {error}"))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        Drivers::new()
            .with(registry_etcd::DRIVER)
            .connect(url)
            .await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let peer = free_port();
        let process = LocalProcess::start(address, move |data| {
            let (client, peer) = (
                format!("http://{address}"),
                format!("http://127.0.0.1:{peer}"),
            );
            let mut command = Command::new("etcd");
            command.args(["--name", "t", "--unsafe-no-fsync"]);
            command.arg("--data-dir").arg(data.join("etcd"));
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
            // The shortest TTL is 1.5 times the election timeout.
            command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
            command
        })
        .await?;
        Ok(Box::new(Member {
            process,
            revoke: AtomicBool::new(true),
        }))
    }
}

/// A cluster of one.
struct Member {
    process: LocalProcess,
    /// Whether the next record that is forgotten loses its lease, or the key alone.
    revoke: AtomicBool,
}

#[async_trait]
impl Site for Member {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("etcd://{}", via.unwrap_or(self.process.address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.process.address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Stop => self.process.kill().await?,
            Fault::Start => self.process.restart().await?,
            Fault::Pause => self.process.pause().await?,
            Fault::Resume => self.process.resume().await?,
            Fault::Wipe => self.process.wipe().await?,
            Fault::Forget(key) => self.forget(key).await.map_err(failed)?,
            Fault::Spoil(service) => self.spoil(service).await.map_err(failed)?,
            Fault::Compact => self.compact().await.map_err(failed)?,
            Fault::Publish(instances) => self.publish(instances).await.map_err(failed)?,
            other => return Err(other.unsupported()),
        }
        Ok(())
    }

    async fn open_watches(&self) -> Option<usize> {
        let mut server = TcpStream::connect(self.process.address()).await.ok()?;
        server
            .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            .await
            .ok()?;
        let mut metrics = String::new();
        server.read_to_string(&mut metrics).await.ok()?;
        let mut lines = metrics.lines();
        lines.find_map(|line| {
            line.strip_prefix("etcd_debugging_mvcc_watcher_total ")?
                .parse()
                .ok()
        })
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

impl Member {
    async fn client(&self) -> std::result::Result<Client, etcd_client::Error> {
        Client::connect([self.process.address().to_string()], None).await
    }

    async fn forget(&self, key: &InstanceKey) -> std::result::Result<(), etcd_client::Error> {
        let mut client = self.client().await?;
        let key = format!("{PREFIX}/{}/{}", key.service, key.id);
        let options = GetOptions::new().with_keys_only();
        let found = client.get(key.clone(), Some(options)).await?;
        let lease = found.kvs().first().map_or(0, |record| record.lease());
        if self.revoke.fetch_xor(true, Ordering::Relaxed) {
            client.lease_revoke(lease).await?;
        } else {
            client.delete(key, None).await?;
        }
        Ok(())
    }

    async fn compact(&self) -> std::result::Result<(), etcd_client::Error> {
        let mut client = self.client().await?;
        let found = client.get("any", None).await?;
        let revision = found.header().map_or(0, |header| header.revision());
        client.compact(revision, None).await.map(drop)
    }

    /// Writes as a stranger does who knows the layout, in one transaction.
    async fn publish(
        &self,
        instances: &[Arc<Instance>],
    ) -> std::result::Result<(), etcd_client::Error> {
        let mut client = self.client().await?;
        let lease = client.lease_grant(120, None).await?.id();
        let puts: Vec<_> = instances
            .iter()
            .map(|instance| {
                let key = format!("{PREFIX}/{}/{}", instance.service, instance.id);
                let options = PutOptions::new().with_lease(lease);
                TxnOp::put(key, registry_go_micro::encode(instance), Some(options))
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await.map(drop)
    }

    /// Puts records beside those of a service that are no instance of it.
    async fn spoil(&self, service: &ServiceName) -> std::result::Result<(), etcd_client::Error> {
        let mut client = self.client().await?;
        let node = |id: &str, address: &str| {
            format!(r#"{{"name":"{service}","nodes":[{{"id":"{id}","address":"{address}"}}]}}"#)
        };
        let records = [
            ("empty", Vec::new()),
            (
                "truncated",
                node("truncated", "127.0.0.1:80").into_bytes()[..40].to_vec(),
            ),
            ("bytes", vec![0xff; 100]),
            ("long", vec![b'['; 900_000]),
            ("null", b"null".to_vec()),
            ("port", node("port", "127.0.0.1:70000").into()),
            ("another", node("one", "127.0.0.1:80").into()),
            ("deeper/key", node("key", "127.0.0.1:80").into()),
            ("", node("", "127.0.0.1:80").into()),
        ];
        for (id, value) in records {
            client
                .put(format!("{PREFIX}/{service}/{id}"), value, None)
                .await?;
        }
        Ok(())
    }
}

fn failed(error: etcd_client::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "etcd cannot be made to fail").because(error)
}
