//! Eureka of Spring Cloud: one server for all cases that do it no harm, two peers for the others, one case at a time,
//! and one that is secured.

mod peers;
mod production;
mod secured;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_conformance::server::Eureka;
use registry_conformance::{Backend, Fault, Faults, Site};
use registry_core::{
    Capability, Drivers, Instance, InstanceKey, Registry, Result, TtlScope, Window, async_trait,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub(crate) use peers::PeersBackend;
pub(crate) use production::ProductionBackend;
pub(crate) use secured::SecuredBackend;

/// What a server that all cases share can be made to do.
const FAULTS: Faults = Faults {
    forget: true,
    spoil: true,
    wire: true,
    publish: true,
    maintain: true,
    processes: true,
    ..Faults::NONE
};

/// So many instances that are left over slow a case down.
const CROWD: usize = 1000;

/// `eureka://`, one server.
#[derive(Default)]
pub(crate) struct EurekaBackend {
    /// Ends with the last case.
    server: Mutex<Option<Arc<Eureka>>>,
}

#[async_trait]
impl Backend for EurekaBackend {
    fn name(&self) -> &str {
        "eureka"
    }

    fn capability(&self) -> Capability {
        capability()
    }

    fn faults(&self) -> Faults {
        FAULTS
    }

    fn missing(&self) -> Option<String> {
        Eureka::missing()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        connect(url).await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let mut shared = self.server.lock().await;
        let server = match &*shared {
            Some(server) => server.clone(),
            None => shared.insert(Arc::new(Eureka::start().await?)).clone(),
        };
        // Cases with many instances run alone, and leave nobody behind who would be in the way of the next one.
        if Arc::strong_count(&server) == 2 && server.records().await?.len() > CROWD {
            server.clear().await?;
        }
        Ok(Box::new(Shared(server)))
    }
}

fn capability() -> Capability {
    let seen = Duration::from_millis(2500);
    let mut capability = Capability::new();
    capability.ttl = TtlScope::Registration;
    capability.default_ttl = Some(Duration::from_secs(3));
    capability.watch_all = true;
    capability.recheck = true;
    capability.faults_visible = false;
    capability.can_forget = true;
    capability.windows.visible = seen;
    capability.windows.gone = seen;
    capability.windows.crash = Some(Window {
        ttl_times: 2,
        plus: seen + Duration::from_secs(1),
    });
    capability.windows.removed = capability.windows.crash;
    capability.windows.reregister = Some(Window {
        ttl_times: 1,
        plus: seen,
    });
    capability.windows.settle = Duration::from_secs(4);
    capability
}

/// The URL of a server with this login, which ends with `@` where there is one.
fn url(login: &str, address: SocketAddr) -> String {
    format!(
        "eureka://{login}{address}/eureka?poll=500ms&ttl=3s&cache=1s&eviction=1s&self-preservation=false"
    )
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    let drivers = Drivers::new().with(registry_eureka::DRIVER);
    drivers.connect(url).await
}

/// The one server that all cases share, each with services of its own.
struct Shared(Arc<Eureka>);

#[async_trait]
impl Site for Shared {
    fn url(&self, via: Option<SocketAddr>) -> String {
        url("", via.unwrap_or(self.0.server().address()))
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.0.server().address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        inject(&self.0, fault).await
    }

    fn log(&self) -> String {
        self.0.server().log()
    }
}

/// What another program or an operator does.
async fn inject(server: &Eureka, fault: &Fault) -> Result<()> {
    match fault {
        Fault::Forget(key) => server.settle("DELETE", &path(key)).await,
        Fault::Maintain(key) => {
            let path = format!("{}/status?value=OUT_OF_SERVICE", path(key));
            server.settle("PUT", &path).await
        }
        Fault::Release(key) => {
            let path = format!("{}/status?value=UP", path(key));
            server.settle("DELETE", &path).await
        }
        Fault::Publish(instances) => {
            for instance in instances {
                post(server, theirs(instance)).await?;
            }
            Ok(())
        }
        Fault::Spoil(service) => {
            for (number, fields) in spoilt().into_iter().enumerate() {
                let id = format!("spoilt-{number}");
                let mut record = record(service.as_str(), &id, "127.0.0.9", 9);
                let fields = fields.as_object().cloned().unwrap_or_default();
                record.as_object_mut().expect("it is one").extend(fields);
                post(server, record).await?;
            }
            Ok(())
        }
        other => Err(other.unsupported()),
    }
}

async fn post(server: &Eureka, record: Value) -> Result<()> {
    let app = record["app"].as_str().unwrap_or_default().to_owned();
    let body = json!({ "instance": record }).to_string();
    server.ask("POST", &format!("/apps/{app}"), &body).await?;
    Ok(())
}

/// Where our record of an instance is, whose id has nothing to be escaped.
fn path(key: &InstanceKey) -> String {
    let app = key.service.as_str().to_uppercase();
    format!("/apps/{app}/{}:{}", key.service, key.id)
}

/// The record of a program of Spring.
fn theirs(instance: &Instance) -> Value {
    let address = instance.address.socket_addr().expect("cases use addresses");
    let (host, port) = (address.ip().to_string(), address.port());
    record(instance.service.as_str(), instance.id.as_str(), &host, port)
}

fn record(service: &str, id: &str, host: &str, port: u16) -> Value {
    json!({
        "instanceId": id,
        "app": service.to_uppercase(),
        "hostName": host,
        "ipAddr": host,
        "vipAddress": service,
        "secureVipAddress": service,
        "status": "UP",
        "port": { "$": port, "@enabled": "true" },
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 120 },
        "metadata": { "@class": "java.util.Collections$EmptyMap" },
    })
}

/// What the server takes and nobody can call.
fn spoilt() -> [Value; 5] {
    let long = "x".repeat(200);
    [
        json!({ "port": { "$": 70_000, "@enabled": "true" } }),
        json!({ "port": { "$": 0, "@enabled": "true" } }),
        json!({ "hostName": "no host", "ipAddr": "0.0.0.0" }),
        json!({ "instanceId": long }),
        json!({ "instanceId": "\u{7}" }),
    ]
}
