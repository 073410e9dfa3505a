//! The registry itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use registry_core::{
    Capability, Held, Instance, InstanceKey, ReadOptions, Registered, Registration, Registry,
    Renewal, Result, Scope, ServiceName, TtlScope, Watcher, Window,
};
use tokio::sync::watch;

use crate::config::ZooKeeperConfig;
use crate::holdings::Holdings;
use crate::layout::{MAX_RECORD, Places};
use crate::read::Reader;
use crate::records::Records;
use crate::session::Session;
use crate::watcher::Feeds;

/// A registry on ZooKeeper. All its registrations, reads and watches share one session and one connection.
///
/// It connects when it is first used. Dropping it, or better [`close`](Registry::close), ends the session, and with it
/// everything that it registered.
pub struct ZooKeeper {
    config: ZooKeeperConfig,
    session: Arc<Session>,
    records: Records,
    reader: Arc<Reader>,
    feeds: Feeds,
    losses: tokio::sync::Mutex<watch::Receiver<u64>>,
}

impl ZooKeeper {
    /// A client of these servers. It speaks to nobody yet.
    ///
    /// # Errors
    /// `Config` for what cannot work, such as `acl=creator` without a login.
    pub fn new(config: ZooKeeperConfig) -> Result<Self> {
        config.check()?;
        let places = Places::new(&config);
        let holdings = Arc::new(Holdings::new(places.root.clone()));
        let session = Arc::new(Session::new(config.clone(), holdings.clone()));
        Ok(Self {
            losses: holdings.losses().into(),
            records: Records::new(&config, session.clone(), holdings),
            reader: Arc::new(Reader::new(places)),
            feeds: Feeds::default(),
            session,
            config,
        })
    }

    /// How often a record was skipped so far because it could not be read as an instance.
    pub fn skipped(&self) -> u64 {
        self.reader.skipped()
    }
}

#[async_trait]
impl Registry for ZooKeeper {
    fn capability(&self) -> Capability {
        const TICK: Duration = Duration::from_secs(2);
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Connection;
        capability.default_ttl = Some(self.config.session);
        capability.watch_all = true;
        capability.conflicts = true;
        capability.can_forget = true;
        capability.windows.visible = Duration::from_millis(200);
        capability.windows.gone = Duration::from_millis(200);
        // The server looks for expired sessions once a tick, which is 2 s unless it was changed.
        capability.windows.crash = Some(Window {
            ttl_times: 1,
            plus: TICK,
        });
        capability.windows.removed = capability.windows.crash;
        // A node that is deleted is noticed at once; a server that restarts is found within 2 s.
        capability.windows.reregister = Some(Window::fixed(Duration::from_secs(3)));
        capability.limits.record = Some(MAX_RECORD);
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.capability().admit(registration)?;
        self.records.register(registration).await
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        if held.is_empty() {
            return Vec::new();
        }
        self.records.renew(held).await
    }

    async fn lost(&self) {
        // Never an error: the sender lives in the holdings, which this client has.
        let _ = self.losses.lock().await.changed().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.records.deregister(key).await
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.capability().admit_read(options)?;
        let conn = self.session.conn().await?;
        let found = self.reader.service(&conn, service).await;
        found.map_err(|error| error.with("service", service))
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.capability().admit_read(options)?;
        let conn = self.session.conn().await?;
        self.reader.services(&conn).await
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.capability().admit_read(options)?;
        self.session.check_open()?;
        Ok(Box::new(self.feeds.open(
            scope,
            &self.session,
            &self.reader,
        )))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        // The server tells of every change that it knows.
        self.session.check_open()
    }

    async fn close(&self) -> Result<()> {
        self.session.close().await;
        Ok(())
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
