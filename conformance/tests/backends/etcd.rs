//! etcd: a member alone, one that demands users and certificates, and a cluster of three.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_conformance::server::{Authority, Etcd, EtcdCluster};
use registry_conformance::{Access, Backend, Fault, Faults, Site};
use registry_core::{
    Capability, Drivers, Error, ErrorKind, Instance, InstanceKey, Registry, Result, ServiceName,
    TtlScope, Window, async_trait,
};
use tokio::sync::Mutex;

const PREFIX: &str = "/micro/registry";

/// What a member alone can be made to do.
const ALONE: Faults = Faults {
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

/// `etcd://`, on one of these.
pub(crate) enum EtcdBackend {
    Alone,
    Secured,
    Cluster,
}

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> &str {
        match self {
            Self::Alone => "etcd",
            Self::Secured => "etcd-secured",
            Self::Cluster => "etcd-cluster",
        }
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
        match self {
            Self::Alone => ALONE,
            Self::Secured => Faults {
                access: true,
                ..Faults::NONE
            },
            Self::Cluster => Faults {
                members: true,
                ..Faults::NONE
            },
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        match self {
            Self::Alone => None,
            Self::Secured | Self::Cluster => Some(ALONE),
        }
    }

    fn missing(&self) -> Option<String> {
        Etcd::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        Drivers::new()
            .with(registry_etcd::DRIVER)
            .connect(url)
            .await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(match self {
            Self::Alone => Box::new(Alone {
                etcd: Etcd::builder().process().start().await?,
                revoke: AtomicBool::new(true),
                saved: Mutex::default(),
            }),
            Self::Secured => {
                let builder = Etcd::builder().auth().tls();
                Box::new(Secured {
                    etcd: builder.argument("--auth-token-ttl=3").start().await?,
                    stranger: Authority::new().await?,
                    users: Mutex::default(),
                })
            }
            Self::Cluster => Box::new(Cluster(EtcdCluster::start().await?)),
        })
    }
}

struct Alone {
    etcd: Etcd,
    /// Whether the next record that is forgotten loses its lease, or the key alone.
    revoke: AtomicBool,
    saved: Mutex<Option<PathBuf>>,
}

#[async_trait]
impl Site for Alone {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("etcd://{}", via.unwrap_or(self.etcd.server().address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.etcd.server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        let server = self.etcd.server();
        match fault {
            Fault::Stop => server.kill().await,
            Fault::Start => server.restart().await,
            Fault::Pause => server.pause().await,
            Fault::Resume => server.resume().await,
            Fault::Wipe => server.wipe().await,
            Fault::Forget(key) => self.forget(&path(key)).await,
            Fault::Spoil(service) => self.spoil(service).await,
            Fault::Compact => self.etcd.compact().await,
            Fault::Save => {
                *self.saved.lock().await = Some(self.etcd.save().await?);
                Ok(())
            }
            Fault::Restore => {
                let saved = self.saved.lock().await.clone();
                let nothing = || Error::new(ErrorKind::Invalid, "nothing was saved");
                self.etcd.restore(&saved.ok_or_else(nothing)?).await
            }
            Fault::Publish(instances) => self.publish(instances).await,
            other => Err(other.unsupported()),
        }
    }

    async fn open_watches(&self) -> Option<usize> {
        self.etcd.open_watches().await.ok()
    }

    fn log(&self) -> String {
        self.etcd.server().log()
    }
}

impl Alone {
    /// Loses a record by turns with its lease and alone. One that its owner takes back meanwhile is forgotten too.
    async fn forget(&self, key: &str) -> Result<()> {
        if !self.revoke.fetch_xor(true, Ordering::Relaxed) {
            return self.etcd.delete(key).await;
        }
        let revoked = self.etcd.revoke_lease_of(key).await;
        revoked.or_else(|error| {
            let gone = error.kind() == ErrorKind::Invalid
                || error.to_string().contains("requested lease not found");
            if gone { Ok(()) } else { Err(error) }
        })
    }

    /// Writes as a stranger does who knows the layout, in one transaction.
    async fn publish(&self, instances: &[Arc<Instance>]) -> Result<()> {
        let records: Vec<_> = instances
            .iter()
            .map(|instance| (path(&instance.key()), registry_go_micro::encode(instance)))
            .collect();
        let entries: Vec<_> = records
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        self.etcd.put_all(&entries, 120).await
    }

    /// Puts records beside those of a service that are no instance of it.
    async fn spoil(&self, service: &ServiceName) -> Result<()> {
        let node = |id: &str, address: &str| {
            format!(r#"{{"name":"{service}","nodes":[{{"id":"{id}","address":"{address}"}}]}}"#)
                .into_bytes()
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
            let key = format!("{PREFIX}/{service}/{id}");
            self.etcd.put(&key, &value).await?;
        }
        Ok(())
    }
}

/// A member that demands users and certificates; a token lives for 3 s.
struct Secured {
    etcd: Etcd,
    /// An authority that nobody trusts.
    stranger: Authority,
    /// The users that may work with one service alone.
    users: Mutex<HashMap<ServiceName, String>>,
}

#[async_trait]
impl Site for Secured {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("etcd://{}", via.unwrap_or(self.etcd.server().address()))
    }

    async fn admit(&self, access: &Access) -> Result<String> {
        let ours = self.etcd.authority();
        let ours = ours.ok_or_else(|| Error::new(ErrorKind::Config, "no authority"))?;
        let login = match access {
            Access::Only(service) => format!("{}:secret-of-one@", self.user(service).await?),
            Access::Wrong => "root:wrong-secret@".to_owned(),
            Access::None => String::new(),
            _ => match self.etcd.root() {
                Some((name, password)) => format!("{name}:{password}@"),
                None => String::new(),
            },
        };
        let trusted = match access {
            Access::Distrustful => self.stranger.certificate(),
            _ => ours.certificate(),
        };
        let shown = match access {
            Access::Bare => None,
            Access::Foreign => Some(self.stranger.client("client").await?),
            _ => Some(ours.client("client").await?),
        };
        let shown = shown.map_or(String::new(), |identity| {
            let (cert, key) = (identity.certificate.display(), identity.key.display());
            format!("&cert={cert}&key={key}")
        });
        let address = self.etcd.server().address();
        let trusted = trusted.display();
        Ok(format!("etcd://{login}{address}?ca={trusted}{shown}"))
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Revoke(service) => self.etcd.remove_user(&self.user(service).await?).await,
            Fault::Grant(service) => self.add(service, &self.user(service).await?).await,
            other => Err(other.unsupported()),
        }
    }

    fn log(&self) -> String {
        self.etcd.server().log()
    }
}

impl Secured {
    /// The user that may work with this service alone.
    async fn user(&self, service: &ServiceName) -> Result<String> {
        let mut users = self.users.lock().await;
        if let Some(user) = users.get(service) {
            return Ok(user.clone());
        }
        let user = format!("user-{}", users.len());
        self.add(service, &user).await?;
        users.insert(service.clone(), user.clone());
        Ok(user)
    }

    async fn add(&self, service: &ServiceName, user: &str) -> Result<()> {
        let prefix = format!("{PREFIX}/{service}/");
        self.etcd.add_user(user, "secret-of-one", &prefix).await
    }
}

struct Cluster(EtcdCluster);

#[async_trait]
impl Site for Cluster {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        let members = self.0.members().iter();
        let members: Vec<_> = members
            .map(|member| member.server().address().to_string())
            .collect();
        format!("etcd://{}", members.join(","))
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        self.0.inject(fault).await
    }

    fn log(&self) -> String {
        let members = self.0.members().iter();
        let logs: Vec<_> = members.map(|member| member.server().log()).collect();
        logs.join("\n")
    }
}

fn path(key: &InstanceKey) -> String {
    format!("{PREFIX}/{}/{}", key.service, key.id)
}
