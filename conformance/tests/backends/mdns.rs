//! Multicast DNS on the loopback, each case on a port of its own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use registry_conformance::{Backend, Fault, Faults, Site, free_port};
use registry_core::{
    Capability, Drivers, Error, ErrorKind, Registry, Result, ServiceName, TtlScope, Window,
    async_trait,
};

/// `mdns://`
pub(crate) struct MdnsBackend;

#[async_trait]
impl Backend for MdnsBackend {
    fn name(&self) -> &str {
        "mdns"
    }

    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Fixed;
        capability.watch_all = true;
        capability.recheck = true;
        capability.conflicts = true;
        capability.windows.visible = Duration::from_millis(1500);
        capability.windows.gone = Duration::from_millis(1500);
        capability.windows.crash = Some(Window::fixed(Duration::from_secs(120)));
        capability.windows.removed = capability.windows.crash;
        capability.windows.settle = Duration::from_millis(1500);
        // One string of a TXT record, without the mark of ours and the sign between key and value.
        capability.limits.metadata_pair = 252;
        capability.limits.record = Some(1200);
        capability
    }

    fn faults(&self) -> Faults {
        Faults {
            spoil: true,
            processes: true,
            ..Faults::NONE
        }
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        Drivers::new()
            .with(registry_mdns::DRIVER)
            .connect(url)
            .await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        Ok(Box::new(Link {
            port: free_port(),
            strangers: Mutex::default(),
        }))
    }
}

/// A port of the loopback that only one case uses.
struct Link {
    port: u16,
    strangers: Mutex<Vec<ServiceDaemon>>,
}

#[async_trait]
impl Site for Link {
    fn url(&self, _via: Option<SocketAddr>) -> String {
        format!("mdns://?loopback=true&port={}", self.port)
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Spoil(service) => self.spoil(service).map_err(|error| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!("no stranger on the link: {error}"),
                )
            }),
            other => Err(other.unsupported()),
        }
    }
}

impl Link {
    /// Publishes records of our type that are not ours, and sends packets that are none.
    fn spoil(&self, service: &ServiceName) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let stranger = ServiceDaemon::new_with_port(self.port)?;
        stranger.disable_interface(IfKind::All)?;
        stranger.enable_interface(IfKind::LoopbackV4)?;
        let records: [(&str, &[(&str, &str)]); 3] = [
            ("printer", &[]),
            ("bad name", &[("service", "/")]),
            ("bad id", &[("service", service.as_str()), ("id", "\u{7}")]),
        ];
        for (name, properties) in records {
            let address = Ipv4Addr::LOCALHOST;
            let host = "stranger.local.";
            let kind = "_micro._tcp.local.";
            let info = ServiceInfo::new(kind, name, host, address.to_string(), 9, properties)?;
            stranger.register(info)?;
        }
        let mut random = fastrand::Rng::with_seed(1);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        for length in 0..200 {
            let mut packet: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            if let Some(flags) = packet.get_mut(2..4) {
                // Half of them call themselves an answer.
                flags.copy_from_slice(if length % 2 == 0 { &[0x84, 0] } else { &[0, 0] });
            }
            socket.send_to(&packet, (Ipv4Addr::LOCALHOST, self.port))?;
        }
        self.strangers
            .lock()
            .expect("nothing panics under it")
            .push(stranger);
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for stranger in self
            .strangers
            .lock()
            .expect("nothing panics under it")
            .drain(..)
        {
            // An error means that it has ended already.
            let _ = stranger.shutdown();
        }
    }
}
