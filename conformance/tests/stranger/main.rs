//! A backend that this workspace does not know, held to the suite as a stranger would hold theirs.
//!
//! `tiny://` is a registry of one TCP server that speaks JSON, a line each. Its plugin is written against the public
//! interface of `registry-core` alone. The server is this same program, run with a variable set.

mod plugin;
mod server;

use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use registry_conformance::{Backend, Fault, Faults, LocalProcess, Server, Site, free_port};
use registry_core::{Capability, Drivers, Registry, Result, TtlScope, Window, async_trait};
use serde_json::json;

const SERVER: &str = "TINY_SERVER";

fn main() -> ExitCode {
    if let Ok(arguments) = std::env::var(SERVER) {
        return server::run(&arguments);
    }
    let backends: [Arc<dyn Backend>; 1] = [Arc::new(TinyBackend)];
    registry_conformance::run(backends)
}

struct TinyBackend;

#[async_trait]
impl Backend for TinyBackend {
    fn name(&self) -> &str {
        "tiny"
    }

    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Registration;
        capability.default_ttl = Some(Duration::from_secs(10));
        capability.watch_all = true;
        capability.conflicts = true;
        capability.can_forget = true;
        let ttl = Window {
            ttl_times: 1,
            plus: Duration::from_secs(1),
        };
        capability.windows.crash = Some(ttl);
        capability.windows.removed = capability.windows.crash;
        capability.windows.reregister = Some(ttl);
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
            processes: true,
            ..Faults::NONE
        }
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        Drivers::new().with(plugin::DRIVER).connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let program = std::env::current_exe().expect("this program has a name");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = LocalProcess::start(address, move |data| {
            let mut command = Command::new(&program);
            command.env(SERVER, format!("{address} {}", data.display()));
            command
        })
        .await?;
        Ok(Box::new(TinySite(process)))
    }
}

struct TinySite(LocalProcess);

#[async_trait]
impl Site for TinySite {
    fn url(&self, via: Option<SocketAddr>) -> String {
        format!("tiny://{}", via.unwrap_or(self.0.address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.0.address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        let address = self.0.address().to_string();
        match fault {
            Fault::Forget(key) => {
                let forget =
                    json!({"op": "forget", "service": key.service.as_str(), "id": key.id.as_str()});
                plugin::ask(&address, &forget).await?;
            }
            Fault::Spoil(service) => {
                let spoil = json!({"op": "spoil", "service": service.as_str()});
                plugin::ask(&address, &spoil).await?;
            }
            other => self.0.inject(other).await?,
        }
        Ok(())
    }

    async fn open_watches(&self) -> Option<usize> {
        let answer = plugin::ask(&self.0.address().to_string(), &json!({"op": "watches"})).await;
        answer.ok()?.first()?.as_u64()?.try_into().ok()
    }

    fn log(&self) -> String {
        self.0.log()
    }
}
