//! What this client announces, and how the daemons say it fares.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mdns_sd::ServiceInfo;
use registry_core::{Host, Instance};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::networks::Networks;

/// How long a goodbye is remembered.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a record fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is being probed, or its announcement was not reported yet.
    Announcing,
    /// Others can see it.
    Announced,
    /// Somebody else has the name: others see it under another one, if at all.
    Renamed,
    /// It is no longer announced: its daemon ended, or the network of its address is gone.
    Lost,
}

/// One record that is announced, or should be.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) instance: Arc<Instance>,
    pub(crate) revision: u64,
    /// The revision that brought it where it is.
    pub(crate) moved: u64,
    pub(crate) info: ServiceInfo,
    pub(crate) daemon: Arc<Daemon>,
    /// The record that it replaces was announced: the name is ours.
    pub(crate) owned: bool,
    pub(crate) state: watch::Sender<State>,
}

/// The records of one client, by their full names.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: Mutex<HashMap<String, Record>>,
    /// Names that a daemon gave away: it would announce them under their new names for ever.
    given_away: Mutex<HashSet<String>>,
    /// When goodbye was said for a name, for as long as that matters.
    goodbyes: Mutex<HashMap<String, Instant>>,
    /// Counts what should be renewed.
    losses: watch::Sender<u64>,
}

impl Record {
    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Whether nobody else can have the name.
    pub(crate) fn is_owned(&self) -> bool {
        match self.state() {
            State::Announced => true,
            State::Announcing => self.owned,
            State::Renamed | State::Lost => false,
        }
    }

    /// Whether this daemon announces it: what another one says of the name is about an earlier record.
    fn is_of(&self, daemon: &Weak<Daemon>) -> bool {
        Weak::as_ptr(daemon) == Arc::as_ptr(&self.daemon)
    }

    fn is_carried(&self, networks: &Networks) -> bool {
        let addresses = [&self.instance.address]
            .into_iter()
            .chain(&self.instance.alternates);
        addresses.into_iter().all(|address| match address.host() {
            Host::V4(ip) => networks.carry((*ip).into()),
            Host::V6(ip, _) => networks.carry((*ip).into()),
            Host::Name(_) => false,
        })
    }
}

impl Records {
    pub(crate) fn get(&self, full_name: &str) -> Option<Record> {
        lock(&self.records).get(full_name).cloned()
    }

    pub(crate) fn insert(&self, record: Record) {
        lock(&self.records).insert(record.info.get_fullname().to_owned(), record);
    }

    pub(crate) fn remove(&self, full_name: &str) {
        lock(&self.records).remove(full_name);
    }

    /// Takes all records out, for good: who waits for one learns that it is lost.
    pub(crate) fn clear(&self) -> Vec<Record> {
        let records: Vec<_> = lock(&self.records)
            .drain()
            .map(|(_, record)| record)
            .collect();
        for record in &records {
            record.state.send_replace(State::Lost);
        }
        records
    }

    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Remembers that a name cannot be used with the daemon that gave it away.
    pub(crate) fn give_away(&self, full_name: &str) {
        lock(&self.given_away).insert(full_name.to_owned());
    }

    pub(crate) fn is_given_away(&self, full_name: &str) -> bool {
        lock(&self.given_away).contains(full_name)
    }

    /// When goodbye was said for a name, if that was within the last second.
    pub(crate) fn goodbye(&self, full_name: &str) -> Option<Instant> {
        let at = lock(&self.goodbyes).get(full_name).copied();
        at.filter(|at| at.elapsed() < GOODBYE)
    }

    /// A daemon announced this name.
    pub(crate) fn announced(&self, full_name: &str, daemon: &Weak<Daemon>) {
        if let Some(record) = self.get(full_name).filter(|record| record.is_of(daemon)) {
            record.state.send_if_modified(|state| {
                let awaited = *state == State::Announcing;
                if awaited {
                    *state = State::Announced;
                }
                awaited
            });
        }
    }

    /// A daemon lost this name to somebody else.
    pub(crate) fn renamed(&self, full_name: &str, daemon: &Weak<Daemon>) {
        if let Some(record) = self.get(full_name).filter(|record| record.is_of(daemon)) {
            record.state.send_replace(State::Renamed);
            self.note_loss();
        }
    }

    /// A daemon ended.
    pub(crate) fn ended(&self, daemon: &Arc<Daemon>) {
        daemon.note_end();
        for record in lock(&self.records).values() {
            if Arc::ptr_eq(&record.daemon, daemon) {
                record.state.send_replace(State::Lost);
            }
        }
        self.note_loss();
    }

    /// Goodbye is about to be said for a record: from here it is not announced again.
    pub(crate) fn leaving(&self, record: &Record) {
        let _not_while_it_moves = lock(&self.records);
        // The goodbye of one that was renamed has the new name.
        if record.state.send_replace(State::Lost) == State::Renamed {
            return;
        }
        let mut goodbyes = lock(&self.goodbyes);
        goodbyes.retain(|_, at| at.elapsed() < GOODBYE);
        goodbyes.insert(record.info.get_fullname().to_owned(), Instant::now());
    }

    /// The networks of a daemon changed. Announces its records again, since a daemon announces a fixed address only
    /// on the interfaces that were there when it was given the record.
    pub(crate) fn moved(&self, daemon: &Arc<Daemon>, networks: &Networks) {
        let mut loss = false;
        // Under the lock, so that no older state of a record follows a newer one.
        for record in lock(&self.records).values() {
            if !Arc::ptr_eq(&record.daemon, daemon) {
                continue;
            }
            match record.state() {
                State::Announced => {
                    let mut info = record.info.clone();
                    info.set_requires_probe(false);
                    if !record.is_carried(networks) || !daemon.register_now(&info) {
                        record.state.send_replace(State::Lost);
                        loss = true;
                    }
                }
                State::Lost => loss |= record.is_carried(networks),
                State::Announcing | State::Renamed => {}
            }
        }
        if loss {
            self.note_loss();
        }
    }

    fn note_loss(&self) {
        self.losses.send_modify(|losses| *losses += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
