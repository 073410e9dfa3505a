//! The registries that programs can be pointed at.

use std::any::Any;
use std::net::{Ipv4Addr, UdpSocket};

/// A registry of its own.
pub(crate) struct Registry {
    pub(crate) url: String,
    /// How a client says that an instance was killed.
    pub(crate) killed: &'static str,
    /// Ends with it.
    _server: Box<dyn Any + Send + Sync>,
}

/// A multicast DNS on the loopback interface, with a port of its own.
pub(crate) fn mdns() -> Registry {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    Registry {
        url: format!("mdns://?loopback=true&port={port}"),
        killed: "gone",
        _server: Box::new(()),
    }
}

#[cfg(feature = "etcd")]
pub(crate) async fn etcd() -> Option<Registry> {
    use registry_conformance::server::Etcd;
    if is_left_out("etcd", Etcd::missing()) {
        return None;
    }
    let server = Etcd::start().await.unwrap();
    Some(Registry {
        url: format!("etcd://{}", server.server().address()),
        killed: "gone",
        _server: Box::new(server),
    })
}

#[cfg(feature = "consul")]
pub(crate) async fn consul() -> Option<Registry> {
    use registry_conformance::server::Consul;
    if is_left_out("consul", Consul::missing()) {
        return None;
    }
    let server = Consul::start().await.unwrap();
    Some(Registry {
        url: format!("consul://{}", server.server().address()),
        killed: "down",
        _server: Box::new(server),
    })
}

#[cfg(feature = "zookeeper")]
pub(crate) async fn zookeeper() -> Option<Registry> {
    use registry_conformance::server::ZooKeeper;
    if is_left_out("zookeeper", ZooKeeper::missing()) {
        return None;
    }
    let server = ZooKeeper::start().await.unwrap();
    Some(Registry {
        url: format!("zookeeper://{}", server.server().address()),
        killed: "gone",
        _server: Box::new(server),
    })
}

#[cfg(feature = "eureka")]
pub(crate) async fn eureka() -> Option<Registry> {
    use registry_conformance::server::Eureka;
    if is_left_out("eureka", Eureka::missing()) {
        return None;
    }
    let server = Eureka::start().await.unwrap();
    let options = "poll=500ms&ttl=3s&cache=1s&eviction=1s&self-preservation=false";
    Some(Registry {
        url: format!("eureka://{}?{options}", server.server().address()),
        killed: "gone",
        _server: Box::new(server),
    })
}

/// Whether a server that is not installed is done without. `REGISTRY_TEST_REQUIRE` names those that are not.
#[cfg(any(
    feature = "consul",
    feature = "etcd",
    feature = "eureka",
    feature = "zookeeper"
))]
fn is_left_out(name: &str, missing: Option<String>) -> bool {
    let Some(missing) = missing else {
        return false;
    };
    let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|one| one == name),
        "{name} is required: {missing}"
    );
    eprintln!("left out: {missing}");
    true
}

/// Tests of a fleet on every registry that is there.
macro_rules! on_every_registry {
    ($fleet:ident) => {
        #[tokio::test]
        async fn servers_come_and_go_and_every_call_is_answered() {
            $fleet(&crate::common::registry::mdns()).await;
        }

        #[cfg(feature = "etcd")]
        #[tokio::test]
        async fn the_same_programs_run_on_etcd() {
            if let Some(registry) = crate::common::registry::etcd().await {
                $fleet(&registry).await;
            }
        }

        #[cfg(feature = "consul")]
        #[tokio::test]
        async fn the_same_programs_run_on_consul() {
            if let Some(registry) = crate::common::registry::consul().await {
                $fleet(&registry).await;
            }
        }

        #[cfg(feature = "zookeeper")]
        #[tokio::test]
        async fn the_same_programs_run_on_zookeeper() {
            if let Some(registry) = crate::common::registry::zookeeper().await {
                $fleet(&registry).await;
            }
        }

        #[cfg(feature = "eureka")]
        #[tokio::test]
        async fn the_same_programs_run_on_eureka() {
            if let Some(registry) = crate::common::registry::eureka().await {
                $fleet(&registry).await;
            }
        }
    };
}

pub(crate) use on_every_registry;
