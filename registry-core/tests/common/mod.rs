//! What the tests of the machines share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry_core::{
    Capability, Change, Error, ErrorKind, Held, Instance, InstanceKey, Memory, ReadOptions,
    Registered, Registration, Registry, Renewal, Result, Scope, ServiceName, Watcher, async_trait,
};
use tokio::time::{Instant, sleep};

/// Polls until `check` gives a value; fails after `limit`.
pub(crate) async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn lookup(registry: &dyn Registry, service: &str) -> Vec<Arc<Instance>> {
    registry
        .lookup(&service.try_into().unwrap(), &ReadOptions::default())
        .await
        .unwrap()
}

/// Memory with calls that are counted and can be made to hang or to fail.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) memory: Memory,
    pub(crate) registers: AtomicUsize,
    pub(crate) renews: AtomicUsize,
    pub(crate) watches: AtomicUsize,
    pub(crate) rechecks: AtomicUsize,
    /// Watches that are open now.
    pub(crate) open: Arc<AtomicUsize>,
    script: std::sync::Mutex<Script>,
    pub(crate) capability: Capability,
}

#[derive(Debug, Default)]
struct Script {
    hang: bool,
    /// What the callers of `register` hear.
    lie: Option<ErrorKind>,
    /// Watches tell everything twice.
    stutter: bool,
    /// Calls about this service, or this instance, hang or panic.
    spoilt: Option<(String, bool)>,
    /// The answers to registrations and renewals are on their way for so long.
    delay: Duration,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Self::over(Memory::new())
    }

    pub(crate) fn over(memory: Memory) -> Arc<Self> {
        let capability = memory.capability();
        Self::with(memory, capability)
    }

    pub(crate) fn with(memory: Memory, capability: Capability) -> Arc<Self> {
        let zero = AtomicUsize::default;
        let (registers, renews, watches, rechecks) = (zero(), zero(), zero(), zero());
        let script = std::sync::Mutex::default();
        Arc::new(Self {
            memory,
            registers,
            renews,
            watches,
            rechecks,
            open: Arc::default(),
            script,
            capability,
        })
    }

    pub(crate) fn hang(&self, hang: bool) {
        self.script.lock().unwrap().hang = hang;
    }

    pub(crate) fn spoil(&self, name: &str, panics: bool) {
        self.script.lock().unwrap().spoilt = Some((name.to_owned(), panics));
    }

    async fn spoilt(&self, name: &str) {
        let spoilt = self.script.lock().unwrap().spoilt.clone();
        if let Some((_, panics)) = spoilt.filter(|(spoilt, _)| spoilt == name) {
            assert!(!panics, "as the script says");
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.script.lock().unwrap().delay = delay;
    }

    pub(crate) fn stutter(&self) {
        self.script.lock().unwrap().stutter = true;
    }

    pub(crate) fn lie(&self, kind: Option<ErrorKind>) {
        self.script.lock().unwrap().lie = kind;
    }

    pub(crate) fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::Relaxed)
    }

    async fn call(&self) {
        if self.script.lock().unwrap().hang {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Registry for Scripted {
    fn capability(&self) -> Capability {
        self.capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.registers.fetch_add(1, Ordering::Relaxed);
        self.call().await;
        self.spoilt(registration.instance.id.as_str()).await;
        let lie = self.script.lock().unwrap().lie;
        let told = lie.map(|kind| Error::new(kind, "as the script says"));
        match told {
            // What is refused for good has no effect; the answer to what failed for now may have been lost.
            Some(error) if !error.is_temporary() => Err(error),
            told => {
                let registered = self.memory.register(registration).await;
                let delay = self.script.lock().unwrap().delay;
                sleep(delay).await;
                told.map_or(registered, Err)
            }
        }
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        self.renews.fetch_add(1, Ordering::Relaxed);
        self.call().await;
        let answers = self.memory.renew(held).await;
        let delay = self.script.lock().unwrap().delay;
        sleep(delay).await;
        answers
    }

    async fn lost(&self) {
        self.memory.lost().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.call().await;
        self.memory.deregister(key).await
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.memory.lookup(service, options).await
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.memory.services(options).await
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.watches.fetch_add(1, Ordering::Relaxed);
        self.call().await;
        if let Scope::Service(service) = scope {
            self.spoilt(service.as_str()).await;
        }
        let watcher = self.memory.watch(scope, options).await?;
        let stutter = self.script.lock().unwrap().stutter;
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Observed {
            watcher,
            stutter,
            again: None,
            open: self.open.clone(),
        }))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        self.rechecks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}

struct Observed {
    watcher: Box<dyn Watcher>,
    stutter: bool,
    again: Option<Vec<Change>>,
    open: Arc<AtomicUsize>,
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Watcher for Observed {
    async fn next(&mut self) -> Result<Vec<Change>> {
        if let Some(again) = self.again.take() {
            return Ok(again);
        }
        let changes = self.watcher.next().await?;
        self.again = self.stutter.then(|| changes.clone());
        Ok(changes)
    }
}
