//! The registry itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use registry_core::{
    Capability, Change, Held, Instance, InstanceKey, ReadOptions, Registered, Registration,
    Registry, Renewal, Result, Scope, ServiceName, Watcher, Window,
};
use tokio::sync::watch;

use crate::browse::Browser;
use crate::config::MdnsConfig;
use crate::link::Link;
use crate::publish::Publisher;
use crate::txt::{MAX_PAIR, MAX_RECORD};

/// A registry on the local link. There is no server: each client announces its own instances and listens to the
/// others.
///
/// It starts one thread when it is first used, and begins to listen at the first read or watch. Dropping it, or
/// better [`close`](Registry::close), says goodbye for all that it announced; without a goodbye the others see its
/// instances for 120 s.
pub struct Mdns {
    link: Arc<Link>,
    publisher: Publisher,
    browser: Arc<Browser>,
    losses: tokio::sync::Mutex<watch::Receiver<u64>>,
    closing: tokio::sync::Mutex<()>,
}

impl Mdns {
    /// A client of the local link. It speaks to nobody yet.
    ///
    /// # Errors
    /// `Config` for a port 0, and for interfaces beside `loopback`.
    pub fn new(config: MdnsConfig) -> Result<Self> {
        config.check()?;
        let link = Arc::new(Link::new(config));
        Ok(Self {
            publisher: Publisher::new(link.clone()),
            browser: Arc::default(),
            losses: link.records.losses().into(),
            closing: tokio::sync::Mutex::default(),
            link,
        })
    }

    /// How many records of our type were skipped so far because they could not be read as an instance, or were too
    /// many.
    pub fn skipped(&self) -> u64 {
        self.browser.skipped()
    }

    /// The instances in this scope, once the first answers are in.
    async fn settled(&self, scope: &Scope) -> Result<Vec<Arc<Instance>>> {
        let changes = self.browser.open(&self.link, scope)?.next().await?;
        Ok(changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Snapshot(instances) => Some(instances),
                _ => None,
            })
            .flatten()
            .collect())
    }
}

#[async_trait]
impl Registry for Mdns {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.watch_all = true;
        capability.recheck = true;
        capability.conflicts = self.link.config.probe;
        // Three probes in 1 s at most, then the announcement (RFC 6762, 8.1).
        capability.windows.visible = Duration::from_millis(1500);
        // Whoever hears a goodbye keeps the record for 1 s (RFC 6762, 10.1).
        capability.windows.gone = Duration::from_millis(1500);
        // The TTL of SRV and address records (RFC 6762, 10).
        capability.windows.crash = Some(Window::fixed(Duration::from_secs(120)));
        capability.windows.removed = capability.windows.crash;
        capability.windows.settle = Duration::from_millis(1500);
        capability.limits.metadata_pair = MAX_PAIR;
        capability.limits.record = Some(MAX_RECORD);
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.capability().admit(registration)?;
        let revision = self.publisher.register(&registration.instance).await?;
        let token = i64::try_from(revision).unwrap_or(i64::MAX);
        Ok(Registered::new(registration.key(), None, token))
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        held.iter().map(|held| self.publisher.renew(held)).collect()
    }

    async fn lost(&self) {
        // Never an error: the sender lives in the records, which this client holds.
        let _ = self.losses.lock().await.changed().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.publisher.deregister(key).await
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.capability().admit_read(options)?;
        self.settled(&service.clone().into()).await
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.capability().admit_read(options)?;
        let instances = self.settled(&Scope::All).await?;
        let mut services: Vec<_> = instances
            .iter()
            .map(|instance| instance.service.clone())
            .collect();
        services.sort_unstable();
        services.dedup();
        Ok(services)
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.capability().admit_read(options)?;
        Ok(Box::new(self.browser.open(&self.link, scope)?))
    }

    async fn recheck(&self, key: &InstanceKey) -> Result<()> {
        self.link.check_open()?;
        self.browser.recheck(key).await
    }

    async fn close(&self) -> Result<()> {
        let _closing = self.closing.lock().await;
        let listening = self.browser.close();
        self.publisher.close(listening).await
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        let listening = self.browser.close();
        self.publisher.end(listening);
    }
}

impl fmt::Debug for Mdns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mdns")
            .field("config", &self.link.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use registry_core::ErrorKind;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    fn client() -> Mdns {
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Mdns::new(MdnsConfig::default().loopback(true).port(port)).unwrap()
    }

    fn registration() -> Arc<Registration> {
        let builder = Instance::new("web", "127.0.0.1:8080").id("a");
        Arc::new(builder.try_into().unwrap())
    }

    async fn renewed(client: &Mdns, held: &Held) -> Result<Renewal> {
        client.renew(std::slice::from_ref(held)).await.remove(0)
    }

    #[tokio::test]
    async fn a_name_that_is_lost_late_is_reported_and_registered_anew() {
        let client = client();
        let wanted = registration();
        let held = Held::new(wanted.clone(), client.register(&wanted).await.unwrap());
        assert!(
            timeout(Duration::from_millis(50), client.lost())
                .await
                .is_err()
        );

        let daemon = Arc::downgrade(&client.link.daemon().unwrap());
        client
            .link
            .records
            .renamed("a@web._micro._tcp.local.", &daemon);
        timeout(Duration::from_secs(1), client.lost())
            .await
            .unwrap();
        let error = renewed(&client, &held).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let held = Held::new(wanted.clone(), client.register(&wanted).await.unwrap());
        assert_eq!(
            renewed(&client, &held).await.unwrap(),
            Renewal::Held(held.registered.clone())
        );
        assert_eq!(
            client
                .lookup(&wanted.instance.service, &ReadOptions::default())
                .await
                .unwrap()
                .len(),
            1
        );
        client.deregister(&wanted.key()).await.unwrap();
        assert_eq!(renewed(&client, &held).await.unwrap(), Renewal::Unknown);
    }

    #[tokio::test]
    async fn a_name_that_is_ours_is_not_probed_again() {
        let client = client();
        client.register(&registration()).await.unwrap();
        for weight in 2..5 {
            let changed = registration()
                .instance
                .edit()
                .weight(weight)
                .build()
                .unwrap();
            // Polled once: the daemon has not reported it when the next one comes.
            let _ = timeout(Duration::ZERO, client.register(&changed.into())).await;
            let record = client.link.records.get("a@web._micro._tcp.local.").unwrap();
            assert_eq!(record.instance.weight, weight);
            assert!(!record.info.requires_probe());
        }
    }

    #[tokio::test]
    async fn a_daemon_that_ends_takes_nothing_with_it_for_good() {
        let client = client();
        let wanted = registration();
        let held = Held::new(wanted.clone(), client.register(&wanted).await.unwrap());
        let scope = wanted.instance.service.clone().into();
        let mut watcher = client.watch(&scope, &ReadOptions::default()).await.unwrap();
        assert!(
            matches!(&watcher.next().await.unwrap()[..], [Change::Snapshot(found)] if found.len() == 1)
        );

        client.link.daemon().unwrap().end();
        timeout(Duration::from_secs(1), client.lost())
            .await
            .unwrap();
        assert_eq!(renewed(&client, &held).await.unwrap(), Renewal::Unknown);
        let end = async {
            loop {
                if let Err(error) = watcher.next().await {
                    return error;
                }
            }
        };
        assert_eq!(
            timeout(Duration::from_secs(1), end).await.unwrap().kind(),
            ErrorKind::Lost
        );
        client.register(&wanted).await.unwrap();
        assert_eq!(
            client
                .lookup(&wanted.instance.service, &ReadOptions::default())
                .await
                .unwrap()
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn a_close_that_is_dropped_ends_the_daemon() {
        let client = client();
        client.register(&registration()).await.unwrap();
        let scope = Scope::All;
        let mut watcher = client.watch(&scope, &ReadOptions::default()).await.unwrap();
        watcher.next().await.unwrap();
        let daemon = Arc::downgrade(&client.link.daemon().unwrap());

        // The second goodbyes alone take longer.
        assert!(
            timeout(Duration::from_millis(20), client.close())
                .await
                .is_err()
        );
        client.close().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while daemon.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the daemon is held for ever");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_register_that_ends_during_a_close_leaves_the_daemon_to_it() {
        let client = client();
        let wanted = registration();
        let registering = timeout(Duration::from_millis(100), client.register(&wanted));
        let mut registering = Box::pin(registering);
        assert!(
            timeout(Duration::from_millis(50), &mut registering)
                .await
                .is_err()
        );
        let daemon = client.link.close().unwrap();
        drop(registering);
        let events = daemon.browse().await.unwrap();
        timeout(Duration::from_secs(1), events.recv_async())
            .await
            .unwrap()
            .unwrap();
        daemon.shut_down().await.unwrap();
    }

    #[test]
    fn a_watch_that_is_opened_while_the_runtime_ends_does_not_block() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _entered = handle.enter();
            let client = client();
            let opened = client.browser.open(&client.link, &Scope::All);
            done.send(opened.is_ok()).unwrap();
        });
        assert!(ended.recv_timeout(Duration::from_secs(5)).unwrap());
    }
}
