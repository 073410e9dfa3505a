//! A client whose acts and watches are written to the history.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use registry_core::{
    Capability, Change, Held, Instance, InstanceKey, ReadOptions, Registered, Registration,
    Registry, Renewal, Result, Scope, ServiceName, Watcher,
};

use crate::history::{History, What};

pub(crate) struct Recorded {
    inner: Arc<dyn Registry>,
    history: History,
    who: Arc<str>,
    watches: AtomicUsize,
}

impl Recorded {
    pub(crate) fn new(inner: Arc<dyn Registry>, history: History, who: &str) -> Self {
        Self {
            inner,
            history,
            who: who.into(),
            watches: AtomicUsize::new(1),
        }
    }
}

#[async_trait]
impl Registry for Recorded {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        let writes = What::Writes(registration.instance.clone());
        self.history.note(&self.who, writes);
        let registered = self.inner.register(registration).await?;
        self.history
            .note(&self.who, What::Wrote(registered.key.clone()));
        Ok(registered)
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        self.inner.renew(held).await
    }

    async fn lost(&self) {
        self.inner.lost().await;
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.history.note(&self.who, What::Removes(key.clone()));
        self.inner.deregister(key).await?;
        self.history.note(&self.who, What::Removed(key.clone()));
        Ok(())
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.inner.lookup(service, options).await
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.inner.services(options).await
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        let inner = self.inner.watch(scope, options).await?;
        let number = self.watches.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(RecordedWatcher {
            inner,
            history: self.history.clone(),
            who: format!("{}.watch-{number}", self.who).into(),
        }))
    }

    async fn recheck(&self, key: &InstanceKey) -> Result<()> {
        self.inner.recheck(key).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

struct RecordedWatcher {
    inner: Box<dyn Watcher>,
    history: History,
    who: Arc<str>,
}

#[async_trait]
impl Watcher for RecordedWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        let result = self.inner.next().await;
        let what = match &result {
            Ok(changes) => What::Saw(changes.clone()),
            Err(error) => What::Ended(error.clone()),
        };
        self.history.note(&self.who, what);
        result
    }
}
