//! A server that asks for TLS, a client certificate and a login, for all cases: none does it harm. Whoever has the login
//! may do everything.

use std::net::SocketAddr;
use std::sync::Arc;

use registry_conformance::server::{Authority, Eureka, Identity};
use registry_conformance::{Access, Backend, Faults, Site};
use registry_core::{Capability, Registry, Result, async_trait};
use tokio::sync::Mutex;

/// `eureka://` with a secured server.
#[derive(Default)]
pub(crate) struct SecuredBackend {
    /// Ends with the last case.
    shared: Mutex<Option<Arc<Shared>>>,
}

#[async_trait]
impl Backend for SecuredBackend {
    fn name(&self) -> &str {
        "eureka-secured"
    }

    fn capability(&self) -> Capability {
        super::capability()
    }

    fn faults(&self) -> Faults {
        Faults {
            access: true,
            distrust: true,
            ..Faults::NONE
        }
    }

    fn asked_elsewhere(&self) -> Option<Faults> {
        Some(super::FAULTS)
    }

    fn missing(&self) -> Option<String> {
        Eureka::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let mut shared = self.shared.lock().await;
        let server = match &*shared {
            Some(server) => server.clone(),
            None => shared.insert(Arc::new(Shared::start().await?)).clone(),
        };
        Ok(Box::new(Secured(server)))
    }
}

struct Shared {
    server: Eureka,
    client: Identity,
    /// An authority that the server does not trust, and a client of it.
    stranger: (Authority, Identity),
}

impl Shared {
    async fn start() -> Result<Self> {
        let server = Eureka::builder().login().tls().start().await?;
        let own = server.authority().expect("the server has TLS");
        let client = own.client("client").await?;
        let stranger = Authority::new().await?;
        let foreign = stranger.client("stranger").await?;
        Ok(Self {
            server,
            client,
            stranger: (stranger, foreign),
        })
    }

    fn login(&self, access: &Access) -> String {
        let (user, password) = self.server.login().expect("the server has one");
        match access {
            Access::Wrong => format!("{user}:wrong-{password}@"),
            Access::None => String::new(),
            _ => format!("{user}:{password}@"),
        }
    }
}

struct Secured(Arc<Shared>);

#[async_trait]
impl Site for Secured {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        super::url("", self.0.server.server().address())
    }

    async fn admit(&self, access: &Access) -> Result<String> {
        let (stranger, foreign) = &self.0.stranger;
        let own = self.0.server.authority().expect("the server has TLS");
        let trusted = match access {
            Access::Distrustful => stranger,
            _ => own,
        };
        let certified = match access {
            Access::Bare => None,
            Access::Foreign => Some(foreign),
            _ => Some(&self.0.client),
        };
        let url = super::url(&self.0.login(access), self.0.server.server().address());
        let mut url = format!("{url}&ca={}", trusted.certificate().display());
        if let Some(identity) = certified {
            let (cert, key) = (identity.certificate.display(), identity.key.display());
            url.push_str(&format!("&cert={cert}&key={key}"));
        }
        Ok(url)
    }

    fn log(&self) -> String {
        self.0.server.server().log()
    }
}
