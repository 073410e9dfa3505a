//! A server whose windows are those of Eureka itself, and a URL that says nothing of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_conformance::server::Eureka;
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{Capability, Registry, Result, Window, async_trait};
use tokio::sync::Mutex;

/// `eureka://` as most servers run.
#[derive(Default)]
pub(crate) struct ProductionBackend {
    /// Ends with the last case.
    server: Mutex<Option<Arc<Eureka>>>,
}

#[async_trait]
impl Backend for ProductionBackend {
    fn name(&self) -> &str {
        "eureka-production"
    }

    fn capability(&self) -> Capability {
        let seen = Duration::from_secs(61);
        let mut capability = super::capability();
        capability.default_ttl = Some(Duration::from_secs(90));
        capability.windows.visible = seen;
        capability.windows.gone = seen;
        capability.windows.crash = None;
        capability.windows.removed = None;
        capability.windows.reregister = Some(Window {
            ttl_times: 1,
            plus: seen,
        });
        capability
    }

    fn faults(&self) -> Faults {
        super::FAULTS
    }

    fn topics(&self) -> Option<&[&str]> {
        Some(&["deregister", "liveness", "lookup", "watch"])
    }

    fn missing(&self) -> Option<String> {
        Eureka::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        super::connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let mut shared = self.server.lock().await;
        let server = match &*shared {
            Some(server) => server.clone(),
            None => {
                let server = Eureka::builder().production().start().await?;
                shared.insert(Arc::new(server)).clone()
            }
        };
        Ok(Box::new(Production(server)))
    }
}

struct Production(Arc<Eureka>);

#[async_trait]
impl Site for Production {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("eureka://{}", via.unwrap_or(self.0.server().address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.0.server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        super::inject(&self.0, fault).await
    }

    fn log(&self) -> String {
        self.0.server().log()
    }
}
