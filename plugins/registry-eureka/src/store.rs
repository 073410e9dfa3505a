//! What a server holds, followed from answer to answer.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

use registry_core::{Instance, InstanceKey};

use crate::codec;
use crate::json::{self, Record};

/// Our copy of the registry. It tells older news from newer ones: a list and the changes come from caches of the server
/// that are not of one time.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// By application and id, as the server tells instances apart.
    entries: HashMap<Box<str>, Entry>,
    /// Whose record is shown for an instance.
    shown: HashMap<InstanceKey, Box<str>>,
    /// Those whose instance is shown as another record has it.
    shadowed: HashSet<Box<str>>,
    /// The server's time of the latest change that its last full answer held. Of changes that all are older, those of
    /// whom it lacks are over.
    complete_until: i64,
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    status: Box<str>,
    /// `None` where it cannot be read.
    instance: Option<Arc<Instance>>,
}

impl Entry {
    /// Whether it is the same, and was shared when it was read.
    fn says(&self, other: &Self) -> bool {
        let instances = (&self.instance, &other.instance);
        let shared = match instances {
            (Some(this), Some(other)) => Arc::ptr_eq(this, other),
            (this, other) => this.is_none() && other.is_none(),
        };
        shared && self.stamp == other.stamp && self.status == other.status
    }
}

/// When the server and the registrant changed a record, each by his own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    updated: i64,
    dirty: i64,
}

impl Stamp {
    /// Whether a state is no older than another one. A server whose clock was set back still tells what registrants
    /// change, and a registrant whose clock was behind may follow one whose clock was not.
    fn follows(self, other: Self) -> bool {
        match self.dirty.cmp(&other.dirty) {
            Ordering::Greater => true,
            Ordering::Equal => self.updated >= other.updated,
            Ordering::Less => self.updated > other.updated,
        }
    }
}

/// What was read of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The server's count of statuses, where it told one.
    hash: Option<String>,
    records: Vec<(Box<str>, Entry, Action)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Set,
    Delete,
}

impl Answer {
    /// Reads an answer; `None` where it does not have the shape of one. Equal instances that `store` holds are shared
    /// with it.
    pub(crate) fn read(
        body: &[u8],
        store: &Store,
        skipped: &AtomicU64,
    ) -> serde_json::Result<Option<Self>> {
        let mut records = Vec::new();
        let mut name = String::new();
        let head = json::read(body, &mut |record: Record<'_>| {
            let Some(app) = record.app.as_deref().filter(|_| !record.id().is_empty()) else {
                return;
            };
            name.clear();
            let _ = write!(name, "{app}/{}", record.id());
            let known = store.entries.get(&*name);
            let instance = match codec::decode(&record) {
                Ok(instance) => {
                    let same = known.and_then(|known| known.instance.clone());
                    Some(same.filter(|same| **same == *instance).unwrap_or(instance))
                }
                Err(why) => {
                    // Told once for as long as it stays there.
                    if known.is_none_or(|known| known.instance.is_some()) {
                        skipped.fetch_add(1, atomic::Ordering::Relaxed);
                        tracing::warn!(record = %name, %why, "a record is skipped");
                    }
                    None
                }
            };
            let action = match record.action.as_deref() {
                Some("DELETED") => Action::Delete,
                _ => Action::Set,
            };
            let entry = Entry {
                stamp: Stamp {
                    updated: record.updated,
                    dirty: record.dirty,
                },
                status: record.status.as_deref().unwrap_or("UNKNOWN").into(),
                instance,
            };
            records.push((name.as_str().into(), entry, action));
        })?;
        Ok(head.recognised.then_some(Self {
            hash: head.hash,
            records,
        }))
    }

    /// The instances of a list that nobody follows; of several records of one instance the latest.
    pub(crate) fn into_instances(self) -> Vec<Arc<Instance>> {
        let mut store = Store::default();
        store.replace(self, Origin::Other);
        store.instances()
    }
}

/// From where an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From the server that the last one came from.
    Same,
    /// From another one, which may lag behind, and whose clock is another one.
    Other,
}

impl Store {
    /// Takes a full answer. What it lacks is gone; what it has in an older state than we do stays as it is.
    pub(crate) fn replace(&mut self, answer: Answer, origin: Origin) {
        let mut before = std::mem::take(&mut self.entries);
        self.shown.clear();
        self.shadowed.clear();
        self.complete_until = 0;
        for (name, mut entry, _) in answer.records {
            let stamp = entry.stamp;
            self.complete_until = self.complete_until.max(stamp.updated);
            if let Some(old) = before.remove(&name) {
                let older = match origin {
                    Origin::Same => !stamp.follows(old.stamp),
                    Origin::Other => stamp.dirty < old.stamp.dirty,
                };
                if older {
                    entry = old;
                    if origin == Origin::Other {
                        // Times of two servers do not compare.
                        entry.stamp.updated = stamp.updated;
                    }
                }
            }
            self.set(name, entry);
        }
    }

    /// Takes an answer that tells changes, and gives those that are changes to us: what there is now, or `None`.
    pub(crate) fn update(&mut self, answer: Answer) -> Vec<(InstanceKey, Option<Arc<Instance>>)> {
        let mut touched: Vec<InstanceKey> = Vec::new();
        // The list may lack what came while it was made, so that what is told later than it adds whom it lacks.
        let times = answer
            .records
            .iter()
            .map(|(_, entry, _)| entry.stamp.updated);
        let later = times.max().is_some_and(|last| last >= self.complete_until);
        for (name, entry, action) in answer.records {
            let old = self.entries.get(&name);
            let news = match (old, action) {
                (Some(old), Action::Set) if old.says(&entry) => false,
                (Some(old), _) => entry.stamp.follows(old.stamp),
                (None, Action::Delete) => false,
                (None, Action::Set) => later,
            };
            if !news {
                continue;
            }
            let key = |entry: &Entry| entry.instance.as_ref().map(|instance| instance.key());
            touched.extend(old.and_then(key));
            touched.extend(key(&entry));
            self.unset(&name);
            if action == Action::Set {
                self.set(name, entry);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        let change = |key: InstanceKey| {
            let now = self.instance(&key).cloned();
            (key, now)
        };
        touched.into_iter().map(change).collect()
    }

    /// All instances.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        let shown = self.shown.values();
        shown
            .filter_map(|name| self.entries.get(name)?.instance.clone())
            .collect()
    }

    /// Whether we count as the server does: how many instances have which status.
    pub(crate) fn agrees(&self, hash: Option<&str>) -> bool {
        hash.is_none_or(|hash| hash == self.hash())
    }

    fn hash(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            *counts.entry(&entry.status).or_default() += 1;
        }
        let mut hash = String::new();
        for (status, count) in counts {
            let _ = write!(hash, "{status}_{count}_");
        }
        hash
    }

    fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.entries.get(self.shown.get(key)?)?.instance.as_ref()
    }

    fn set(&mut self, name: Box<str>, entry: Entry) {
        if let Some(instance) = &entry.instance {
            let key = instance.key();
            let rival = self.shown.get(&key);
            let rival = rival.and_then(|rival| Some((rival, self.entries.get(rival)?)));
            match rival {
                // Our own record and another program's, say: the later one is the living one.
                Some((_, rival)) if rival.stamp.dirty > entry.stamp.dirty => {
                    self.shadowed.insert(name.clone());
                }
                Some((rival, _)) => {
                    self.shadowed.insert(rival.clone());
                    self.shown.insert(key, name.clone());
                }
                None => {
                    self.shown.insert(key, name.clone());
                }
            }
        }
        self.entries.insert(name, entry);
    }

    fn unset(&mut self, name: &str) {
        let Some(entry) = self.entries.remove(name) else {
            return;
        };
        let Some(instance) = entry.instance else {
            return;
        };
        if self.shadowed.remove(name) {
            return;
        }
        let key = instance.key();
        self.shown.remove(&key);
        let heir = self.shadowed.iter().find(|other| {
            let entry = self.entries.get(*other);
            entry.is_some_and(|entry| entry.instance.as_ref().is_some_and(|other| other.is(&key)))
        });
        if let Some(heir) = heir.cloned() {
            self.shadowed.remove(&heir);
            self.shown.insert(key, heir);
        }
    }
}

impl Answer {
    /// The server's count of statuses, where it told one.
    pub(crate) fn hash(&self) -> Option<String> {
        self.hash.clone()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
