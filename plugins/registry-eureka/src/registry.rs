//! The registry itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use registry_core::{
    Capability, ErrorKind, Held, Instance, InstanceKey, ReadOptions, Registered, Registration,
    Registry, Renewal, Result, Scope, ServiceName, TtlScope, Turns, Watcher, Window,
};
use reqwest::StatusCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Client, DELTA, Reply, Request, part};
use crate::codec::{self, Written};
use crate::config::EurekaConfig;
use crate::json;
use crate::store::Store;
use crate::watcher::{Poller, list, read};
use crate::{closed, lock};

/// Renewals, and removals at the end, on their way at once.
const ABREAST: usize = 8;

/// What a poll takes beside its period: the request itself.
const MARGIN: Duration = Duration::from_secs(1);

/// How long the removals at the end may take.
const CLOSING: Duration = Duration::from_secs(3);

/// A client of one or more Eureka servers that hold the same registry.
///
/// It polls while somebody watches, once for all watches. [`close`](Registry::close) removes what it registered; after
/// a mere drop that lapses.
pub struct Eureka {
    server: Arc<Server>,
    poller: Poller,
    turns: Arc<Turns>,
    closed: AtomicBool,
}

/// What writes need, which may outlive their callers.
#[derive(Debug)]
struct Server {
    client: Arc<Client>,
    /// The last timestamp that was given to a record: the server ignores what is older than what it has.
    clock: AtomicI64,
    /// What was registered and not deregistered since, and whether the server has it as we said it.
    held: Mutex<HashMap<InstanceKey, bool>>,
}

impl Eureka {
    /// A client of these servers. It speaks to none of them yet.
    ///
    /// # Errors
    /// `Config` for what cannot work, and for files of TLS that cannot be read.
    pub fn new(config: EurekaConfig) -> Result<Self> {
        config.check()?;
        let client = Arc::new(Client::new(config)?);
        Ok(Self {
            poller: Poller::new(client.clone()),
            server: Arc::new(Server {
                client,
                clock: AtomicI64::new(0),
                held: Mutex::default(),
            }),
            turns: Arc::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// How many records were skipped so far because they could not be read as an instance.
    pub fn skipped(&self) -> u64 {
        self.poller.skipped().load(Ordering::Relaxed)
    }

    fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    fn instances(&self, reply: &Reply) -> Result<Vec<Arc<Instance>>> {
        let skipped: &AtomicU64 = self.poller.skipped();
        let answer = read(&self.server.client, reply, &Store::default(), skipped)?;
        Ok(answer.into_instances())
    }

    async fn all(&self) -> Result<Vec<Arc<Instance>>> {
        let client = &self.server.client;
        self.instances(&client.send(&list(client, "/apps")).await?)
    }
}

#[async_trait]
impl Registry for Eureka {
    fn capability(&self) -> Capability {
        let config = self.server.client.config();
        let seen = config.server.cache.saturating_add(config.poll + MARGIN);
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Registration;
        capability.default_ttl = Some(config.ttl);
        capability.watch_all = true;
        capability.recheck = true;
        // Of two owners the server takes the one with the later timestamp, and tells neither.
        capability.conflicts = false;
        // A server that restarted between two polls answers as if nobody had ever been there.
        capability.faults_visible = false;
        capability.can_forget = true;
        capability.windows.visible = seen;
        capability.windows.gone = seen;
        // The server counts the lease twice once it was renewed.
        let expiry = Window {
            ttl_times: 2,
            plus: config.server.eviction.saturating_add(seen),
        };
        capability.windows.crash = (!config.server.self_preservation).then_some(expiry);
        capability.windows.removed = capability.windows.crash;
        capability.windows.reregister = Some(Window {
            ttl_times: 1,
            plus: seen,
        });
        capability.windows.settle = config.timeout;
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.check_open()?;
        self.capability().admit(registration)?;
        let ttl = registration.ttl.unwrap_or(self.server.client.config().ttl);
        let written = Written::new(&registration.instance, ttl)?;
        let (key, server) = (registration.key(), self.server.clone());
        let registering = {
            let key = key.clone();
            async move { server.register(key, &written).await }
        };
        self.turns.run(&key, registering).await
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        if let Err(error) = self.check_open() {
            return held.iter().map(|_| Err(error.clone())).collect();
        }
        if let [held] = held {
            return vec![self.server.renew(held).await];
        }
        let (held, next) = (Arc::new(held.to_vec()), Arc::new(AtomicUsize::new(0)));
        let mut renewing = JoinSet::new();
        for _ in 0..ABREAST.min(held.len()) {
            let (server, held, next) = (self.server.clone(), held.clone(), next.clone());
            renewing.spawn(async move {
                let mut answers = Vec::new();
                let mut away = None;
                while let Some((number, held)) = take(&held, &next) {
                    let answer = match &away {
                        Some(error) => Err(Clone::clone(error)),
                        None => server.renew(held).await,
                    };
                    // The others would wait for nobody too.
                    away = answer
                        .as_ref()
                        .err()
                        .filter(|error| is_away(error))
                        .cloned();
                    answers.push((number, answer));
                }
                answers
            });
        }
        let mut answers: Vec<_> = renewing.join_all().await.into_iter().flatten().collect();
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn lost(&self) {
        // Nothing but a renewal tells.
        std::future::pending().await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.check_open()?;
        let server = self.server.clone();
        let removing = {
            let key = key.clone();
            async move { server.deregister(&key).await }
        };
        self.turns.run(key, removing).await
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.check_open()?;
        self.capability().admit_read(options)?;
        let client = &self.server.client;
        let mut found = if client.config().regions.is_empty() {
            let path = format!("/apps/{}", part(&codec::app(service)));
            let reply = client.send(&Request::get(path).large()).await?;
            if reply.status == StatusCode::NOT_FOUND {
                self.server.prove(&reply).await?;
                return Ok(Vec::new());
            }
            self.instances(&reply)?
        } else {
            self.all().await?
        };
        found.retain(|instance| instance.service == *service);
        Ok(found)
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.check_open()?;
        self.capability().admit_read(options)?;
        let instances = self.all().await?;
        let mut services: Vec<_> = instances
            .iter()
            .map(|instance| instance.service.clone())
            .collect();
        services.sort_unstable();
        services.dedup();
        Ok(services)
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.check_open()?;
        self.capability().admit_read(options)?;
        Ok(Box::new(self.poller.open(scope)?))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        self.poller.hurry()
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        self.poller.close();
        let keys: Arc<Vec<_>> = Arc::new(
            lock(&self.server.held)
                .drain()
                .map(|(key, _)| key)
                .collect(),
        );
        let next = Arc::new(AtomicUsize::new(0));
        let mut removing = JoinSet::new();
        for _ in 0..ABREAST.min(keys.len()) {
            let (server, turns) = (self.server.clone(), self.turns.clone());
            let (keys, next) = (keys.clone(), next.clone());
            removing.spawn(async move {
                while let Some((_, key)) = take(&keys, &next) {
                    let (server, own) = (server.clone(), key.clone());
                    let removed = turns.run(key, async move { server.deregister(&own).await });
                    if removed.await.is_err_and(|error| is_away(&error)) {
                        break;
                    }
                }
            });
        }
        // What is left lapses.
        let _ = timeout(CLOSING, removing.join_all()).await;
        self.turns.close();
        Ok(())
    }
}

impl Drop for Eureka {
    fn drop(&mut self) {
        self.poller.close();
    }
}

impl fmt::Debug for Eureka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eureka")
            .field("config", self.server.client.config())
            .finish_non_exhaustive()
    }
}

/// The next one that nobody took.
fn take<'l, T>(list: &'l [T], next: &AtomicUsize) -> Option<(usize, &'l T)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    list.get(number).map(|item| (number, item))
}

fn is_away(error: &registry_core::Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

impl Server {
    async fn register(&self, key: InstanceKey, written: &Written) -> Result<Registered> {
        let known = *lock(&self.held).entry(key.clone()).or_default();
        let mut dirty = self.tick();
        self.post(written, dirty).await?;
        // Whoever had the id before us may have had a clock that was ahead.
        if !known
            && let Some(theirs) = self.timestamp(written).await?
            && theirs > dirty
        {
            self.clock.fetch_max(theirs, Ordering::Relaxed);
            dirty = self.tick();
            self.post(written, dirty).await?;
        }
        lock(&self.held).insert(key.clone(), true);
        Ok(Registered::new(key, Some(written.ttl), dirty))
    }

    async fn post(&self, written: &Written, dirty: i64) -> Result<()> {
        let path = format!("/apps/{}", part(&written.app));
        let reply = self
            .client
            .send(&Request::post(path, written.body(dirty)))
            .await?;
        match reply.status {
            StatusCode::NO_CONTENT => {
                self.client.prove(reply.server);
                Ok(())
            }
            _ => Err(self.client.unexpected(&reply)),
        }
    }

    /// The timestamp that the server has for a record.
    async fn timestamp(&self, written: &Written) -> Result<Option<i64>> {
        let path = path(&written.app, &written.id);
        let reply = self.client.send(&Request::get(path)).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut dirty = None;
        let head = json::read(self.client.list(&reply)?, &mut |record| {
            dirty = Some(record.dirty)
        });
        head.map_err(|error| self.client.unexpected(&reply).because(error))?;
        Ok(dirty)
    }

    async fn renew(&self, held: &Held) -> Result<Renewal> {
        let key = &held.registered.key;
        let status = codec::word(held.registration.instance.status);
        let path = format!(
            "{}?status={status}&lastDirtyTimestamp={}",
            path(&codec::app(&key.service), &codec::id(key)),
            held.registered.token
        );
        let reply = self.client.send(&Request::put(path)).await?;
        match reply.status {
            StatusCode::OK if reply.body.is_empty() => Ok(Renewal::Held(held.registered.clone())),
            // Also for an older record than the one that we hold: it is registered again then.
            StatusCode::NOT_FOUND => Ok(Renewal::Unknown),
            _ => Err(self.client.unexpected(&reply)),
        }
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let path = path(&codec::app(&key.service), &codec::id(key));
        let reply = self.client.send(&Request::delete(path)).await?;
        match reply.status {
            StatusCode::OK | StatusCode::NO_CONTENT if reply.body.is_empty() => {}
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.client.unexpected(&reply)),
        }
        lock(&self.held).remove(key);
        Ok(())
    }

    /// Makes sure that it was Eureka who did not know a service: any program says so to an unknown path.
    async fn prove(&self, reply: &Reply) -> Result<()> {
        if self.client.is_proven(reply.server) {
            return Ok(());
        }
        let other = self
            .client
            .send(&Request::get(DELTA.to_owned()).large())
            .await?;
        if other.status == StatusCode::FORBIDDEN {
            return Ok(());
        }
        let skipped = AtomicU64::new(0);
        read(&self.client, &other, &Store::default(), &skipped).map(drop)
    }

    /// A timestamp that is later than every one before.
    fn tick(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        let later = |last: i64| Some(now.max(last + 1));
        let last = self
            .clock
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        now.max(last.unwrap_or_default() + 1)
    }
}

fn path(app: &str, id: &str) -> String {
    format!("/apps/{}/{}", part(app), part(id))
}
