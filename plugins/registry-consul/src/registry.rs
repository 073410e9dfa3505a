//! The registry.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use registry_core::{
    Capability, Check, Held, Instance, InstanceKey, ReadOptions, Registered, Registration,
    Registry, Renewal, Result, Scope, ServiceName, TtlScope, Turns, Watcher, Window,
};

use crate::client::Client;
use crate::codec::LONGEST_BODY;
use crate::config::{BASE_CONNECTIONS, ConsulConfig};
use crate::hub::{Hub, closed};
use crate::reader::Reader;
use crate::watcher::ConsulWatcher;
use crate::writer::Writer;

/// TTL of a registration that wishes for none.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(15);

/// What a shorter wish is granted: an agent takes any TTL, and no heartbeat comes in time for some.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Services with a query of their own over HTTP/2, where all share one connection: an agent serves 250 requests on it at a
/// time.
const DEDICATED_OVER_TLS: usize = 192;

/// Consul, through the HTTP API of its agent.
///
/// Instances that are registered when it is dropped lapse as after a crash.
pub struct Consul {
    agents: Vec<String>,
    client: Arc<Client>,
    reader: Arc<Reader>,
    writer: Arc<Writer>,
    turns: Turns,
    hub: Hub,
    closed: AtomicBool,
}

impl Consul {
    /// A registry at these agents. Reads the TLS files, and connects to nobody yet.
    ///
    /// # Errors
    /// `Config` for what cannot work.
    pub fn new(config: ConsulConfig) -> Result<Self> {
        config.check()?;
        let client = Arc::new(Client::new(&config)?);
        let reader = Arc::new(Reader::new(client.clone(), &config));
        let dedicated = match config.tls {
            Some(_) => DEDICATED_OVER_TLS,
            None => config.connections - BASE_CONNECTIONS,
        };
        Ok(Self {
            agents: config.agents.clone(),
            hub: Hub::new(reader.clone(), dedicated),
            writer: Arc::new(Writer::new(client.clone(), config)),
            client,
            reader,
            turns: Turns::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// How many services of Consul were skipped so far because they cannot be read as an instance: they have no port,
    /// or a name that is none. The first thousand are logged, each once.
    pub fn skipped(&self) -> u64 {
        self.reader.skipped()
    }

    fn serving(&self) -> Result<()> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    fn admit_read(&self, options: &ReadOptions) -> Result<()> {
        self.capability().admit_read(options)?;
        self.serving()
    }

    fn end(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.hub.close();
        self.turns.close();
    }
}

#[async_trait]
impl Registry for Consul {
    fn capability(&self) -> Capability {
        const SECOND: Duration = Duration::from_secs(1);
        let ttl_and = |plus| Some(Window { ttl_times: 1, plus });
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Registration;
        capability.default_ttl = Some(DEFAULT_TTL);
        capability.checks = &[Check::Http, Check::Tcp, Check::Grpc, Check::Command];
        capability.watch_all = true;
        capability.datacenters = true;
        capability.conflicts = true;
        capability.can_forget = true;
        capability.windows.crash = ttl_and(SECOND);
        // A minute is the least that Consul grants, and its reaper looks every 30 s.
        capability.windows.removed = ttl_and(Duration::from_secs(95));
        capability.windows.reregister = ttl_and(SECOND);
        capability.limits.record = Some(LONGEST_BODY);
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.capability().admit(registration)?;
        self.serving()?;
        let key = registration.key();
        let prepared = self.writer.prepare(registration)?;
        let writer = self.writer.clone();
        self.turns
            .run(&key, async move { writer.register(prepared).await })
            .await
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        match self.serving() {
            Ok(()) => self.writer.renew(held).await,
            Err(error) => held.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn lost(&self) {
        self.client.back.notified().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.serving()?;
        let writer = self.writer.clone();
        let owned = key.clone();
        self.turns
            .run(key, async move { writer.deregister(&owned).await })
            .await
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.admit_read(options)?;
        let datacenter = self.reader.datacenter(options);
        let found = self.reader.service(&datacenter, service).await?;
        Ok(found.value.instances)
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.admit_read(options)?;
        let datacenter = self.reader.datacenter(options);
        Ok(self.reader.services(&datacenter).await?.value)
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.admit_read(options)?;
        let (changes, feed) = self.hub.join(scope, self.reader.datacenter(options))?;
        Ok(Box::new(ConsulWatcher {
            changes,
            _feed: feed,
        }))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        self.serving()
    }

    async fn close(&self) -> Result<()> {
        self.end();
        Ok(())
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul")
            .field("agents", &self.agents)
            .finish_non_exhaustive()
    }
}
