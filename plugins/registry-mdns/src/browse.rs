//! The one browse that all watchers of a client share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mdns_sd::{ResolvedService, ServiceEvent};
use registry_core::{Error, ErrorKind, Fanout, FanoutWatcher, InstanceKey, Result, Scope};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::bare::Bare;
use crate::codec::{self, Decoded};
use crate::config::MdnsConfig;
use crate::daemon::Daemon;
use crate::link::Link;
use crate::networks::Networks;

/// From the first question to the first snapshot. The question is asked again after 1 s, since who has just answered
/// somebody else may not answer again within that time (RFC 6762, 6); answers take 0.1 s.
const SETTLE: Duration = Duration::from_millis(1250);
/// The same where there are many: their answers come at once and overflow the socket's buffer, so that it takes the
/// question that is asked after 3 s to hear them all.
const SETTLE_MANY: Duration = Duration::from_millis(3250);
/// How many instances are many: their answers fill a buffer of Linux' default size, and twice as many events come near
/// the 1000 that the daemon's channel takes.
const MANY: usize = 400;
/// How long an instance that is rechecked has to answer. It is asked twice, 1 s apart.
const RECHECK: Duration = Duration::from_secs(2);
/// How long the lower count of an announcer is taken for the older state. Each state is announced twice, 1 s apart, so
/// that the second copy of one may come after the first of the next. Not longer: anybody can make up a high count.
const REORDER: Duration = Duration::from_secs(2);
/// Most records that are kept: others can make up as many as they like.
const MAX_RECORDS: usize = 10_000;
/// Most names of records that could not be read that are remembered, so as to log each once.
const MAX_NOTED: usize = 1024;

/// The browse, its cache, and who watches it.
#[derive(Debug, Default)]
pub(crate) struct Browser {
    fanout: Fanout,
    state: Mutex<State>,
    cache: Mutex<Cache>,
    /// A browse ended because its events came faster than they were read.
    overflowed: AtomicBool,
    skipped: AtomicU64,
    /// A record that was rechecked went away: ask again, in case that only the answers were lost.
    again: Notify,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Running(Arc<Daemon>),
    Closed,
}

impl Browser {
    /// Opens a watch, and begins to listen if nobody does.
    pub(crate) fn open(self: &Arc<Self>, link: &Link, scope: &Scope) -> Result<FanoutWatcher> {
        link.check_open()?;
        let (watcher, browse) = self.join(link, scope)?;
        if let Some(browse) = browse {
            // Not under the lock: a runtime that ends drops the task at once, and that takes the lock.
            tokio::spawn(browse.run());
        }
        Ok(watcher)
    }

    /// A watcher, and the browse to start if there is none.
    fn join(
        self: &Arc<Self>,
        link: &Link,
        scope: &Scope,
    ) -> Result<(FanoutWatcher, Option<Browse>)> {
        let mut state = lock(&self.state);
        // Under the lock: this watcher hears of the end of a browse, or joins the next one.
        let watcher = self.fanout.join(scope);
        if !matches!(*state, State::Idle) {
            return Ok((watcher, None));
        }
        // What the cache of the shared daemon holds would overflow the channel at once, again.
        let daemon = if self.overflowed.load(Ordering::Relaxed) {
            link.daemon_apart()?
        } else {
            link.daemon()?
        };
        *state = State::Running(daemon.clone());
        let browse = Browse {
            browser: self.clone(),
            config: link.config.clone(),
            daemon,
            end: Error::new(ErrorKind::Lost, "the runtime ended"),
        };
        Ok((watcher, Some(browse)))
    }

    /// Asks whether an instance is still there; what comes of it arrives through the watches.
    pub(crate) async fn recheck(&self, key: &InstanceKey) -> Result<()> {
        let daemon = match &*lock(&self.state) {
            State::Running(daemon) => daemon.clone(),
            State::Idle | State::Closed => return Ok(()),
        };
        let full_name = lock(&self.cache).recheck(key);
        match full_name {
            Some(full_name) => daemon.verify(&full_name, RECHECK).await,
            None => Ok(()),
        }
    }

    /// How many records were skipped so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Ends all watches, now and later; gives the daemon that served them, for its end.
    pub(crate) fn close(&self) -> Option<Arc<Daemon>> {
        let before = std::mem::replace(&mut *lock(&self.state), State::Closed);
        self.fanout.close();
        match before {
            State::Running(daemon) => Some(daemon),
            State::Idle | State::Closed => None,
        }
    }

    fn knows_many(&self) -> bool {
        lock(&self.cache).records.len() > MANY
    }

    fn resolved(&self, record: &ResolvedService) {
        let mut cache = lock(&self.cache);
        let changed = match codec::decode(record) {
            Ok(_) if cache.is_full_for(&record.fullname) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                if cache.note_full() {
                    let name = &record.fullname;
                    tracing::warn!(
                        name,
                        most = MAX_RECORDS,
                        "there are too many records; this and others are skipped"
                    );
                }
                return;
            }
            Ok(decoded) => cache.insert(&record.fullname, decoded),
            Err(reason) => {
                self.skip(&mut cache, &record.fullname, &reason);
                cache.remove(&record.fullname).into_iter().collect()
            }
        };
        self.tell(&cache, &changed);
    }

    fn skip(&self, cache: &mut Cache, full_name: &str, reason: &dyn fmt::Display) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        if cache.note_unread(full_name) {
            tracing::warn!(name = full_name, %reason, "a record is skipped");
        }
    }

    fn removed(&self, full_name: &str) {
        let mut cache = lock(&self.cache);
        let rechecked = cache.rechecked.remove(&fold(full_name));
        let many = cache.records.len() > MANY;
        if !many && rechecked.is_some_and(|at| at.elapsed() < 2 * RECHECK) {
            self.again.notify_one();
        }
        let changed: Vec<_> = cache.remove(full_name).into_iter().collect();
        self.tell(&cache, &changed);
    }

    fn tell(&self, cache: &Cache, changed: &[InstanceKey]) {
        for key in changed {
            match cache.best(key) {
                Some(record) => self.fanout.upsert(record.instance.clone()),
                None => self.fanout.remove(key),
            };
        }
    }
}

/// The task that listens. It ends with the daemon.
struct Browse {
    browser: Arc<Browser>,
    config: MdnsConfig,
    daemon: Arc<Daemon>,
    end: Error,
}

impl Browse {
    async fn run(mut self) {
        let Err(end) = self.listen().await;
        self.end = end;
    }

    async fn listen(&self) -> Result<Infallible> {
        let mut networks = Networks::now(&self.config)?;
        let mut events = self.daemon.browse().await?;
        let begun = Instant::now();
        let mut settled = begun + SETTLE;
        let mut bare = Bare::default();
        let mut complete = false;
        let mut deaf = false;
        loop {
            let event = tokio::select! {
                event = events.recv_async() => event,
                () = self.browser.again.notified() => {
                    events = self.daemon.browse().await?;
                    continue;
                }
                () = bare.due() => {
                    for full_name in bare.proceed(&self.config).await {
                        let reason = "its TXT record is empty";
                        self.browser.skip(&mut lock(&self.browser.cache), &full_name, &reason);
                    }
                    continue;
                }
                () = sleep_until(settled), if !complete => {
                    if deaf {
                        return Err(self.deaf(&networks).await);
                    }
                    if settled < begun + SETTLE_MANY && self.browser.knows_many() {
                        settled = begun + SETTLE_MANY;
                        continue;
                    }
                    complete = true;
                    self.browser.fanout.complete();
                    continue;
                }
            };
            let Ok(event) = event else {
                self.browser.overflowed.store(true, Ordering::Relaxed);
                return Err(Error::new(
                    ErrorKind::Lost,
                    "the mDNS daemon ended the browse",
                ));
            };
            match event {
                ServiceEvent::SearchStarted(on) => deaf = on.contains(" on 0 interfaces "),
                ServiceEvent::ServiceResolved(record) if record.txt_properties.is_empty() => {
                    bare.note(&record.fullname);
                }
                ServiceEvent::ServiceResolved(record) => {
                    bare.forget(&record.fullname);
                    self.browser.resolved(&record);
                }
                ServiceEvent::ServiceRemoved(_, full_name) => {
                    // With an interface goes all that was heard on it. That is our fault and not its end.
                    let now = Networks::now(&self.config)?;
                    if now.lack_of(&networks) {
                        return Err(Error::new(ErrorKind::Lost, "a network interface is gone"));
                    }
                    networks = now;
                    bare.forget(&full_name);
                    self.browser.removed(&full_name);
                }
                _ => {}
            }
        }
    }

    /// Why nobody can be heard. The daemon never opens its sockets again, so that another one has to.
    async fn deaf(&self, networks: &Networks) -> Error {
        let message = format!(
            "mDNS has no interface to listen on; up are: {networks}; is UDP port {} held by a program that does not \
             share it?",
            self.config.port
        );
        let _ = self.daemon.shut_down().await;
        Error::new(ErrorKind::Unavailable, message)
    }
}

impl Drop for Browse {
    fn drop(&mut self) {
        let mut state = lock(&self.browser.state);
        lock(&self.browser.cache).clear();
        if matches!(*state, State::Running(_)) {
            *state = State::Idle;
            self.browser.fanout.fail(&self.end);
        }
    }
}

/// The records that were read, by their folded full names.
#[derive(Debug, Default)]
struct Cache {
    records: HashMap<String, Cached>,
    /// The names of the records of one instance; the first one counts.
    names: HashMap<InstanceKey, BTreeSet<(Claim, String)>>,
    rechecked: HashMap<String, Instant>,
    unread: HashSet<String>,
    noted_full: bool,
}

#[derive(Debug)]
struct Cached {
    /// As it was received: mdns-sd knows it in this form alone.
    full_name: String,
    record: Decoded,
    heard: Instant,
}

/// Whose record of an instance counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Canonical,
    Foreign,
}

impl Cache {
    /// Takes a record, and gives the instances that it may change.
    fn insert(&mut self, full_name: &str, record: Decoded) -> Vec<InstanceKey> {
        let name = fold(full_name);
        if let Some(Cached {
            record: known,
            heard,
            ..
        }) = self.records.get(&name)
            && heard.elapsed() < REORDER
            && known.announcer == record.announcer
            && known.revision > record.revision
        {
            return Vec::new();
        }
        let mut changed: Vec<_> = self.remove(full_name).into_iter().collect();
        let key = record.instance.key();
        self.names
            .entry(key.clone())
            .or_default()
            .insert((claim(&record), name.clone()));
        let cached = Cached {
            full_name: full_name.to_owned(),
            record,
            heard: Instant::now(),
        };
        self.records.insert(name, cached);
        if !changed.contains(&key) {
            changed.push(key);
        }
        changed
    }

    fn remove(&mut self, full_name: &str) -> Option<InstanceKey> {
        let name = fold(full_name);
        let Cached { record, .. } = self.records.remove(&name)?;
        let key = record.instance.key();
        if let Some(names) = self.names.get_mut(&key) {
            names.remove(&(claim(&record), name));
            if names.is_empty() {
                self.names.remove(&key);
            }
        }
        Some(key)
    }

    fn best(&self, key: &InstanceKey) -> Option<&Decoded> {
        let (_, name) = self.names.get(key)?.first()?;
        Some(&self.records.get(name)?.record)
    }

    /// Marks the record of an instance for the case that it goes away, and gives its full name.
    fn recheck(&mut self, key: &InstanceKey) -> Option<String> {
        let (_, name) = self.names.get(key)?.first()?;
        self.rechecked.retain(|_, at| at.elapsed() < 2 * RECHECK);
        self.rechecked.insert(name.clone(), Instant::now());
        Some(self.records.get(name)?.full_name.clone())
    }

    /// Whether there is no room for a record.
    fn is_full_for(&self, full_name: &str) -> bool {
        self.records.len() >= MAX_RECORDS && !self.records.contains_key(&fold(full_name))
    }

    /// Whether this is the first record that finds no room.
    fn note_full(&mut self) -> bool {
        !std::mem::replace(&mut self.noted_full, true)
    }

    /// Whether this is the first that is heard of a record that could not be read.
    fn note_unread(&mut self, full_name: &str) -> bool {
        self.unread.len() < MAX_NOTED && self.unread.insert(fold(full_name))
    }

    fn clear(&mut self) {
        self.records.clear();
        self.names.clear();
        self.rechecked.clear();
    }
}

fn claim(record: &Decoded) -> Claim {
    if record.canonical {
        Claim::Canonical
    } else {
        Claim::Foreign
    }
}

/// Names are compared without case (RFC 6762, 16).
fn fold(full_name: &str) -> String {
    full_name.to_ascii_lowercase()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use registry_core::{Instance, Watcher};
    use tokio::time::advance;

    use super::*;

    #[tokio::test]
    async fn after_an_overflow_the_browse_has_a_daemon_apart() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let link = Link::new(MdnsConfig::default().loopback(true).port(port));
        let (before, after) = (Arc::<Browser>::default(), Arc::<Browser>::default());
        after.overflowed.store(true, Ordering::Relaxed);
        for (browser, shared) in [(before, true), (after, false)] {
            let mut watcher = browser.open(&link, &Scope::All).unwrap();
            watcher.next().await.unwrap();
            let daemon = browser.close().unwrap();
            assert_eq!(daemon.apart, !shared);
            daemon.end();
        }
    }

    fn record(id: &str, weight: u16, revision: u64) -> ResolvedService {
        let instance = Instance::new("web", "10.0.0.7:8080").id(id).weight(weight);
        let info = codec::encode(&instance.build().unwrap(), "0-0-1.local.", revision);
        info.unwrap().as_resolved_service()
    }

    fn weight(browser: &Browser) -> u16 {
        let key = Instance::new("web", "10.0.0.7:8080").id("a").build();
        let cache = lock(&browser.cache);
        cache.best(&key.unwrap().key()).unwrap().instance.weight
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_copy_changes_nothing_and_a_made_up_count_not_for_long() {
        let browser = Browser::default();
        browser.resolved(&record("a", 1, u64::MAX));
        advance(Duration::from_secs(1)).await;
        browser.resolved(&record("a", 2, 7));
        assert_eq!(weight(&browser), 1);
        advance(REORDER).await;
        browser.resolved(&record("a", 3, 8));
        assert_eq!(weight(&browser), 3);
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let browser = Browser::default();
        for i in 0..MAX_RECORDS + 2 {
            browser.resolved(&record(&format!("i{i}"), 1, 1));
        }
        assert_eq!(lock(&browser.cache).records.len(), MAX_RECORDS);
        assert_eq!(browser.skipped(), 2);
        assert!(!lock(&browser.cache).note_full());
        browser.resolved(&record("i7", 2, 2));
        assert_eq!(browser.skipped(), 2);
        browser.removed("i7@web._micro._tcp.local.");
        browser.resolved(&record("a", 5, 1));
        assert_eq!(weight(&browser), 5);
    }
}
