//! A memory backend with something wrong in its calls.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use registry_conformance::{Backend, Faults, MemoryBackend, Site};
use registry_core::{
    Capability, Error, ErrorKind, Held, Instance, InstanceKey, Metadata, ReadOptions, Registered,
    Registration, Registry, Renewal, Result, Scope, ServiceName, Watcher, async_trait,
};
use tokio::time::{Instant, sleep};

use crate::watcher::MutantWatcher;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    AlwaysRenews,
    BelievesTheEmpty,
    BuffersWithoutBound,
    ClaimsLess,
    DropsRemovals,
    FailureIsEmpty,
    GoesBack,
    GoesOnAfterAnError,
    HidesTheUnhealthy,
    IgnoresChecks,
    IgnoresOptions,
    IgnoresTheDatacenter,
    IgnoresTtl,
    KeepsTheDeregistered,
    LeavesATask,
    ListsWhatWas,
    LosesMetadata,
    LosesWhatIsDropped,
    MatchesPrefixes,
    OneWatchPerService,
    OpensLate,
    OutageIsEmpty,
    OutlivesClose,
    RefusesUnknownKeys,
    RenewalCreates,
    Repeats,
    ReplacesByRemoval,
    RepublishesTheFirst,
    ResumesAfterAGap,
    ShortensTtl,
    ShowsItsUrl,
    SkipsTheSnapshot,
    TellsHeartbeats,
    ToleratesConflicts,
    WaitsForReaders,
    WritesLate,
}

/// The memory backend, wrong in one way or in none.
pub(crate) struct Mutant {
    wrong: Option<Wrong>,
    shared: Arc<Shared>,
}

/// What all clients of one mutant share.
#[derive(Default)]
pub(crate) struct Shared {
    first: Mutex<HashMap<InstanceKey, Registration>>,
    services: Mutex<BTreeSet<ServiceName>>,
    writes: AtomicU64,
    /// The current watch of each service, as a number.
    pub(crate) watches: Mutex<HashMap<Scope, u64>>,
    /// For each watch how much it has read.
    readers: Mutex<Vec<Weak<AtomicU64>>>,
}

impl Mutant {
    pub(crate) fn new(wrong: Option<Wrong>) -> Self {
        Self {
            wrong,
            shared: Arc::default(),
        }
    }
}

#[async_trait]
impl Backend for Mutant {
    fn name(&self) -> &str {
        "mutant"
    }

    fn capability(&self) -> Capability {
        MemoryBackend.capability()
    }

    fn faults(&self) -> Faults {
        MemoryBackend.faults()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        let known = match self.wrong {
            Some(Wrong::IgnoresOptions) => url.split_once('?').map_or(url, |(url, _)| url),
            _ => url,
        };
        Ok(Arc::new(Client {
            inner: MemoryBackend.connect(known).await?,
            wrong: self.wrong,
            url: url.to_owned(),
            shared: self.shared.clone(),
        }))
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        MemoryBackend.start().await
    }
}

struct Client {
    inner: Arc<dyn Registry>,
    wrong: Option<Wrong>,
    url: String,
    shared: Arc<Shared>,
}

impl Client {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    async fn changed(&self, registration: &Registration) -> Result<Registration> {
        let key = registration.key();
        let mut changed = registration.clone();
        match self.wrong {
            Some(Wrong::LosesMetadata) => {
                let bare = registration.instance.edit().metadata(Metadata::new());
                changed.instance = Arc::new(bare.build()?);
            }
            Some(Wrong::IgnoresChecks) => changed.checks.clear(),
            Some(Wrong::ShortensTtl) => changed.ttl = registration.ttl.map(|ttl| ttl / 2),
            Some(Wrong::IgnoresTtl) => changed.ttl = Some(Duration::from_secs(3600)),
            Some(Wrong::RepublishesTheFirst) => {
                let known = self
                    .inner
                    .lookup(&key.service, &ReadOptions::default())
                    .await?;
                let mut first = self.shared.first.lock().unwrap();
                let first = first.entry(key.clone()).or_insert_with(|| changed.clone());
                if !known.iter().any(|instance| instance.is(&key)) {
                    changed = first.clone();
                }
            }
            _ => {}
        }
        Ok(changed)
    }

    /// Waits until every watch was read once more, as a server does that writes to all before it answers.
    async fn wait_for_readers(&self) -> Result<()> {
        let read = || -> u64 {
            let mut readers = self.shared.readers.lock().unwrap();
            readers.retain(|reader| reader.strong_count() > 0);
            let counts = readers.iter().filter_map(Weak::upgrade);
            counts
                .map(|count| count.load(Ordering::Relaxed))
                .min()
                .unwrap_or(u64::MAX)
        };
        let (before, deadline) = (read(), Instant::now() + Duration::from_secs(1));
        while read() == before && before < u64::MAX {
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "a slow reader holds up everybody",
                ));
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Registry for Client {
    fn capability(&self) -> Capability {
        let mut capability = self.inner.capability();
        match self.wrong {
            Some(Wrong::ClaimsLess) => capability.conflicts = false,
            Some(Wrong::BelievesTheEmpty) => {
                capability.windows.reregister = None;
            }
            _ => {}
        }
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        let key = registration.key();
        self.shared
            .services
            .lock()
            .unwrap()
            .insert(key.service.clone());
        let changed = self.changed(registration).await?;
        if self.is(Wrong::WritesLate) {
            let inner = self.inner.clone();
            // Every other one, so that it lands after the next.
            let number = self.shared.writes.fetch_add(1, Ordering::Relaxed);
            let late = tokio::spawn(async move {
                sleep(Duration::from_millis(30 * (1 - number % 2))).await;
                inner.register(&changed).await
            });
            return late.await.expect("it does not panic");
        }
        let granted = match self.inner.register(&changed).await {
            Err(error)
                if self.is(Wrong::ToleratesConflicts) && error.kind() == ErrorKind::Conflict =>
            {
                Registered::new(key, registration.ttl, 0)
            }
            result => result?,
        };
        if self.is(Wrong::WaitsForReaders) {
            self.wait_for_readers().await?;
        }
        Ok(Registered::new(
            granted.key,
            registration.ttl.or(granted.ttl),
            granted.token,
        ))
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        match self.wrong {
            Some(Wrong::AlwaysRenews) => {
                let held = held
                    .iter()
                    .map(|held| Ok(Renewal::Held(held.registered.clone())));
                held.collect()
            }
            Some(Wrong::RenewalCreates) => {
                let mut answers = Vec::new();
                for held in held {
                    answers.push(
                        self.inner
                            .register(&held.registration)
                            .await
                            .map(Renewal::Held),
                    );
                }
                answers
            }
            _ => self.inner.renew(held).await,
        }
    }

    async fn lost(&self) {
        self.inner.lost().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        if self.is(Wrong::RefusesUnknownKeys) {
            let known = self
                .inner
                .lookup(&key.service, &ReadOptions::default())
                .await?;
            if !known.iter().any(|instance| instance.is(key)) {
                return Err(Error::new(ErrorKind::Invalid, "no such instance"));
            }
        }
        match self.wrong {
            Some(Wrong::KeepsTheDeregistered) => Ok(()),
            _ => self.inner.deregister(key).await,
        }
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        let plain = ReadOptions::default();
        let options = if self.is(Wrong::IgnoresTheDatacenter) {
            &plain
        } else {
            options
        };
        match self.inner.lookup(service, options).await {
            Err(error)
                if self.is(Wrong::FailureIsEmpty) && error.kind() == ErrorKind::Unavailable =>
            {
                Ok(Vec::new())
            }
            result => result,
        }
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        let now = self.inner.services(options).await?;
        match self.wrong {
            Some(Wrong::ListsWhatWas) => Ok(self
                .shared
                .services
                .lock()
                .unwrap()
                .iter()
                .cloned()
                .collect()),
            _ => Ok(now),
        }
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        let wider = if self.is(Wrong::MatchesPrefixes) {
            &Scope::All
        } else {
            scope
        };
        let inner = self.inner.watch(wider, options).await?;
        let Some(wrong) = self.wrong else {
            return Ok(inner);
        };
        let read = Arc::new(AtomicU64::new(0));
        self.shared
            .readers
            .lock()
            .unwrap()
            .push(Arc::downgrade(&read));
        let registry = self.inner.clone();
        let watcher = MutantWatcher::new(wrong, inner, registry, scope, self.shared.clone(), read);
        Ok(Box::new(watcher.await?))
    }

    async fn recheck(&self, key: &InstanceKey) -> Result<()> {
        self.inner.recheck(key).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wrong {
            Some(Wrong::ShowsItsUrl) => write!(f, "Client({})", self.url),
            _ => self.inner.fmt(f),
        }
    }
}
