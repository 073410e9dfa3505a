//! The registry itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Compare, CompareOp, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use registry_core::{
    Capability, Error, ErrorKind, Fanout, Held, Instance, InstanceKey, ReadOptions, Registered,
    Registration, Registry, Renewal, Result, Scope, ServiceName, TtlScope, Watcher, Window,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Connection, Link};
use crate::codec::Codec;
use crate::config::EtcdConfig;
use crate::error::{self, Remedy};
use crate::keeper::Keeper;
use crate::list::{Listing, list};
use crate::records::{Found, Lease, Records, Turn};
use crate::stream::Streams;
use crate::watcher::EtcdWatcher;

/// Most bytes of one record. etcd takes 1.5 MiB for a request, and the key, which stands in it twice, has its part.
pub const MAX_RECORD: usize = 1_500_000;

/// A register that finds the key changed under it looks this often.
const TRIES: usize = 4;

/// Keys that are looked at in one transaction; etcd takes 128 operations.
const KEYS: usize = 100;

/// Leases that are revoked at once.
const ABREAST: usize = 64;

/// How long closing may take.
const CLOSING: Duration = Duration::from_secs(3);

/// A registry on an etcd cluster.
///
/// It connects when it is first used. Better than dropping it is to [`close`](Registry::close) it, which revokes the
/// leases of what is still registered; else they run out.
pub struct Etcd {
    connection: Arc<Connection>,
    codec: Arc<Codec>,
    keeper: Keeper,
    streams: Streams,
    records: Records,
    losses: tokio::sync::Mutex<watch::Receiver<u64>>,
    closed: watch::Sender<bool>,
}

enum Written {
    At(i64, Link),
    Refused(Found),
}

impl Etcd {
    /// A client of the cluster. It speaks to nobody yet.
    ///
    /// # Errors
    /// `Config` for an endpoint that is not `host:port`, a prefix with empty segments, and a time of 0.
    pub fn new(config: EtcdConfig) -> Result<Self> {
        let config = config.checked()?;
        let codec = Arc::new(Codec::new(&config.prefix));
        let connection = Arc::new(Connection::new(config));
        let (losses, heard) = watch::channel(0);
        Ok(Self {
            streams: Streams::new(connection.clone(), codec.clone(), losses),
            connection,
            codec,
            keeper: Keeper::default(),
            records: Records::default(),
            losses: heard.into(),
            closed: watch::Sender::new(false),
        })
    }

    /// How many records below the prefix were skipped so far because they could not be read as an instance.
    pub fn skipped(&self) -> u64 {
        self.codec.skipped()
    }

    fn check_open(&self) -> Result<()> {
        match *self.closed.borrow() {
            true => Err(error::closed()),
            false => Ok(()),
        }
    }

    async fn list(&self, scope: &Scope, options: &ReadOptions) -> Result<Listing> {
        self.capability().admit_read(options)?;
        self.check_open()?;
        list(&self.connection, &self.codec, &self.codec.range(scope)).await
    }

    async fn grant(&self, turn: &Turn, wish: i64) -> Result<Lease> {
        let stale = turn.slot().give_up_pending(Some(wish));
        if let Some(lease) = stale {
            self.revoke_other(turn, lease).await?;
        }
        // An id of ours, noted before the request: whatever becomes of the answer, the lease can be revoked.
        let (id, first) = {
            let mut slot = turn.slot();
            let first = slot.pending.is_none();
            (slot.ask(wish), first)
        };
        let granted = self.connection.call(|link| async move {
            let options = LeaseGrantOptions::new().with_id(id);
            let granted = link.client.lease_client().grant(wish, Some(options)).await;
            granted.map(|granted| granted.ttl())
        });
        let seconds = match granted.await {
            Ok(seconds) => seconds,
            // An earlier request for it has arrived.
            Err((Remedy::LeaseExists, _)) => self.begin_anew(id).await?,
            Err((remedy, error)) => {
                if first && remedy != Remedy::Rotate {
                    // A refusal; there is no such lease.
                    turn.slot().pending = None;
                }
                return Err(error);
            }
        };
        let seconds = u64::try_from(seconds).unwrap_or_default();
        Ok(Lease {
            id,
            wish,
            granted: Duration::from_secs(seconds),
        })
    }

    /// Gives a lease its full TTL, and says how many seconds that is.
    async fn begin_anew(&self, lease: i64) -> Result<i64> {
        let alive = self.keeper.keep(&self.connection, &[lease]).await?;
        if !alive.contains(&lease) {
            return Err(error::lease_gone());
        }
        let granted = self.connection.call(|link| async move {
            let state = link.client.lease_client().time_to_live(lease, None).await;
            state.map(|state| state.granted_ttl())
        });
        granted.await.map_err(|(_, error)| error)
    }

    async fn revoke_other(&self, turn: &Turn, lease: i64) -> Result<()> {
        revoke(&self.connection, lease).await?;
        turn.slot().others.retain(|other| *other != lease);
        Ok(())
    }

    /// Writes the record if the key is as we last knew it: a call that was given up earlier and arrives late then
    /// changes nothing.
    async fn write(
        &self,
        key: &[u8],
        record: &str,
        lease: Lease,
        known: (i64, i64),
    ) -> Result<Written, (Remedy, Error)> {
        let (revision, holder) = known;
        let mut conditions = vec![Compare::mod_revision(key, CompareOp::Equal, revision)];
        if revision > 0 {
            // After a loss of data the same revision may be somebody else's.
            conditions.push(Compare::lease(key, CompareOp::Equal, holder));
        }
        let put = TxnOp::put(key, record, Some(PutOptions::new().with_lease(lease.id)));
        let look = TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let txn = Txn::new().when(conditions).and_then([put]).or_else([look]);
        let answer = self.connection.call(|link| {
            let txn = txn.clone();
            async move { Ok((link.client.kv_client().txn(txn).await?, link)) }
        });
        let (answer, link) = answer.await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, |header| header.revision());
            return Ok(Written::At(revision, link));
        }
        let found = answer.op_responses().into_iter().find_map(found);
        Ok(Written::Refused(found.flatten()))
    }

    async fn publish(
        &self,
        turn: &Turn,
        key: &[u8],
        registration: &Registration,
        record: &str,
    ) -> Result<Lease> {
        let ttl = registration.ttl.unwrap_or(self.connection.config().ttl);
        let wish = whole_seconds(ttl);
        let mut reuse = turn.slot().lease.filter(|lease| lease.wish == wish);
        for _ in 0..TRIES {
            self.check_open()?;
            let lease = match reuse {
                Some(lease) => lease,
                None => self.grant(turn, wish).await?,
            };
            let known = {
                let mut slot = turn.slot();
                if reuse.is_none() {
                    slot.replace(Some(lease));
                }
                (slot.revision, slot.holder)
            };
            let writing = self.write(key, record, lease, known);
            let written = match reuse {
                // An update starts the TTL anew: who updates often may never come to renew.
                Some(lease) => {
                    let leases = [lease.id];
                    let (written, kept) =
                        tokio::join!(writing, self.keeper.keep(&self.connection, &leases));
                    match (&written, kept?.is_empty()) {
                        (Ok(Written::At(..)), true) => {
                            Err((Remedy::LeaseGone, error::lease_gone()))
                        }
                        _ => written,
                    }
                }
                None => writing.await,
            };
            reuse = Some(lease);
            match written {
                Ok(Written::At(revision, link)) => {
                    self.published(turn, key, revision, &link);
                    return Ok(lease);
                }
                Ok(Written::Refused(found)) => {
                    if turn.slot().adopt(found) {
                        continue;
                    }
                    // What we hold for an id that is not ours is of no use.
                    self.withdraw(turn).await?;
                    let why = "somebody else who is alive holds this id; choose another one";
                    return Err(Error::new(ErrorKind::Conflict, why));
                }
                Err((Remedy::LeaseGone, _)) => {
                    turn.slot().replace(None);
                    reuse = None;
                }
                Err((_, error)) => return Err(error),
            }
        }
        let why = "the key or its lease changed at every try; try again";
        Err(Error::new(ErrorKind::Unavailable, why))
    }

    fn published(&self, turn: &Turn, key: &[u8], revision: i64, link: &Link) {
        let mut slot = turn.slot();
        slot.published(revision);
        if !slot.guard.as_ref().is_some_and(|guard| guard.is_alive()) {
            slot.guard = Some(self.streams.guard(link, key.to_vec(), revision + 1));
        }
    }

    /// Revokes the leases that may hold the key, and so removes it where it is ours.
    async fn withdraw(&self, turn: &Turn) -> Result<()> {
        let leases: Vec<_> = {
            let mut slot = turn.slot();
            slot.guard = None;
            // A revocation that is given up and arrives late must not meet a new registration.
            slot.replace(None);
            slot.others.clone()
        };
        for lease in leases {
            self.revoke_other(turn, lease).await?;
        }
        Ok(())
    }

    /// Which of these keys are as we last wrote them, and so may be kept alive.
    async fn verify(&self, held: &[Held]) -> Result<Vec<bool>> {
        let gets: Vec<_> = held
            .iter()
            .map(|held| {
                let options = GetOptions::new().with_keys_only();
                TxnOp::get(self.codec.key(&held.registered.key), Some(options))
            })
            .collect();
        let txn = Txn::new().and_then(gets);
        let answer = self.connection.call(|link| {
            let txn = txn.clone();
            async move { Ok((link.client.kv_client().txn(txn).await?, link)) }
        });
        let (answer, link) = answer.await.map_err(|(_, error)| error)?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let found = answer.op_responses().into_iter().filter_map(found);
        let mut ours = vec![false; held.len()];
        for ((held, found), ours) in held.iter().zip(found).zip(&mut ours) {
            let key = &held.registered.key;
            let verdict = self.records.look(key, |slot| {
                let as_written = Some((slot.revision, held.registered.token));
                if found != as_written || slot.lease.is_none_or(|lease| lease.id != slot.holder) {
                    return false;
                }
                if slot.guard.as_ref().is_none_or(|guard| !guard.is_alive()) {
                    let key = self.codec.key(key);
                    slot.guard = Some(self.streams.guard(&link, key, revision + 1));
                }
                true
            });
            *ours = verdict.unwrap_or(false);
        }
        Ok(ours)
    }

    async fn renew_some(&self, held: &[Held]) -> Result<Vec<Renewal>> {
        self.check_open()?;
        let ours = self.verify(held).await?;
        let leases: Vec<_> = held
            .iter()
            .zip(&ours)
            .filter(|(_, ours)| **ours)
            .map(|(held, _)| held.registered.token)
            .collect();
        let alive = self.keeper.keep(&self.connection, &leases).await?;
        let renewals = held.iter().zip(ours).map(|(held, ours)| {
            if ours && alive.contains(&held.registered.token) {
                Renewal::Held(held.registered.clone())
            } else {
                Renewal::Unknown
            }
        });
        Ok(renewals.collect())
    }
}

#[async_trait]
impl Registry for Etcd {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Registration;
        capability.default_ttl = Some(Duration::from_secs(
            whole_seconds(self.connection.config().ttl).unsigned_abs(),
        ));
        capability.watch_all = true;
        capability.atomic_batches = true;
        capability.conflicts = true;
        capability.can_forget = true;
        // etcd looks for leases that ran out every 0.5 s, and revokes them through its log.
        capability.windows.crash = Some(Window {
            ttl_times: 1,
            plus: Duration::from_secs(2),
        });
        capability.windows.removed = capability.windows.crash;
        // Every key of ours is watched.
        capability.windows.reregister = Some(Window::fixed(Duration::from_secs(1)));
        capability.limits.record = Some(MAX_RECORD);
        capability
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.capability().admit(registration)?;
        let owner = registration.key();
        let record = registry_go_micro::encode(&registration.instance);
        if record.len() > MAX_RECORD {
            let why = format!(
                "a record of {} bytes is too long; etcd takes {MAX_RECORD}",
                record.len()
            );
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", owner));
        }
        self.check_open()?;
        let turn = self.records.turn(&owner).await;
        let key = self.codec.key(&owner);
        let published = self.publish(&turn, &key, registration, &record).await;
        let lease = published.map_err(|error| error.with("instance", &owner))?;
        Ok(Registered::new(owner, Some(lease.granted), lease.id))
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        let mut renewals = Vec::with_capacity(held.len());
        for held in held.chunks(KEYS) {
            match self.renew_some(held).await {
                Ok(some) => renewals.extend(some.into_iter().map(Ok)),
                Err(error) => renewals.extend(held.iter().map(|_| Err(error.clone()))),
            }
        }
        renewals
    }

    async fn lost(&self) {
        let mut losses = self.losses.lock().await;
        if losses.changed().await.is_err() {
            // Nobody is left to tell of a loss.
            std::future::pending().await
        }
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.check_open()?;
        match self.records.known(key).await {
            Some(turn) => {
                let withdrawn = self.withdraw(&turn).await;
                withdrawn.map_err(|error| error.with("instance", key))
            }
            None => Ok(()),
        }
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        let listing = self.list(&service.clone().into(), options).await?;
        Ok(listing.instances)
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        let listing = self.list(&Scope::All, options).await?;
        let services = listing.instances.iter();
        let mut services: Vec<_> = services.map(|instance| instance.service.clone()).collect();
        services.sort_unstable();
        services.dedup();
        Ok(services)
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        let listing = self.list(scope, options).await?;
        let fanout = Arc::new(Fanout::new());
        fanout.replace(listing.instances);
        let changes = fanout.join(scope);
        let (range, start) = (self.codec.range(scope), listing.revision + 1);
        Ok(Box::new(EtcdWatcher {
            changes,
            closed: self.closed.subscribe(),
            _handle: self.streams.feed(&listing.link, range, start, fanout),
        }))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        self.check_open()
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        self.streams.close();
        let leases = self.records.drain();
        let mut left = leases.into_iter();
        let mut revoking = JoinSet::new();
        let all = async {
            loop {
                while revoking.len() < ABREAST
                    && let Some(lease) = left.next()
                {
                    let connection = self.connection.clone();
                    revoking.spawn(async move { revoke(&connection, lease).await });
                }
                if revoking.join_next().await.is_none() {
                    break;
                }
            }
        };
        // What is not revoked in time lapses.
        let _ = timeout(CLOSING, all).await;
        self.keeper.close().await;
        self.connection.close();
        Ok(())
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("config", self.connection.config())
            .finish_non_exhaustive()
    }
}

async fn revoke(connection: &Connection, lease: i64) -> Result<()> {
    let revoked = connection
        .call(|link| async move { link.client.lease_client().revoke(lease).await.map(drop) });
    match revoked.await {
        Ok(()) | Err((Remedy::LeaseGone, _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// What a read of one key found, if the operation was a read.
fn found(answer: TxnOpResponse) -> Option<Found> {
    let TxnOpResponse::Get(answer) = answer else {
        return None;
    };
    let record = answer.kvs().first();
    Some(record.map(|record| (record.mod_revision(), record.lease())))
}

/// etcd counts TTLs in seconds; a wish means "at least".
fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
