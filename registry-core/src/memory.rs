//! The reference backend: a registry inside this process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::capability::{Capability, TtlScope, Window};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind, Result};
use crate::fanout::{Fanout, FanoutWatcher};
use crate::instance::{Instance, InstanceKey, ServiceName};
use crate::registration::{Held, Registered, Registration, Renewal};
use crate::registry::{ReadOptions, Registry};
use crate::watcher::{Change, Scope, Watcher};

/// The backend behind `memory://` and `memory://name`: equal names are one registry within the process.
pub(crate) const DRIVER: Driver = Driver::new(&["memory"], |url| {
    Box::pin(async move {
        url.options().finish()?;
        let name = url
            .hosts()
            .map(|(host, _)| host)
            .collect::<Vec<_>>()
            .join(",");
        Ok(Arc::new(Memory::named(&name)) as Arc<dyn Registry>)
    })
});

/// TTL of a registration that wishes for none.
const DEFAULT_TTL: Duration = Duration::from_secs(15);

static NAMED: LazyLock<Mutex<HashMap<String, Weak<Server>>>> = LazyLock::new(Mutex::default);

/// A client of a registry that lives in this process, for tests and for programs that are their own fleet.
///
/// It keeps the whole contract, TTLs (default 15 s) and conflicts included, and can be made to fail:
/// [`set_outage`](Self::set_outage), [`wipe`](Self::wipe) and [`forget`](Self::forget) let a program test its own
/// failover. Dropping the client ends its registrations.
pub struct Memory {
    server: Arc<Server>,
    owner: i64,
    closed: watch::Sender<bool>,
    /// The server's count of losses, as far as this client has heard.
    losses: tokio::sync::Mutex<watch::Receiver<u64>>,
}

#[derive(Debug)]
struct Server {
    state: Mutex<State>,
    fanout: Fanout,
    /// An expiry may be due earlier than a sleeping watcher believes.
    sooner: Notify,
    losses: watch::Sender<u64>,
    clients: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<InstanceKey, Record>,
    /// When each record expires, soonest first.
    expiries: BTreeSet<(Instant, InstanceKey)>,
    outage: bool,
    tokens: i64,
}

#[derive(Debug)]
struct Record {
    instance: Arc<Instance>,
    owner: i64,
    ttl: Duration,
    expires: Instant,
    token: i64,
}

impl Memory {
    /// A client of a new registry that nobody else knows; others join it with [`client`](Self::client).
    pub fn new() -> Self {
        Self::of(Server::new())
    }

    /// A client of the registry with this name, which is made when it is asked for first and goes with its last
    /// client.
    pub fn named(name: &str) -> Self {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, server| server.strong_count() > 0);
        let server = named.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let server = Server::new();
            named.insert(name.to_owned(), Arc::downgrade(&server));
            server
        });
        Self::of(server)
    }

    /// Another client of the same registry, as another process would have.
    pub fn client(&self) -> Self {
        Self::of(self.server.clone())
    }

    /// Begins or ends an outage: while it lasts, every call fails with `Unavailable`. Its begin ends every watch;
    /// records survive it, and their TTLs start anew at its end.
    pub fn set_outage(&self, outage: bool) {
        let mut state = self.server.lock();
        state.outage = outage;
        if outage {
            self.server.fanout.fail(&unavailable());
        } else {
            let keys: Vec<_> = state.records.keys().cloned().collect();
            for key in keys {
                state.renew(&key);
            }
            self.server.fanout.replace(state.instances(&Scope::All));
        }
    }

    /// Loses every record, as a server does that restarts without its data. Ends every watch with `Lost`.
    pub fn wipe(&self) {
        let mut state = self.server.lock();
        state.records.clear();
        state.expiries.clear();
        self.server.fanout.fail(&Error::new(
            ErrorKind::Lost,
            "the registry lost its records",
        ));
        if !state.outage {
            self.server.fanout.replace(Vec::new());
        }
        drop(state);
        self.server.losses.send_modify(|losses| *losses += 1);
    }

    /// Loses one record, as a server does that expires it by mistake.
    pub fn forget(&self, key: &InstanceKey) {
        let mut state = self.server.lock();
        state.remove(key);
        self.server.fanout.remove(key);
        drop(state);
        self.server.losses.send_modify(|losses| *losses += 1);
    }

    fn of(server: Arc<Server>) -> Self {
        let owner = server.clients.fetch_add(1, Ordering::Relaxed);
        let losses = server.losses.subscribe().into();
        Self {
            server,
            owner,
            closed: watch::Sender::new(false),
            losses,
        }
    }

    /// The state, past what has expired; an error when nobody answers.
    fn serving(&self) -> Result<MutexGuard<'_, State>> {
        if *self.closed.borrow() {
            return Err(closed());
        }
        let mut state = self.server.lock();
        if state.outage {
            return Err(unavailable());
        }
        self.server.expire(&mut state);
        Ok(state)
    }
}

impl Server {
    fn new() -> Arc<Self> {
        let fanout = Fanout::new();
        fanout.complete();
        Arc::new(Self {
            state: Mutex::default(),
            fanout,
            sooner: Notify::new(),
            losses: watch::Sender::new(0),
            clients: AtomicI64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what has expired and says when the next record does.
    fn expire(&self, state: &mut State) -> Option<Instant> {
        if state.outage {
            return None;
        }
        let now = Instant::now();
        while let Some((expires, key)) = state.expiries.first().cloned() {
            if expires > now {
                return Some(expires);
            }
            state.remove(&key);
            self.fanout.remove(&key);
        }
        None
    }

    fn leave(&self, owner: i64) {
        let mut state = self.lock();
        let of_owner = state
            .records
            .iter()
            .filter(|(_, record)| record.owner == owner);
        let keys: Vec<_> = of_owner.map(|(key, _)| key.clone()).collect();
        for key in keys {
            state.remove(&key);
            self.fanout.remove(&key);
        }
    }
}

impl State {
    fn insert(&mut self, key: InstanceKey, record: Record) {
        self.remove(&key);
        self.expiries.insert((record.expires, key.clone()));
        self.records.insert(key, record);
    }

    fn remove(&mut self, key: &InstanceKey) {
        if let Some(record) = self.records.remove(key) {
            self.expiries.remove(&(record.expires, key.clone()));
        }
    }

    /// Starts the TTL of a record anew.
    fn renew(&mut self, key: &InstanceKey) {
        if let Some(mut record) = self.records.remove(key) {
            self.expiries.remove(&(record.expires, key.clone()));
            record.expires = Instant::now() + record.ttl;
            self.insert(key.clone(), record);
        }
    }

    fn instances(&self, scope: &Scope) -> Vec<Arc<Instance>> {
        let records = self.records.values().map(|record| &record.instance);
        records
            .filter(|instance| scope.covers(&instance.service))
            .cloned()
            .collect()
    }
}

#[async_trait]
impl Registry for Memory {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Registration;
        capability.default_ttl = Some(DEFAULT_TTL);
        capability.watch_all = true;
        capability.atomic_batches = true;
        capability.conflicts = true;
        capability.can_forget = true;
        capability.windows.crash = Some(Window {
            ttl_times: 1,
            plus: Duration::from_secs(1),
        });
        capability.windows.removed = capability.windows.crash;
        capability.windows.reregister = Some(Window::fixed(Duration::from_secs(1)));
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.capability().admit(registration)?;
        let key = registration.key();
        let ttl = registration.ttl.unwrap_or(DEFAULT_TTL);
        let mut state = self.serving()?;
        if state
            .records
            .get(&key)
            .is_some_and(|record| record.owner != self.owner)
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another client holds this id; choose another one",
            )
            .with("instance", key));
        }
        state.tokens += 1;
        let token = state.tokens;
        let instance = registration.instance.clone();
        let record = Record {
            instance: instance.clone(),
            owner: self.owner,
            ttl,
            expires: Instant::now() + ttl,
            token,
        };
        state.insert(key.clone(), record);
        self.server.fanout.upsert(instance);
        drop(state);
        self.server.sooner.notify_waiters();
        Ok(Registered::new(key, Some(ttl), token))
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        let mut state = match self.serving() {
            Ok(state) => state,
            Err(error) => return held.iter().map(|_| Err(error.clone())).collect(),
        };
        held.iter()
            .map(|held| {
                let key = &held.registered.key;
                let ours = state.records.get(key).is_some_and(|record| {
                    record.owner == self.owner && record.token == held.registered.token
                });
                if !ours {
                    return Ok(Renewal::Unknown);
                }
                state.renew(key);
                Ok(Renewal::Held(held.registered.clone()))
            })
            .collect()
    }

    async fn lost(&self) {
        // Never an error: the sender lives in the server, which this client holds.
        let _ = self.losses.lock().await.changed().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let mut state = self.serving()?;
        if state
            .records
            .get(key)
            .is_some_and(|record| record.owner == self.owner)
        {
            state.remove(key);
            self.server.fanout.remove(key);
        }
        Ok(())
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.capability().admit_read(options)?;
        Ok(self.serving()?.instances(&service.clone().into()))
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.capability().admit_read(options)?;
        let mut services: Vec<_> = self
            .serving()?
            .records
            .keys()
            .map(|key| key.service.clone())
            .collect();
        services.dedup();
        Ok(services)
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.capability().admit_read(options)?;
        let _serving = self.serving()?;
        Ok(Box::new(MemoryWatcher {
            changes: self.server.fanout.join(scope),
            server: self.server.clone(),
            closed: self.closed.subscribe(),
        }))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        self.serving().map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        self.server.leave(self.owner);
        Ok(())
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.server.leave(self.owner);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

struct MemoryWatcher {
    changes: FanoutWatcher,
    server: Arc<Server>,
    closed: watch::Receiver<bool>,
}

#[async_trait]
impl Watcher for MemoryWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            let sooner = self.server.sooner.notified();
            let expiry = {
                let mut state = self.server.lock();
                self.server.expire(&mut state)
            };
            let expired = async {
                match expiry {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // A client that was dropped is closed too.
                _ = self.closed.wait_for(|closed| *closed) => return Err(closed()),
                changes = self.changes.next() => return changes,
                () = expired => {}
                () = sooner => {}
            }
        }
    }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the registry is down")
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}
