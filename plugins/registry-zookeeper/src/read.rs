//! Reading what is registered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use registry_core::{Instance, InstanceKey, Result, ServiceName};
use zookeeper_client as zk;

use crate::client::Conn;
use crate::error;
use crate::layout::Places;
use crate::pipeline::pipeline_raw;

/// Reads records, and counts those that are none.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) places: Places,
    skipped: AtomicU64,
}

impl Reader {
    pub(crate) fn new(places: Places) -> Self {
        Self {
            places,
            skipped: AtomicU64::new(0),
        }
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The instance that stands at this path, if it is one.
    pub(crate) fn read(&self, path: &str, data: &[u8]) -> Option<Arc<Instance>> {
        match self.places.decode(path, data) {
            Ok(instance) => Some(Arc::new(instance)),
            Err(error) => {
                self.skip(path, &error);
                None
            }
        }
    }

    pub(crate) fn skip(&self, path: &str, error: &registry_core::Error) {
        if self.skipped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                path,
                ?error,
                "a record is skipped; further ones are only counted"
            );
        } else {
            tracing::debug!(path, ?error, "a record is skipped");
        }
    }

    /// The instances of a service, as the leader of the servers knows them.
    pub(crate) async fn service(
        &self,
        conn: &Conn,
        service: &ServiceName,
    ) -> Result<Vec<Arc<Instance>>> {
        let parent = self.places.service(service);
        let nodes = self.children(conn, &parent, true).await?;
        let paths: Vec<_> = nodes
            .iter()
            .map(|node| format!("{parent}/{node}"))
            .collect();
        let mut found: BTreeMap<InstanceKey, Arc<Instance>> = BTreeMap::new();
        for (path, instance) in self.records(conn, &paths).await? {
            let key = instance.key();
            // Of two nodes that say that they are the same, the one at its place is.
            if self.places.record(&key) == path || !found.contains_key(&key) {
                found.insert(key, instance);
            }
        }
        Ok(found.into_values().collect())
    }

    /// The services that have an instance.
    pub(crate) async fn services(&self, conn: &Conn) -> Result<Vec<ServiceName>> {
        let root = &self.places.root;
        let names = self.children(conn, root, true).await?;
        let names = names
            .into_iter()
            .filter_map(|name| ServiceName::try_from(name).ok());
        let names: Vec<_> = names.collect();
        let parents: Vec<_> = names.iter().map(|name| self.places.service(name)).collect();
        let what = "listing a service";
        let lists = parents
            .iter()
            .map(|parent| conn.client.list_children(parent));
        let lists = pipeline_raw(conn, what, lists).await;
        let mut undecided = Vec::new();
        for ((name, parent), list) in names.into_iter().zip(&parents).zip(lists) {
            let mut nodes = match list? {
                // One service that may not be read hides no other.
                Err(zk::Error::NoAuth) => continue,
                list => list.or_else(|error| absent(what, error))?,
            };
            nodes.sort_unstable_by(|a, b| b.cmp(a));
            undecided.push((name, parent, nodes));
        }
        let mut services = Vec::new();
        // Mostly the first record of each tells.
        while !undecided.is_empty() {
            let step = |(name, parent, mut nodes): (ServiceName, _, Vec<String>)| {
                let node = nodes.pop()?;
                Some((name, parent, nodes, format!("{parent}/{node}")))
            };
            let asked: Vec<_> = undecided.into_iter().filter_map(step).collect();
            let paths: Vec<_> = asked.iter().map(|(.., path)| path.clone()).collect();
            let found: BTreeMap<_, _> = self.records(conn, &paths).await?.into_iter().collect();
            undecided = Vec::new();
            for (name, parent, nodes, path) in asked {
                match found.contains_key(&path) {
                    true => services.push(name),
                    false => undecided.push((name, parent, nodes)),
                }
            }
        }
        services.sort_unstable();
        Ok(services)
    }

    /// The names below a path; none where there is no such path. `sync`: not older than the leader's.
    pub(crate) async fn children(
        &self,
        conn: &Conn,
        path: &str,
        sync: bool,
    ) -> Result<Vec<String>> {
        let what = "listing the registry";
        // Sent right before the list, which waits for it at the server.
        let synced = sync.then(|| conn.client.sync(path));
        let list = conn.client.list_children(path);
        if let Some(synced) = synced {
            conn.call(what, synced).await?;
        }
        conn.attempt(what, list)
            .await?
            .or_else(|error| absent(what, error))
    }

    /// The records at these paths; what went meanwhile, cannot be read or may not be read is left out.
    async fn records(&self, conn: &Conn, paths: &[String]) -> Result<Vec<(String, Arc<Instance>)>> {
        let what = "reading a record";
        let reads = paths.iter().map(|path| conn.client.get_data(path));
        let answers = pipeline_raw(conn, what, reads).await;
        let mut records = Vec::with_capacity(paths.len());
        for (path, answer) in paths.iter().zip(answers) {
            let instance = self.answer(path, answer?)?;
            records.extend(instance.map(|instance| (path.clone(), instance)));
        }
        Ok(records)
    }

    /// What an answer about a record says: an instance, or none.
    pub(crate) fn answer(
        &self,
        path: &str,
        answer: Result<(Vec<u8>, zk::Stat), zk::Error>,
    ) -> Result<Option<Arc<Instance>>> {
        match answer {
            Ok((data, _)) => Ok(self.read(path, &data)),
            Err(zk::Error::NoNode) => Ok(None),
            Err(error) => {
                let denied = error == zk::Error::NoAuth;
                let error = error::call("reading a record", error);
                if denied {
                    self.skip(path, &error);
                    return Ok(None);
                }
                Err(error)
            }
        }
    }
}

/// An empty list where there is no such path.
pub(crate) fn absent<T: Default>(what: &str, error: zk::Error) -> Result<T> {
    match error {
        zk::Error::NoNode => Ok(T::default()),
        error => Err(error::call(what, error)),
    }
}
