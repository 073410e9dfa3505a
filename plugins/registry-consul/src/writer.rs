//! Registrations at the agent, and whether the catalog has them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::{
    Error, ErrorKind, Held, InstanceKey, Registered, Registration, Renewal, Result, Status,
};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::checks;
use crate::client::{Client, segment};
use crate::codec::{self, Known, META_OWNER, META_REVISION, Record, service_id};
use crate::config::ConsulConfig;
use crate::reader::CONSUL;
use crate::registry::{DEFAULT_TTL, SHORTEST_TTL};

/// The agent takes a registration at once and brings it to the catalog then; for so long its absence there says nothing.
const YOUNG: Duration = Duration::from_secs(3);

/// Writes registrations, and remembers which are ours.
#[derive(Debug)]
pub(crate) struct Writer {
    client: Arc<Client>,
    config: ConsulConfig,
    /// Tells our records from those of another process that took the same id.
    owner: String,
    own: Mutex<HashMap<InstanceKey, Own>>,
    /// The name of the agent's node, once it is known.
    node: Mutex<Option<String>>,
}

/// What we know of a registration of ours.
#[derive(Debug)]
struct Own {
    /// Our checks that the agent has.
    checks: BTreeSet<String>,
    status: Status,
    ttl: Duration,
    /// When it was last written, and when the agent last took a heartbeat.
    written: Instant,
    beaten: Instant,
    /// Whether the agent's record is surely ours. Otherwise it is read before it is written.
    sure: bool,
    /// Counts what was written, and how often the catalog had lost it; the same again is the same revision.
    revision: u64,
    /// A hash of what was written.
    content: u64,
}

/// A registration that was admitted, ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    registration: Registration,
    service_id: String,
    ttl: Duration,
    /// A hash of what will be written.
    content: u64,
}

impl Writer {
    pub(crate) fn new(client: Arc<Client>, config: ConsulConfig) -> Self {
        Self {
            client,
            config,
            owner: format!("{:016x}{:016x}", random(), random()),
            own: Mutex::default(),
            node: Mutex::default(),
        }
    }

    /// Refuses what the agent would refuse.
    pub(crate) fn prepare(&self, registration: &Registration) -> Result<Prepared> {
        let key = registration.key();
        if key.service.as_str() == CONSUL {
            let why = "the servers of Consul have this name themselves; choose another one";
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", key));
        }
        let ttl = registration.ttl.unwrap_or(DEFAULT_TTL).max(SHORTEST_TTL);
        // Consul is told whole milliseconds.
        let ttl = Duration::from_millis(
            u64::try_from(ttl.as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
        );
        let mut prepared = Prepared {
            registration: registration.clone(),
            service_id: service_id(&key),
            ttl,
            content: 0,
        };
        let (body, _) = self.body(&prepared, u64::MAX)?;
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        prepared.content = hasher.finish();
        Ok(prepared)
    }

    fn body(&self, prepared: &Prepared, revision: u64) -> Result<(Vec<u8>, BTreeSet<String>)> {
        let Prepared {
            registration, ttl, ..
        } = prepared;
        let service = codec::encode(registration, *ttl, &self.owner, revision, &self.config)?;
        let checks = service
            .checks
            .iter()
            .map(|check| check.id.clone())
            .collect();
        let body = serde_json::to_vec(&service).map_err(|error| {
            Error::new(ErrorKind::Invalid, "the instance cannot be written as JSON").because(error)
        })?;
        if body.len() > codec::LONGEST_BODY {
            let why = format!(
                "a record of {} bytes is too long; this registry takes {}",
                body.len(),
                codec::LONGEST_BODY
            );
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", registration.key()));
        }
        Ok((body, checks))
    }

    /// One call where the record is surely ours; otherwise it is read first.
    pub(crate) async fn register(&self, prepared: Prepared) -> Result<Registered> {
        let key = prepared.registration.key();
        let result = self.write(&key, &prepared).await;
        result.map_err(|error| error.with("instance", &key))
    }

    async fn write(&self, key: &InstanceKey, prepared: &Prepared) -> Result<Registered> {
        let Prepared {
            service_id, ttl, ..
        } = prepared;
        let (mut before, mut shown) = (BTreeSet::new(), None);
        let (mut sure, mut revision) = (false, 1);
        if let Some(own) = self.own().get_mut(key) {
            // Of one content there is one revision, unless the catalog has to be told again.
            revision = own.revision + u64::from(own.content != prepared.content);
            sure = own.sure && own.beaten.elapsed() < own.ttl;
            if sure {
                before.clone_from(&own.checks);
                shown = checks::shown_as(own.status);
            }
            // Until the agent has answered.
            own.sure = false;
        }
        if !sure && let Some(known) = self.known(service_id).await? {
            self.refuse_foreign(&known, service_id)?;
            for check in known.checks() {
                if checks::is_ours(service_id, &check.id) {
                    before.insert(check.id.clone());
                }
                if check.id == checks::status_id(service_id) {
                    shown = match check.status.as_str() {
                        "warning" => Some("warning"),
                        _ => Some("critical"),
                    };
                }
            }
        }
        let (body, checks) = self.body(prepared, revision)?;
        let own = Own {
            checks: before.union(&checks).cloned().collect(),
            status: prepared.registration.instance.status,
            ttl: *ttl,
            written: Instant::now(),
            beaten: Instant::now(),
            sure: false,
            revision,
            content: prepared.content,
        };
        // Before it is sent: an answer that is lost leaves a record that a deregistration has to find.
        self.own().insert(key.clone(), own);
        if !self
            .client
            .put("agent/service/register", Some(body))
            .await?
        {
            let why = "the agent knows no registrations; does the URL name an agent of Consul?";
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        if !sure {
            // The agent keeps the state of a check that it has, and over a restart that of one that it was told of.
            self.beat(service_id).await?;
        }
        let status = checks::shown_as(prepared.registration.instance.status);
        if let Some(status) = status
            && shown.is_some_and(|shown| shown != status)
        {
            self.show(service_id, status).await?;
        }
        for stale in before.difference(&checks) {
            let path = format!("agent/check/deregister/{}", segment(stale));
            self.client.put(&path, None).await?;
        }
        if let Some(own) = self.own().get_mut(key) {
            own.checks = checks;
            own.sure = true;
        }
        Ok(Registered::new(key.clone(), Some(*ttl), 0))
    }

    /// What the agent knows of a service.
    async fn known(&self, service_id: &str) -> Result<Option<Known>> {
        let path = format!("agent/health/service/id/{}", segment(service_id));
        match self.client.ask_health(&path).await? {
            Some(reply) => reply.json().map(Some),
            None => Ok(None),
        }
    }

    fn refuse_foreign(&self, known: &Known, service_id: &str) -> Result<()> {
        let owner = known
            .service
            .as_ref()
            .and_then(|record| record.meta(META_OWNER));
        if owner == Some(&self.owner) || (owner.is_some() && !known.is_alive(service_id)) {
            return Ok(());
        }
        let why = match owner {
            Some(_) => {
                "another process holds this id and is alive; choose another one, or wait until it is gone"
            }
            None => "the agent has a service of this id that others registered; choose another id",
        };
        Err(Error::new(ErrorKind::Conflict, why))
    }

    /// A heartbeat. `false`: the agent does not know the registration.
    async fn beat(&self, service_id: &str) -> Result<bool> {
        let check = checks::heartbeat_id(service_id);
        let path = format!("agent/check/pass/{}", segment(&check));
        self.client.put(&path, None).await
    }

    async fn show(&self, service_id: &str, status: &str) -> Result<()> {
        let check = checks::status_id(service_id);
        let way = if status == "warning" { "warn" } else { "fail" };
        let path = format!("agent/check/{way}/{}", segment(&check));
        self.client.put(&path, None).await.map(drop)
    }

    /// A heartbeat for each, and one look at the catalog for all: the agent takes heartbeats also of what the servers lost.
    pub(crate) async fn renew(self: &Arc<Self>, held: &[Held]) -> Vec<Result<Renewal>> {
        let keys: Vec<_> = held.iter().map(|held| &held.registered.key).collect();
        let known: Vec<bool> = {
            let own = self.own();
            keys.iter().map(|key| own.contains_key(*key)).collect()
        };
        let ids: Vec<_> = keys.iter().map(|key| service_id(key)).collect();
        let first = known.iter().position(|known| *known);
        let Some(first) = first else {
            return held.iter().map(|_| Ok(Renewal::Unknown)).collect();
        };
        let mut beats: HashMap<usize, Result<bool>> = HashMap::new();
        // One asks whether the agent is there, so that all do not run against a wall.
        let one = self.beat(&ids[first]).await;
        if let Err(error) = &one
            && error.kind() == ErrorKind::Unavailable
        {
            return held.iter().map(|_| Err(error.clone())).collect();
        }
        beats.insert(first, one);
        let mut running = JoinSet::new();
        for (at, id) in ids.iter().enumerate() {
            if known[at] && at != first {
                let (this, id) = (self.clone(), id.clone());
                running.spawn(async move { (at, this.beat(&id).await) });
            }
        }
        let all = async {
            while let Some(beat) = running.join_next().await {
                // A task that panicked has no beat, which is an error below.
                beats.extend(beat);
            }
        };
        let ((), catalog) = tokio::join!(all, self.catalog(&ids[first]));
        if let Ok(Some(catalog)) = &catalog {
            self.bury(catalog).await;
        }
        let mut answers = Vec::with_capacity(held.len());
        for (at, held) in held.iter().enumerate() {
            let beat = match (known[at], beats.remove(&at)) {
                (false, _) => Ok(false),
                (true, Some(beat)) => beat,
                (true, None) => Err(Error::new(
                    ErrorKind::Unavailable,
                    "the heartbeat was not sent",
                )),
            };
            let answer = self.renewed(held, &ids[at], beat, &catalog);
            answers.push(answer.map_err(|error| error.with("instance", &held.registered.key)));
        }
        answers
    }

    fn renewed(
        &self,
        held: &Held,
        id: &str,
        beat: Result<bool>,
        catalog: &Result<Option<HashMap<String, String>>>,
    ) -> Result<Renewal> {
        let key = &held.registered.key;
        let mut all = self.own();
        let Some(own) = all.get_mut(key) else {
            return Ok(Renewal::Unknown);
        };
        if !beat? {
            own.sure = false;
            return Ok(Renewal::Unknown);
        }
        own.beaten = Instant::now();
        let present = match catalog {
            Ok(Some(catalog)) => catalog.get(id) == Some(&own.revision.to_string()),
            // It may not be read with this token: the agent's word has to do.
            Ok(None) => true,
            Err(error) => return Err(error.clone()),
        };
        if present || own.written.elapsed() < YOUNG {
            return Ok(Renewal::Held(held.registered.clone()));
        }
        own.sure = false;
        own.revision += 1;
        Ok(Renewal::Unknown)
    }

    /// The ids of our services that the catalog has on the agent's node, with their revisions, or `None` where the ACLs
    /// hide them.
    async fn catalog(&self, one: &str) -> Result<Option<HashMap<String, String>>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Node {
            #[serde(default)]
            services: Option<Vec<Record>>,
        }
        let known = guard(&self.node).clone();
        let node = match known {
            Some(node) => node,
            None => match self.node(one).await? {
                Some(node) => node,
                None => return Ok(None),
            },
        };
        let path = format!("catalog/node-services/{}", segment(&node));
        let filter = format!("Meta[\"{META_OWNER}\"] == \"{}\"", self.owner);
        let Some(reply) = self.client.ask(&path, &[("filter", &filter)]).await? else {
            return Ok(Some(HashMap::new()));
        };
        let services = reply.json::<Option<Node>>()?.and_then(|node| node.services);
        let services = services.unwrap_or_default();
        if services.is_empty() {
            // The agent may have another name by now.
            *guard(&self.node) = None;
            if reply.filtered || (reply.deny && !self.client.has_token) {
                return Ok(None);
            }
        }
        let revision = |record: &Record| record.meta(META_REVISION).unwrap_or_default().to_owned();
        let all = services.into_iter().map(|record| {
            let revision = revision(&record);
            (record.id, revision)
        });
        Ok(Some(all.collect()))
    }

    /// Removes from the catalog what was ours and was deregistered: a catalog that is set back brings it up again, and the
    /// agent would look at it within a minute only.
    async fn bury(&self, catalog: &HashMap<String, String>) {
        let node = guard(&self.node).clone();
        let ours: HashSet<String> = self.own().keys().map(service_id).collect();
        for ghost in catalog.keys().filter(|id| !ours.contains(*id)) {
            let request = serde_json::json!({ "Node": node, "ServiceID": ghost });
            let path = "catalog/deregister";
            // What fails is tried at the next renewal.
            let _ = self
                .client
                .put(path, Some(request.to_string().into()))
                .await;
        }
    }

    /// The name of the agent's node. Only its checks tell it to whoever may not ask for more.
    async fn node(&self, service_id: &str) -> Result<Option<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Check {
            node: String,
        }
        let filter = format!("CheckID == \"{}\"", checks::heartbeat_id(service_id));
        let Some(reply) = self
            .client
            .ask("agent/checks", &[("filter", &filter)])
            .await?
        else {
            return Ok(None);
        };
        let checks: HashMap<String, Check> = reply.json()?;
        let node = checks.into_values().next().map(|check| check.node);
        guard(&self.node).clone_from(&node);
        Ok(node)
    }

    /// Removes a record of ours.
    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let result = self.remove(key).await;
        result.map_err(|error| error.with("instance", key))
    }

    async fn remove(&self, key: &InstanceKey) -> Result<()> {
        let id = service_id(key);
        let owner = match self.known(&id).await? {
            None => None,
            Some(known) => known
                .service
                .and_then(|record| record.meta(META_OWNER).map(str::to_owned)),
        };
        if owner.as_deref() == Some(&self.owner) {
            let path = format!("agent/service/deregister/{}", segment(&id));
            // Somebody else may have removed it meanwhile.
            self.client.put(&path, None).await?;
        }
        self.own().remove(key);
        Ok(())
    }

    fn own(&self) -> MutexGuard<'_, HashMap<InstanceKey, Own>> {
        guard(&self.own)
    }
}

/// Seeded by the operating system, not by the clock: hosts that boot together must not agree.
fn random() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use registry_core::Instance;

    use super::*;

    fn prepared(service: &str, ttl: Duration) -> Result<Prepared> {
        let config = ConsulConfig::default();
        let client = Arc::new(Client::new(&config).unwrap());
        let registration = Registration::new(Instance::new(service, "10.0.0.1:80")).unwrap();
        Writer::new(client, config).prepare(&registration.ttl(ttl))
    }

    #[test]
    fn a_ttl_is_granted_in_milliseconds_and_is_no_shorter_than_heartbeats_can_be() {
        for (wish, grant) in [
            (1, 1_000_000),
            (1_500_001, 1_501_000),
            (9_000_000, 9_000_000),
        ] {
            let prepared = prepared("web", Duration::from_micros(wish)).unwrap();
            assert_eq!(prepared.ttl, Duration::from_micros(grant));
        }
    }

    #[test]
    fn the_name_of_the_servers_themselves_is_refused() {
        let error = prepared(CONSUL, DEFAULT_TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        prepared("consul-web", DEFAULT_TTL).unwrap();
    }
}
