//! One mdns-sd daemon: a thread with its sockets and its cache.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mdns_sd::{
    DaemonEvent, Error as MdnsError, IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo,
    UnregisterStatus,
};
use registry_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::SERVICE_TYPE;
use crate::config::{Interface, MdnsConfig};

/// Largest packet on the loopback, in bytes: the largest of RFC 6762, 17. Nothing fragments it there, and it takes a
/// sixth of the packets to fill the socket of whoever asks for many instances.
const LOOPBACK_PACKET: usize = 8952;
/// How long a command may wait for room in the daemon's queue of 100, and for its answer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long ending a daemon may block for its goodbyes. They take less than a millisecond each.
const END_TIMEOUT: Duration = Duration::from_millis(250);
/// Most goodbyes at once, and the pause after them, a thousand in 1 s: one that overflows a socket is not said again.
const GOODBYES: usize = 32;
const GOODBYE_PAUSE: Duration = Duration::from_millis(32);
/// The daemon says goodbye a second time 120 ms after the first, for whoever missed that one.
const SECOND_GOODBYE: Duration = Duration::from_millis(150);

/// A running daemon. Dropping it says goodbye for all that it announces and ends its thread.
pub(crate) struct Daemon {
    service: ServiceDaemon,
    /// It serves one name or one browse, and ends with it.
    pub(crate) apart: bool,
    /// Nobody follows its reports any more, so that it must be given no more records.
    ended: AtomicBool,
}

impl Daemon {
    /// Starts a daemon that speaks where the configuration says, and what it reports.
    pub(crate) fn start(config: &MdnsConfig) -> Result<(Self, Receiver<DaemonEvent>)> {
        let this = Self {
            service: ServiceDaemon::new_with_port(config.port).map_err(failed)?,
            apart: false,
            ended: AtomicBool::new(false),
        };
        let only = if config.loopback {
            // IPv6 multicast is not sent on Linux' loopback.
            vec![IfKind::LoopbackV4]
        } else {
            config.interfaces.iter().map(kind).collect()
        };
        if !only.is_empty() {
            this.service
                .disable_interface(IfKind::All)
                .map_err(failed)?;
            this.service.enable_interface(only).map_err(failed)?;
        }
        this.service
            .set_max_packet_size(IfKind::LoopbackV4, LOOPBACK_PACKET)
            .map_err(failed)?;
        let events = this.service.monitor().map_err(failed)?;
        Ok((this, events))
    }

    /// Announces a record, or announces it again. Only the daemon's reports tell what comes of it.
    pub(crate) async fn register(&self, record: &ServiceInfo) -> Result<()> {
        let command = || self.service.register(record.clone());
        queued(command).await.map_err(failed)
    }

    /// Says goodbye for records, twice. An unknown one is no error, and neither is a daemon that ended: its records
    /// ended with it.
    pub(crate) async fn unregister(&self, full_names: &[&str]) -> Result<()> {
        let mut said = false;
        for some in full_names.chunks(GOODBYES) {
            if said {
                sleep(GOODBYE_PAUSE).await;
            }
            let mut answers = Vec::with_capacity(some.len());
            for full_name in some {
                match queued(|| self.service.unregister(full_name)).await {
                    Ok(answer) => answers.push(answer),
                    Err(MdnsError::DaemonShutdown) => return Ok(()),
                    Err(error) => return Err(failed(error)),
                }
            }
            let all = async {
                for answer in answers {
                    said |= matches!(answer.recv_async().await, Ok(UnregisterStatus::OK));
                }
            };
            if timeout(COMMAND_TIMEOUT, all).await.is_err() {
                return Err(failed(MdnsError::Again));
            }
        }
        if said {
            sleep(SECOND_GOODBYE).await;
        }
        Ok(())
    }

    /// Announces a record again, without waiting for room in the queue; says whether there was some.
    pub(crate) fn register_now(&self, record: &ServiceInfo) -> bool {
        self.service.register(record.clone()).is_ok()
    }

    /// Says goodbye for a record without waiting for it; says whether it will be said.
    pub(crate) fn unregister_now(&self, full_name: &str) -> bool {
        self.service.unregister(full_name).is_ok()
    }

    /// Looks for the instances of our type. A second call takes the events away from the first.
    pub(crate) async fn browse(&self) -> Result<Receiver<ServiceEvent>> {
        let command = || self.service.browse(SERVICE_TYPE);
        queued(command).await.map_err(failed)
    }

    /// Asks whether an instance is still there; silence for `wait` removes it.
    pub(crate) async fn verify(&self, full_name: &str, wait: Duration) -> Result<()> {
        let command = || self.service.verify(full_name.to_owned(), wait);
        queued(command).await.map_err(failed)
    }

    /// Says goodbye for all that is left and ends the daemon, within a bounded time.
    pub(crate) async fn shut_down(&self) -> Result<()> {
        let done = match queued(|| self.service.shutdown()).await {
            Ok(done) => done,
            Err(MdnsError::DaemonShutdown) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // An error says that its thread is gone already.
        let _ = timeout(COMMAND_TIMEOUT, done.recv_async()).await;
        Ok(())
    }

    /// Remembers that nobody follows its reports any more.
    pub(crate) fn note_end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether it can be given records.
    pub(crate) fn is_running(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// The same where nothing can be awaited. It blocks: without that, a program that ends here would take the
    /// daemon's thread down before its goodbyes are out.
    pub(crate) fn end(&self) {
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            match self.service.shutdown() {
                Ok(done) => {
                    let _ = done.recv_timeout(END_TIMEOUT);
                    return;
                }
                Err(MdnsError::Again) => std::thread::park_timeout(Duration::from_millis(1)),
                Err(_) => return,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

fn kind(interface: &Interface) -> IfKind {
    match interface {
        Interface::Name(name) => IfKind::Name(name.clone()),
        Interface::Address(ip) => IfKind::Addr(*ip),
    }
}

/// Gives the daemon a command, waiting for room in its queue.
async fn queued<T>(command: impl Fn() -> mdns_sd::Result<T> + Send + Sync) -> mdns_sd::Result<T> {
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    loop {
        match command() {
            Err(MdnsError::Again) if Instant::now() < deadline => {
                sleep(Duration::from_millis(1)).await;
            }
            result => return result,
        }
    }
}

fn failed(error: MdnsError) -> Error {
    let message = match &error {
        MdnsError::DaemonShutdown => "the mDNS daemon ended",
        MdnsError::Again => "the mDNS daemon is busy",
        _ => "the mDNS daemon failed",
    };
    Error::new(ErrorKind::Unavailable, message).because(error)
}
