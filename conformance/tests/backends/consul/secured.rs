//! One server that asks for TLS, a client certificate and a token.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use registry_conformance::server::{Authority, Consul};
use registry_conformance::{Access, Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, ServiceName, async_trait};

/// `consul://` with a secured server for each case.
pub(crate) struct SecuredBackend;

#[async_trait]
impl Backend for SecuredBackend {
    fn name(&self) -> &str {
        "consul-secured"
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
        Consul::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(Box::new(Secured {
            consul: Consul::builder().acl().tls().start().await?,
            stranger: Authority::new().await?,
        }))
    }
}

struct Secured {
    consul: Consul,
    /// An authority that the server does not trust.
    stranger: Authority,
}

impl Secured {
    fn address(&self) -> SocketAddr {
        self.consul.https().expect("the server has TLS")
    }

    /// A token that may write the service and read nodes.
    async fn add_token(&self, service: &ServiceName) -> Result<()> {
        let rules = format!(
            r#"service "{service}" {{ policy = "write" }} node_prefix "" {{ policy = "read" }}"#
        );
        self.consul.set_policy(service.as_str(), &rules).await?;
        self.consul
            .add_token(&token(service), service.as_str())
            .await
    }
}

/// The same for the same service, so that it can be withdrawn and given back.
fn token(service: &ServiceName) -> String {
    let mut hasher = DefaultHasher::new();
    service.hash(&mut hasher);
    let hash = hasher.finish();
    format!(
        "{:08x}-0000-4000-8000-{:012x}",
        hash >> 32,
        hash & 0xffff_ffff
    )
}

#[async_trait]
impl Site for Secured {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        format!("consul://{}", self.address())
    }

    async fn admit(&self, access: &Access) -> Result<String> {
        let own = self.consul.authority().expect("the server has TLS");
        let trusted = match access {
            Access::Distrustful => &self.stranger,
            _ => own,
        };
        let (address, ca) = (self.address(), trusted.certificate());
        let mut url = format!("consul://{address}?ca={}", ca.display());
        let certified = match access {
            Access::Bare => None,
            Access::Foreign => Some(self.stranger.client("stranger").await?),
            _ => Some(own.client("client").await?),
        };
        if let Some(identity) = certified {
            let (cert, key) = (identity.certificate.display(), identity.key.display());
            url.push_str(&format!("&cert={cert}&key={key}"));
        }
        let management = self.consul.management_token();
        let token = match access {
            Access::Only(service) => {
                self.add_token(service).await?;
                token(service)
            }
            Access::Wrong => "00000000-bad0-4000-8000-000000000000".to_owned(),
            Access::None => return Ok(url),
            _ => management.expect("the server has tokens").to_owned(),
        };
        Ok(format!("{url}&token={token}"))
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Revoke(service) => self.consul.remove_token(&token(service)).await,
            Fault::Grant(service) => self.add_token(service).await,
            other => self.consul.server().inject(other).await,
        }
    }

    fn log(&self) -> String {
        self.consul.server().log()
    }
}
