//! A fleet whose servers are restarted one after the other, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_conformance::server::{Consul, Etcd};
use registry_core::{Discovery, Driver, Drivers, Instance, Registrar, Registry, RoundRobin, View};
use registry_tonic::{Channel, serve_with_registration};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::RoutesBuilder;

use crate::load::{Calls, run};
use crate::{Effort, Failure};

pub(crate) async fn measure(effort: Effort) -> Result<(), Failure> {
    println!("\n{} instances restarted one after the other", effort.fleet);
    rolling(effort, registry_mdns::DRIVER, "mdns://?loopback=true").await?;
    if !effort.servers {
        return Ok(());
    }
    match Etcd::missing() {
        Some(missing) => println!("  etcd: left out: {missing}"),
        None => {
            let server = Etcd::start().await?;
            let url = format!("etcd://{}", server.server().address());
            rolling(effort, registry_etcd::DRIVER, &url).await?;
        }
    }
    match Consul::missing() {
        Some(missing) => println!("  consul: left out: {missing}"),
        None => {
            let server = Consul::start().await?;
            let url = format!("consul://{}", server.server().address());
            rolling(effort, registry_consul::DRIVER, &url).await?;
        }
    }
    Ok(())
}

async fn rolling(effort: Effort, driver: Driver, url: &str) -> Result<(), Failure> {
    let connect = || async { Drivers::new().with(driver).connect(url).await };
    let mut fleet = Vec::new();
    for number in 0..effort.fleet {
        fleet.push(Member::start(connect().await?, number).await?);
    }
    let discovery = Discovery::new(connect().await?);
    let balancer = discovery.balancer("rolling", RoundRobin::default()).await?;
    let watched = balancer.view().clone();
    let mut view = watched.subscribe();
    while watched.snapshot().instances.len() < effort.fleet {
        view.next().await?;
    }
    let (channel, over) = (Channel::new(balancer), Arc::new(AtomicBool::new(false)));
    let calls = tokio::spawn({
        let over = over.clone();
        async move {
            let mut all = Calls::default();
            while !over.load(Ordering::Relaxed) {
                all.add(run(&channel, 4, 40).await);
                // The servers that restart have the same processors.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            all
        }
    });
    for (number, member) in fleet.iter_mut().enumerate() {
        let id = effort.fleet + number;
        let old = std::mem::replace(member, Member::start(connect().await?, id).await?);
        let seen = |view: &View| {
            let wanted = format!("i{id}");
            let snapshot = view.snapshot();
            snapshot
                .instances
                .iter()
                .any(|instance| instance.id.as_str() == wanted)
        };
        while !seen(&watched) {
            view.next().await?;
        }
        old.end().await?;
    }
    over.store(true, Ordering::Relaxed);
    let scheme = url.split(':').next().unwrap_or_default();
    println!("  {scheme:<22} {}", calls.await?);
    for member in fleet {
        member.end().await?;
    }
    Ok(())
}

/// One server that registers itself.
struct Member {
    stop: oneshot::Sender<()>,
    served: JoinHandle<registry_core::Result<()>>,
}

impl Member {
    async fn start(registry: Arc<dyn Registry>, number: usize) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let instance = Instance::new("rolling", listener.local_addr()?).id(format!("i{number}"));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let registrar = Registrar::new(registry);
            let routes = RoutesBuilder::default().routes();
            let router = tonic::transport::Server::builder().add_routes(routes);
            let stopped = async {
                // Dropped, it ends too.
                let _ = stopped.await;
            };
            serve_with_registration(router, listener, &registrar, instance, stopped).await
        });
        Ok(Self { stop, served })
    }

    async fn end(self) -> Result<(), Failure> {
        drop(self.stop);
        Ok(self.served.await??)
    }
}
