//! Announcing instances, and taking them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Held, Instance, InstanceKey, Renewal, Result, Turn, Turns};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::daemon::Daemon;
use crate::link::Link;
use crate::networks::Networks;
use crate::records::{Record, State};
use crate::{SERVICE_TYPE, codec, label};

/// How long a daemon may take to report an announcement: probing takes 1 s at most, 2 s when another one probes for
/// the name at the same time, and as long again to learn what the new name would be.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long after a goodbye its second copy may be heard, by the daemon that sends it too. What is probed with other
/// data before that conflicts with it.
const ECHO: Duration = Duration::from_millis(400);
/// What was multicast within this time is left out of an announcement (RFC 6762, 6), although a goodbye came after it.
/// Probing takes long enough.
const MULTICAST_PAUSE: Duration = Duration::from_secs(1);

/// What one client announces.
#[derive(Debug)]
pub(crate) struct Publisher {
    link: Arc<Link>,
    /// Part of every host name, so that no two clients share one.
    session: u64,
    revisions: AtomicU64,
    turns: Turns<String>,
}

impl Publisher {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            session: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), ()),
            revisions: AtomicU64::new(0),
            turns: Turns::default(),
        }
    }

    /// Announces an instance, and gives the count of what was published with it.
    pub(crate) async fn register(&self, instance: &Arc<Instance>) -> Result<u64> {
        let name = label::instance(&instance.key());
        // Refused before it waits for its turn.
        codec::encode(instance, "any.local.", 0)?;
        let turn = self.turns.take(&name).await;
        self.link.check_open()?;

        let full_name = full_name(&name);
        let before = self.before(&full_name, instance, &turn).await?;
        if let Some(before) = &before
            && before.instance == *instance
            && before.state() == State::Announced
        {
            return Ok(before.revision);
        }
        self.check_carried(instance, before.is_some())?;
        let echo = self.let_fade(&full_name, before.as_ref()).await?;
        let daemon = match &before {
            Some(before) if before.daemon.is_running() => before.daemon.clone(),
            _ if self.link.records.is_given_away(&full_name) => self.link.daemon_apart()?,
            _ => self.link.daemon()?,
        };
        let record = self.record(instance, &name, before.as_ref(), daemon)?;
        let revision = record.revision;
        match self.announce(record.clone(), before.is_none()).await {
            Err(error) if echo && error.kind() == ErrorKind::Conflict => {
                // It may have been a late echo of our own goodbye. That is over, but this daemon gave the name away.
                let daemon = self.link.daemon_apart()?;
                let state = watch::Sender::new(State::Announcing);
                let again = Record {
                    daemon,
                    state,
                    ..record
                };
                self.announce(again, true).await?;
            }
            result => result?,
        }
        Ok(revision)
    }

    /// Takes an instance back; returns when the goodbyes are out.
    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let name = label::instance(key);
        let turn = self.turns.take(&name).await;
        self.link.check_open()?;
        match self.link.records.get(&full_name(&name)) {
            Some(record) if record.instance.is(key) => self.take_back(&record, &turn).await,
            _ => Ok(()),
        }
    }

    /// Whether a registration is still announced.
    pub(crate) fn renew(&self, held: &Held) -> Result<Renewal> {
        self.link.check_open()?;
        let key = &held.registered.key;
        let record = self.link.records.get(&full_name(&label::instance(key)));
        let Some(record) = record.filter(|record| {
            record.instance.is(key) && i64::try_from(record.revision) == Ok(held.registered.token)
        }) else {
            return Ok(Renewal::Unknown);
        };
        match record.state() {
            State::Announced => Ok(Renewal::Held(held.registered.clone())),
            State::Renamed => Err(conflict(key)),
            State::Announcing | State::Lost => Ok(Renewal::Unknown),
        }
    }

    /// Takes everything back and ends the daemons, the one that listened too.
    pub(crate) async fn close(&self, listening: Option<Arc<Daemon>>) -> Result<()> {
        let shared = self.link.close();
        let records = self.link.records.clear();
        let ending = Ending::new(shared.as_ref(), &records, listening.as_ref());
        let mut said = Ok(());
        if let Some(daemon) = &shared {
            let names: Vec<_> = records
                .iter()
                .filter(|record| Arc::ptr_eq(&record.daemon, daemon))
                .map(|record| record.info.get_fullname())
                .collect();
            said = daemon.unregister(&names).await;
        }
        said.and(ending.shut_down().await)
    }

    /// The same where nothing can be awaited.
    pub(crate) fn end(&self, listening: Option<Arc<Daemon>>) {
        let shared = self.link.close();
        let records = self.link.records.clear();
        drop(Ending::new(shared.as_ref(), &records, listening.as_ref()));
    }

    /// What is announced under this name now, past what cannot be announced under it any more.
    async fn before(
        &self,
        full_name: &str,
        instance: &Instance,
        turn: &Turn,
    ) -> Result<Option<Record>> {
        let Some(record) = self.link.records.get(full_name) else {
            return Ok(None);
        };
        if !record.instance.is(&instance.key()) {
            return Err(conflict(&instance.key()));
        }
        if record.state() == State::Renamed {
            self.link.records.give_away(full_name);
            self.take_back(&record, turn).await?;
            return Ok(None);
        }
        Ok(Some(record))
    }

    /// Refuses addresses that no announcement can carry: mdns-sd would not say a word.
    fn check_carried(&self, instance: &Instance, announced_before: bool) -> Result<()> {
        let networks = Networks::now(&self.link.config)?;
        let addresses = [&instance.address].into_iter().chain(&instance.alternates);
        let addresses = addresses.filter_map(|address| address.socket_addr());
        let Some(foreign) = addresses
            .map(|address| address.ip())
            .find(|ip| !networks.carry(*ip))
        else {
            return Ok(());
        };
        // What was announced had a network, which may come back.
        let kind = if announced_before {
            ErrorKind::Unavailable
        } else {
            ErrorKind::Invalid
        };
        let message = format!(
            "mDNS announces an address within a network of this machine alone, and {foreign} is in none of: {networks}; \
             bind to one of these, or to 127.0.0.1 with loopback=true"
        );
        Err(Error::new(kind, message).with("instance", instance.key()))
    }

    /// Waits until the goodbye of an earlier record of this name does not hit the next one; says whether there was one.
    async fn let_fade(&self, full_name: &str, before: Option<&Record>) -> Result<bool> {
        let Some(goodbye) = self.link.records.goodbye(full_name) else {
            return Ok(false);
        };
        let pause = if self.probes(before) {
            ECHO
        } else {
            MULTICAST_PAUSE
        };
        sleep_until(goodbye + pause).await;
        self.link.check_open()?;
        Ok(true)
    }

    /// What is announced already needs no probing to change (RFC 6762, 8.4), and must not: its own announcements would
    /// be taken for somebody else's.
    fn probes(&self, before: Option<&Record>) -> bool {
        self.link.config.probe && !before.is_some_and(Record::is_owned)
    }

    fn record(
        &self,
        instance: &Arc<Instance>,
        name: &str,
        before: Option<&Record>,
        daemon: Arc<Daemon>,
    ) -> Result<Record> {
        let revision = match before {
            Some(before) if before.instance == *instance => before.revision,
            _ => self.revisions.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let moved = match before {
            Some(before) if same_place(&before.instance, instance) => before.moved,
            _ => revision,
        };
        let host = label::host(self.session, name, moved);
        let mut info = codec::encode(instance, &host, revision)?;
        info.set_requires_probe(self.probes(before));
        Ok(Record {
            instance: instance.clone(),
            revision,
            moved,
            info,
            daemon,
            owned: before.is_some_and(Record::is_owned),
            state: watch::Sender::new(State::Announcing),
        })
    }

    async fn announce(&self, record: Record, first: bool) -> Result<()> {
        self.link.records.insert(record.clone());
        let mut attempt = Attempt {
            link: &self.link,
            record: record.clone(),
            undo: first,
        };
        let key = record.instance.key();
        record.daemon.register(&record.info).await?;
        let mut state = record.state.subscribe();
        let reported = state.wait_for(|state| *state != State::Announcing);
        let reported = timeout(ANNOUNCE_TIMEOUT, reported)
            .await
            .map(|state| state.map(|state| *state));
        match reported {
            Ok(Ok(State::Announced)) => {
                attempt.undo = false;
                Ok(())
            }
            Ok(Ok(State::Renamed)) => {
                self.link.records.give_away(record.info.get_fullname());
                attempt.undo = true;
                Err(conflict(&key))
            }
            Err(_) => {
                // Its report may be lost, and with it the news that somebody else has the name.
                self.link.records.give_away(record.info.get_fullname());
                let message =
                    format!("mDNS did not announce the instance within {ANNOUNCE_TIMEOUT:?}");
                Err(Error::new(ErrorKind::Unavailable, message).with("instance", key))
            }
            Ok(_) => {
                self.link.check_open()?;
                let message = "the mDNS daemon ended, or the network is gone";
                Err(Error::new(ErrorKind::Unavailable, message).with("instance", key))
            }
        }
    }

    async fn take_back(&self, record: &Record, _turn: &Turn) -> Result<()> {
        let full_name = record.info.get_fullname();
        // Whatever becomes of this call, it is no longer held.
        self.link.records.leaving(record);
        record.daemon.unregister(&[full_name]).await?;
        self.link.records.remove(full_name);
        if record.daemon.apart {
            record.daemon.shut_down().await?;
        }
        Ok(())
    }
}

/// An announcement on its way. One that ends without success, or whose caller is gone, is undone where there was
/// nothing before it.
struct Attempt<'a> {
    link: &'a Link,
    record: Record,
    undo: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.undo {
            return;
        }
        let full_name = self.record.info.get_fullname();
        self.link.records.leaving(&self.record);
        if self.record.daemon.apart {
            self.record.daemon.end();
        } else if !self.record.daemon.unregister_now(full_name) {
            // It stays among the records, so that the next call or `close` takes it back.
            return;
        }
        self.link.records.remove(full_name);
    }
}

/// Daemons that nobody else will end. Where a call that ends them fails or is dropped, they end with this.
struct Ending(Vec<Arc<Daemon>>);

impl Ending {
    fn new(
        shared: Option<&Arc<Daemon>>,
        records: &[Record],
        listening: Option<&Arc<Daemon>>,
    ) -> Self {
        let mut daemons: Vec<Arc<Daemon>> = Vec::new();
        let of_records = records.iter().map(|record| &record.daemon);
        for daemon in of_records.chain(shared).chain(listening) {
            if !daemons.iter().any(|known| Arc::ptr_eq(known, daemon)) {
                daemons.push(daemon.clone());
            }
        }
        Self(daemons)
    }

    /// Ends them all; gives the first error.
    async fn shut_down(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(daemon) = self.0.last() {
            let ended = daemon.shut_down().await;
            if ended.is_err() {
                daemon.end();
            }
            self.0.pop();
            result = result.and(ended);
        }
        result
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        for daemon in &self.0 {
            daemon.end();
        }
    }
}

fn same_place(a: &Instance, b: &Instance) -> bool {
    (&a.address, &a.alternates) == (&b.address, &b.alternates)
}

fn full_name(label: &str) -> String {
    format!("{label}.{SERVICE_TYPE}")
}

fn conflict(key: &InstanceKey) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "somebody else on the link has this instance id; choose another one",
    )
    .with("instance", key)
}
