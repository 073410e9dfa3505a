//! Reads of the catalog, and what an empty one means.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Instance, Label, ReadOptions, Result, ServiceName};
use serde::Deserialize;

use crate::client::{Client, segment};
use crate::codec::{self, Place};
use crate::config::ConsulConfig;
use crate::reply::Reply;

/// How long a blocking query waits for a change: a server that went back to an older state is silent for so long.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// How many unreadable records are remembered, so that each is logged once.
const REMEMBERED: usize = 1000;

/// The service that every server of Consul registers for itself. It is not listed, and takes no others.
pub(crate) const CONSUL: &str = "consul";

/// A filter that no service passes: only the index is of interest.
const NO_SERVICE: &str = "ServiceName == \"\"";

/// Which check changed last when.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckRow {
    pub(crate) node: String,
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    /// Empty: a check of the node.
    #[serde(default)]
    pub(crate) service_name: String,
    #[serde(default)]
    pub(crate) modify_index: u64,
}

/// Reads services as instances.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) client: Arc<Client>,
    datacenter: Option<Label>,
    near: Option<Label>,
    stale: bool,
    skipped: AtomicU64,
    told: Mutex<HashSet<(ServiceName, String)>>,
}

/// What a read found, and the index to wait from.
#[derive(Debug)]
pub(crate) struct Found<T> {
    pub(crate) index: u64,
    pub(crate) value: T,
}

/// The instances of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) instances: Vec<Arc<Instance>>,
    /// By record, not by instance: of an instance at two nodes the older record stays when the newer one goes.
    modified: HashMap<Place, u64>,
}

impl Service {
    /// Refuses to follow a state in which a record is older than it was: the servers were set back. Their index alone
    /// does not tell, for it has moved on by the next write.
    pub(crate) fn follows(&self, before: &Self) -> Result<()> {
        for (place, index) in &self.modified {
            if before
                .modified
                .get(place)
                .is_some_and(|before| before > index)
            {
                let why = "the catalog went back to an older record";
                let (node, id) = place;
                let error = Error::new(ErrorKind::Lost, why);
                return Err(error.with("node", node).with("id", id));
            }
        }
        Ok(())
    }
}

/// The data centre of a read; `None` is the agent's.
pub(crate) type Datacenter = Option<Label>;

impl Reader {
    pub(crate) fn new(client: Arc<Client>, config: &ConsulConfig) -> Self {
        Self {
            client,
            datacenter: config.datacenter.clone(),
            near: config.near.clone(),
            stale: config.stale,
            skipped: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// The data centre that a read asks.
    pub(crate) fn datacenter(&self, options: &ReadOptions) -> Datacenter {
        options
            .datacenter
            .clone()
            .or_else(|| self.datacenter.clone())
    }

    /// How many records could not be read so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The instances of a service, from a server. Never from the agent's view: only a read without an index is fresh.
    pub(crate) async fn service(
        &self,
        datacenter: &Datacenter,
        service: &ServiceName,
    ) -> Result<Found<Service>> {
        let path = format!("health/service/{}", segment(service.as_str()));
        let mut query = self.query(datacenter);
        if let Some(near) = &self.near {
            query.push(("near", near.as_str()));
        }
        let reply = self.client.read(&path, &query).await;
        let reply = reply.map_err(|error| error.with("service", service))?;
        self.refuse_hidden(datacenter, &reply, Some(service))
            .await?;
        self.instances(service, &reply)
    }

    /// Waits for a change of a service after `index`, up to this long.
    pub(crate) async fn next(
        &self,
        datacenter: &Datacenter,
        service: &ServiceName,
        index: u64,
        had: bool,
        wait: Duration,
    ) -> Result<Found<Service>> {
        let path = format!("health/service/{}", segment(service.as_str()));
        let reply = self.wait(datacenter, &path, index, wait, None).await;
        let reply = reply.map_err(|error| error.with("service", service))?;
        let index = index_of(&reply)?;
        if reply.is_empty() && had && reply.deny {
            // A policy that was withdrawn empties a streamed answer without a word, even at the same index.
            let Found { value, .. } = self.service(datacenter, service).await?;
            return Ok(Found { index, value });
        }
        self.instances(service, &reply)
    }

    /// The names of the services that have an instance, sorted.
    pub(crate) async fn services(
        &self,
        datacenter: &Datacenter,
    ) -> Result<Found<Vec<ServiceName>>> {
        let query = self.query(datacenter);
        let reply = self.client.read("catalog/services", &query).await?;
        self.refuse_hidden(datacenter, &reply, None).await?;
        let all: BTreeMap<String, Option<Vec<String>>> = reply.json()?;
        let names = all.into_keys().filter(|name| name != CONSUL);
        let value = names.filter_map(|name| ServiceName::try_from(name).ok());
        Ok(Found {
            index: index_of(&reply)?,
            value: value.collect(),
        })
    }

    /// The index of the services of the whole catalog.
    pub(crate) async fn records(&self, datacenter: &Datacenter) -> Result<u64> {
        let mut query = self.query(datacenter);
        query.push(("filter", NO_SERVICE));
        index_of(&self.client.read("catalog/services", &query).await?)
    }

    /// Waits until a record of a service has changed since `index`, or for 20 s.
    pub(crate) async fn next_records(&self, datacenter: &Datacenter, index: u64) -> Result<u64> {
        let path = "catalog/services";
        let filter = Some(NO_SERVICE);
        let reply = self.wait(datacenter, path, index, WAIT, filter).await?;
        forward(index, &reply)
    }

    /// Every check of the catalog.
    pub(crate) async fn checks(&self, datacenter: &Datacenter) -> Result<Found<Vec<CheckRow>>> {
        let query = self.query(datacenter);
        let reply = self.client.read("health/state/any", &query).await?;
        let value = reply.json()?;
        let index = index_of(&reply)?;
        Ok(Found { index, value })
    }

    /// Waits until a check has changed since `index`, or for 20 s. `None`: nothing changed.
    pub(crate) async fn next_checks(
        &self,
        datacenter: &Datacenter,
        index: u64,
    ) -> Result<Option<Found<Vec<CheckRow>>>> {
        let path = "health/state/any";
        let reply = self.wait(datacenter, path, index, WAIT, None).await?;
        let now = forward(index, &reply)?;
        if now == index {
            return Ok(None);
        }
        let value = reply.json()?;
        Ok(Some(Found { index: now, value }))
    }

    /// Whether the servers have a leader. The cheapest question whose answer no cache gives.
    pub(crate) async fn leader(&self, datacenter: &Datacenter, limit: Duration) -> Result<()> {
        let query = dc(datacenter);
        let reply = self.client.wait("status/leader", &query, limit).await?;
        let leader: String = reply.json()?;
        match leader.is_empty() {
            true => Err(Error::new(
                ErrorKind::Unavailable,
                "the servers have no leader",
            )),
            false => Ok(()),
        }
    }

    async fn wait(
        &self,
        datacenter: &Datacenter,
        path: &str,
        index: u64,
        wait: Duration,
        filter: Option<&str>,
    ) -> Result<Reply> {
        let (index, seconds) = (index.to_string(), format!("{}s", wait.as_secs()));
        let mut query = dc(datacenter);
        query.extend([("index", index.as_str()), ("wait", seconds.as_str())]);
        query.extend(filter.map(|filter| ("filter", filter)));
        // The server may add a sixteenth to it.
        let limit = wait + wait / 16 + self.client.timeout;
        self.client.wait(path, &query, limit).await
    }

    /// Without `consistent` a leader that has just started answers from the log that it still replays.
    fn query<'a>(&self, datacenter: &'a Datacenter) -> Vec<(&'static str, &'a str)> {
        let mut query = dc(datacenter);
        let mode = if self.stale { "stale" } else { "consistent" };
        query.push((mode, ""));
        query
    }

    fn instances(&self, service: &ServiceName, reply: &Reply) -> Result<Found<Service>> {
        let decoded = codec::decode(service, reply.json()?);
        for (id, error) in decoded.skipped {
            self.skip(service, id, &error);
        }
        Ok(Found {
            index: index_of(reply)?,
            value: Service {
                instances: decoded.instances.into_iter().map(Arc::new).collect(),
                modified: decoded.modified,
            },
        })
    }

    fn skip(&self, service: &ServiceName, id: String, error: &Error) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let record = (service.clone(), id);
        if told.len() < REMEMBERED && !told.contains(&record) {
            let id = &record.1;
            tracing::warn!(%service, %id, %error, "a service of Consul cannot be read and is skipped");
            told.insert(record);
        }
    }

    /// An empty answer because the ACLs hide everything is an error. The server says so for a request with a token;
    /// without one it is silent on purpose, and has to be asked for what it does tell.
    async fn refuse_hidden(
        &self,
        datacenter: &Datacenter,
        reply: &Reply,
        service: Option<&ServiceName>,
    ) -> Result<()> {
        if !reply.is_empty() {
            return Ok(());
        }
        let hidden = || {
            let why =
                "the ACLs hide the services; give a token with service:read and node:read on them";
            Error::new(ErrorKind::Denied, why)
        };
        if reply.filtered {
            return Err(hidden());
        }
        if !reply.deny || (self.client.has_token && !reply.streamed) {
            return Ok(());
        }
        let Some(service) = service else {
            // A catalog has at least the servers themselves.
            return Err(hidden());
        };
        // A cluster has nodes: who sees none may see none.
        let query = self.query(datacenter);
        let nodes = self.client.read("catalog/nodes", &query).await?;
        if nodes.is_empty() {
            return Err(hidden());
        }
        let path = format!("agent/health/service/name/{}", segment(service.as_str()));
        self.client.ask_health(&path).await.map(drop)
    }
}

fn dc(datacenter: &Datacenter) -> Vec<(&'static str, &str)> {
    let datacenter = datacenter.as_ref().map(|name| ("dc", name.as_str()));
    datacenter.into_iter().collect()
}

/// An index below 1 would not block.
fn index_of(reply: &Reply) -> Result<u64> {
    let index = reply.index.ok_or_else(|| {
        let why = "the agent's answer has no index; does something between change it?";
        Error::new(ErrorKind::Protocol, why)
    })?;
    Ok(index.max(1))
}

/// The index of a reply to a query from `index`. It goes back when the servers lost their state or took an older one.
fn forward(index: u64, reply: &Reply) -> Result<u64> {
    let now = index_of(reply)?;
    not_before(index, now)?;
    Ok(now)
}

pub(crate) fn not_before(index: u64, now: u64) -> Result<()> {
    if now >= index {
        return Ok(());
    }
    let why = format!("the catalog went back from index {index} to {now}");
    Err(Error::new(ErrorKind::Lost, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reader(config: &ConsulConfig) -> Reader {
        Reader::new(Arc::new(Client::new(config).unwrap()), config)
    }

    #[test]
    fn a_read_is_consistent_unless_a_stale_one_is_asked_for() {
        let datacenter = Some("dc2".try_into().unwrap());
        for (stale, mode) in [(false, "consistent"), (true, "stale")] {
            let reader = reader(&ConsulConfig::default().stale(stale));
            let query = reader.query(&datacenter);
            assert_eq!(query, [("dc", "dc2"), (mode, "")]);
        }
    }

    #[test]
    fn a_record_of_one_node_that_gets_older_is_a_way_back_and_one_that_goes_is_not() {
        let service = |records: &[(&str, u64)]| {
            let entries = records.iter().map(|(node, index)| {
                let meta = json!({ "registry-id": "a", "registry-owner": "x" });
                let record = json!({
                    "ID": "web:a", "Service": "web", "Address": "10.0.0.1", "Port": 80,
                    "Meta": meta, "ModifyIndex": index,
                });
                json!({ "Node": { "Node": node }, "Service": record })
            });
            let entries = serde_json::from_value(entries.collect()).unwrap();
            let decoded = codec::decode(&"web".try_into().unwrap(), entries);
            assert_eq!(decoded.instances.len(), 1);
            let modified = decoded.modified;
            let instances = Vec::new();
            Service {
                instances,
                modified,
            }
        };
        let before = service(&[("n1", 5), ("n2", 9)]);
        for after in [[("n1", 5)], [("n2", 9)], [("n2", 10)], [("n3", 1)]] {
            service(&after).follows(&before).unwrap();
        }
        for after in [[("n1", 4)], [("n2", 8)]] {
            let error = service(&after).follows(&before).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lost);
        }
    }
}
