//! One member that asks for TLS, a client certificate and a user, whose tokens expire after 3 s.

use std::net::SocketAddr;
use std::sync::Arc;

use registry_conformance::server::{Authority, Etcd};
use registry_conformance::{Access, Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, ServiceName, async_trait};

const PASSWORD: &str = "conformance-user";

/// `etcd://` with a secured member for each case.
pub(crate) struct SecuredBackend;

#[async_trait]
impl Backend for SecuredBackend {
    fn name(&self) -> &str {
        "etcd-secured"
    }

    fn capability(&self) -> Capability {
        super::capability()
    }

    fn faults(&self) -> Faults {
        Faults {
            access: true,
            rights: true,
            distrust: true,
            ..Faults::NONE
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(super::FAULTS)
    }

    fn missing(&self) -> Option<String> {
        Etcd::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let builder = Etcd::builder().auth().tls();
        Ok(Box::new(Secured {
            etcd: builder.argument("--auth-token-ttl=3").start().await?,
            stranger: Authority::new().await?,
        }))
    }
}

struct Secured {
    etcd: Etcd,
    /// An authority that the server does not trust.
    stranger: Authority,
}

impl Secured {
    async fn url(&self, login: &str, access: &Access) -> Result<String> {
        let own = self.etcd.authority().expect("the server has TLS");
        let trusted = match access {
            Access::Distrustful => &self.stranger,
            _ => own,
        };
        let certified = match access {
            Access::Bare => None,
            Access::Foreign => Some(self.stranger.client("stranger").await?),
            _ => Some(own.client("client").await?),
        };
        let (address, ca) = (self.etcd.server().address(), trusted.certificate());
        let mut url = format!("etcd://{login}{address}?ca={}", ca.display());
        if let Some(identity) = certified {
            let (cert, key) = (identity.certificate.display(), identity.key.display());
            url.push_str(&format!("&cert={cert}&key={key}"));
        }
        Ok(url)
    }

    /// A user with the name of the service.
    async fn add_user(&self, service: &ServiceName) -> Result<()> {
        let prefix = format!("{}/{service}/", super::PREFIX);
        self.etcd
            .add_user(service.as_str(), PASSWORD, &prefix)
            .await
    }
}

#[async_trait]
impl Site for Secured {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        format!("etcd://{}", self.etcd.server().address())
    }

    async fn admit(&self, access: &Access) -> Result<String> {
        let (root, password) = self.etcd.root().expect("the server has users");
        let login = match access {
            Access::Only(service) => {
                self.add_user(service).await?;
                format!("{service}:{PASSWORD}@")
            }
            Access::Wrong => format!("{root}:wrong-{password}@"),
            Access::None => String::new(),
            _ => format!("{root}:{password}@"),
        };
        self.url(&login, access).await
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Revoke(service) => self.etcd.remove_user(service.as_str()).await,
            Fault::Grant(service) => self.add_user(service).await,
            other => self.etcd.server().inject(other).await,
        }
    }

    fn log(&self) -> String {
        self.etcd.server().log()
    }
}
