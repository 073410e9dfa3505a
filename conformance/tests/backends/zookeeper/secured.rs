//! A server that asks for TLS and a client certificate, whose nodes are for those with a login.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_conformance::server::{Authority, ZooKeeper};
use registry_conformance::{Access, Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, ServiceName, async_trait};
use zookeeper_client::{Acl, Acls, Client, CreateMode, Permission};

use super::{MACHINES, ROOT, failed};
use crate::java::Turn;

/// Long: nobody dies here, and a handshake takes a busy machine long.
const SESSION: Duration = Duration::from_secs(10);

const PASSWORD: &str = "conformance-user";

/// All rights, for each login that whoever sets this has shown.
const OWN: &[Acl] = &[Acl::new_const(Permission::ALL, "auth", "")];

/// `zookeeper://` with a secured server for each case.
pub(crate) struct SecuredBackend;

#[async_trait]
impl Backend for SecuredBackend {
    fn name(&self) -> &str {
        "zookeeper-secured"
    }

    fn capability(&self) -> Capability {
        let mut capability = super::capability();
        capability.default_ttl = Some(SESSION);
        capability
    }

    fn faults(&self) -> Faults {
        // The client library says of every connection that fails that there is no host.
        Faults {
            access: true,
            rights: true,
            ..Faults::NONE
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(super::FAULTS)
    }

    fn missing(&self) -> Option<String> {
        ZooKeeper::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let turn = MACHINES.turn(1);
        let site = Secured {
            zookeeper: ZooKeeper::builder().superuser().tls().start().await?,
            stranger: Authority::new().await?,
            _turn: turn,
        };
        // The path above the services is made beforehand: who has a right for one of them has none for the others.
        let operator = site.operator(None).await?;
        let options = CreateMode::Persistent.with_acls(Acls::creator_all());
        operator.mkdir(ROOT, &options).await.map_err(failed)?;
        Ok(Box::new(site))
    }
}

struct Secured {
    zookeeper: ZooKeeper,
    /// An authority that the server does not trust.
    stranger: Authority,
    _turn: Turn,
}

impl Secured {
    fn superuser(&self) -> (&str, &str) {
        self.zookeeper.superuser().expect("the server has one")
    }

    /// The operator at the plain port; what he sets is also for the user of this service.
    async fn operator(&self, with: Option<&ServiceName>) -> Result<Client> {
        let (user, password) = self.superuser();
        let login = format!("{user}:{password}");
        let mut connector = Client::connector().with_auth("digest", login.as_bytes());
        if let Some(service) = with {
            let login = format!("{service}:{PASSWORD}");
            connector = connector.with_auth("digest", login.as_bytes());
        }
        let address = self.zookeeper.server().address();
        let connected = connector.connect(&address.to_string()).await;
        connected.map_err(failed)
    }

    /// Gives the service and what is below it to the operator, and to the user with its name or not. Nodes do not
    /// inherit.
    async fn give(&self, service: &ServiceName, to_user: bool) -> Result<()> {
        let operator = self.operator(to_user.then_some(service)).await?;
        let path = format!("{ROOT}/{service}");
        let options = CreateMode::Persistent.with_acls(Acls::creator_all());
        operator.mkdir(&path, &options).await.map_err(failed)?;
        let names = operator.list_children(&path).await.map_err(failed)?;
        let nodes = names.iter().map(|name| format!("{path}/{name}"));
        for node in nodes.chain([path.clone()]) {
            operator.set_acl(&node, OWN, None).await.map_err(failed)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Site for Secured {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        let secure = self.zookeeper.secure().expect("the server has TLS");
        super::url(&secure.to_string(), SESSION)
    }

    async fn admit(&self, access: &Access) -> Result<String> {
        let (user, password) = self.superuser();
        let (login, name) = match access {
            Access::Only(service) => {
                self.give(service, true).await?;
                (format!("{service}:{PASSWORD}@"), service.as_str())
            }
            Access::Wrong => (format!("{user}:wrong-{password}@"), "wrong"),
            Access::None => (String::new(), "nobody"),
            _ => (format!("{user}:{password}@"), "operator"),
        };
        let own = self.zookeeper.authority().expect("the server has TLS");
        let trusted = match access {
            Access::Distrustful => &self.stranger,
            _ => own,
        };
        // The subject is a login too, and who creates a node shares it with those who have the same.
        let certified = match access {
            Access::Bare => None,
            Access::Foreign => Some(self.stranger.client(name).await?),
            _ => Some(own.client(name).await?),
        };
        let url = self.url(None).replace("://", &format!("://{login}"));
        let mut url = format!("{url}&ca={}", trusted.certificate().display());
        if !login.is_empty() {
            url.push_str("&acl=creator");
        }
        if let Some(identity) = certified {
            let (cert, key) = (identity.certificate.display(), identity.key.display());
            url.push_str(&format!("&cert={cert}&key={key}"));
        }
        Ok(url)
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Revoke(service) => self.give(service, false).await,
            Fault::Grant(service) => self.give(service, true).await,
            other => self.zookeeper.server().inject(other).await,
        }
    }

    fn log(&self) -> String {
        self.zookeeper.server().log()
    }
}
