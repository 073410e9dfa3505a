//! One shared watch for every service at once, and for the services beyond those that have a query of their own.
//!
//! Two blocking queries, on the services and on the checks of the whole catalog, say that something changed. The checks
//! say of which service: every registration of this crate has one, which changes with it. A record of others that changes
//! beside all checks makes every service that is watched be read. Nothing is read while nothing changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Result, Scope, ServiceName};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::hub::{Feed, Plane};
use crate::reader::{CheckRow, Datacenter, Found, Reader, Service};

/// Reads at a time, which leaves other calls their turn.
const ABREAST: usize = 8;

/// Time between two queries, also of something that does not wait.
const PACE: Duration = Duration::from_millis(50);

/// … and for each check of the catalog.
const PER_CHECK: Duration = Duration::from_micros(10);

/// Within this the checks have told which record changed, if they do.
const TELL: Duration = Duration::from_millis(100);

/// Longest time between two sweeps while something changes all the time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What was read last.
type Services = BTreeMap<ServiceName, Service>;

/// Serves the feeds of a plane until it fails, and tells them why.
pub(crate) async fn run(plane: Weak<Plane>) {
    let Some((reader, datacenter, added)) = plane.upgrade().map(|plane| {
        let reader = plane.reader.clone();
        (reader, plane.datacenter.clone(), plane.added.clone())
    }) else {
        return;
    };
    if let Err(error) = serve(&plane, &reader, &datacenter, &added).await
        && let Some(plane) = plane.upgrade()
    {
        plane.fail_swept(&error);
    }
}

async fn serve(
    plane: &Weak<Plane>,
    reader: &Arc<Reader>,
    datacenter: &Datacenter,
    added: &Notify,
) -> Result<Infallible> {
    // The indexes come first: what changes after them is waited for, what came before is read.
    let records = reader.records(datacenter).await?;
    let checks = reader.checks(datacenter).await?;
    let dirty = Dirty::at(checks.index);
    let sweeps = async {
        let mut services = Services::new();
        let mut next = Due::All;
        loop {
            let begin = Instant::now();
            read(plane, reader, datacenter, &dirty, &next, &mut services).await?;
            if next == Due::All {
                // It takes half of the time at most.
                sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
            }
            next = tokio::select! {
                due = dirty.due() => due,
                () = added.notified() => Due::New,
            };
        }
    };
    let watch_records = async {
        let mut index = records;
        loop {
            let now = reader.next_records(datacenter, index).await?;
            if now == index {
                confirm(plane);
                sleep(PACE).await;
                continue;
            }
            index = now;
            dirty.records();
            sleep(PACE).await;
        }
    };
    let watch_checks = async {
        let (mut index, mut rows) = (checks.index, rows(checks.value));
        loop {
            let Some(next) = reader.next_checks(datacenter, index).await? else {
                sleep(PACE).await;
                continue;
            };
            index = next.index;
            let now = self::rows(next.value);
            dirty.checks(index, &rows, &now);
            rows = now;
            sleep(PACE + PER_CHECK * u32::try_from(rows.len()).unwrap_or(u32::MAX)).await;
        }
    };
    tokio::select! {
        end = sweeps => end,
        end = watch_records => end,
        end = watch_checks => end,
    }
}

/// By node and id: the service of a check, and its last change.
type Rows = HashMap<(String, String), (String, u64)>;

fn rows(checks: Vec<CheckRow>) -> Rows {
    let row = |row: CheckRow| ((row.node, row.id), (row.service_name, row.modify_index));
    checks.into_iter().map(row).collect()
}

/// What is to be read.
#[derive(Debug, PartialEq)]
enum Due {
    /// Every service.
    All,
    /// Services that changed.
    Some(BTreeSet<String>),
    /// What was not read before.
    New,
}

/// What has changed and was not read since.
#[derive(Debug, Default)]
struct Dirty {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeSet<String>,
    /// A node's check changed, which is about every service there.
    all: bool,
    /// Since when records have changed that no check may have told of.
    records: Option<Instant>,
    /// Checks told of a change since then, which may be all that it was.
    told: bool,
    /// The index of the checks.
    index: u64,
    /// Services whose last read saw more than the checks have told: what came and went since is in no difference of checks.
    ahead: BTreeSet<String>,
}

impl Dirty {
    fn records(&self) {
        self.state().records.get_or_insert_with(Instant::now);
        self.wake.notify_one();
    }

    fn at(index: u64) -> Self {
        let this = Self::default();
        this.state().index = index;
        this
    }

    /// How far the checks have told.
    fn index(&self) -> u64 {
        self.state().index
    }

    /// A service was read, which began when the checks had told as far as `begin`, and saw it as of `index`.
    fn read(&self, service: &ServiceName, begin: u64, index: u64) {
        let mut state = self.state();
        let service = service.to_string();
        if index <= begin {
            state.ahead.remove(&service);
        } else if state.index == begin {
            state.ahead.insert(service);
        } else {
            state.services.insert(service);
            self.wake.notify_one();
        }
    }

    fn checks(&self, index: u64, before: &Rows, now: &Rows) {
        let mut state = self.state();
        state.index = index;
        let ahead = std::mem::take(&mut state.ahead);
        state.services.extend(ahead);
        let changed = |one: &Rows, other: &Rows| -> Vec<String> {
            let differs = one
                .iter()
                .filter(|(check, row)| other.get(*check) != Some(*row));
            differs.map(|(_, (service, _))| service.clone()).collect()
        };
        for service in changed(before, now).into_iter().chain(changed(now, before)) {
            match service.is_empty() {
                true => state.all = true,
                false => drop(state.services.insert(service)),
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until something is due.
    async fn due(&self) -> Due {
        loop {
            let wait = {
                let mut state = self.state();
                let age = state.records.map(|since| since.elapsed());
                state.told |= !state.services.is_empty();
                // The checks get the time to say what it was about; what they say may not be all.
                let overdue = if state.told { LONGEST_PAUSE } else { TELL };
                if state.all || age.is_some_and(|age| age >= overdue) {
                    let index = state.index;
                    *state = State {
                        index,
                        ..State::default()
                    };
                    return Due::All;
                }
                if !state.services.is_empty() {
                    return Due::Some(std::mem::take(&mut state.services));
                }
                age.map(|age| overdue.saturating_sub(age))
            };
            let timer = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn confirm(plane: &Weak<Plane>) {
    for (_, feed) in plane.upgrade().iter().flat_map(|plane| plane.swept()) {
        feed.fanout.confirm();
    }
}

/// Reads what is due, and tells the feeds.
async fn read(
    plane: &Weak<Plane>,
    reader: &Arc<Reader>,
    datacenter: &Datacenter,
    dirty: &Dirty,
    due: &Due,
    last: &mut Services,
) -> Result<()> {
    let Some(plane) = plane.upgrade() else {
        return Ok(());
    };
    let begin = dirty.index();
    let is_due = |service: &ServiceName| match due {
        Due::All => true,
        Due::Some(services) => services.contains(service.as_str()),
        Due::New => false,
    };
    let mut wanted: BTreeSet<ServiceName> = BTreeSet::new();
    let mut names: BTreeSet<ServiceName> = BTreeSet::new();
    let mut told: Vec<(ServiceName, Arc<Feed>)> = Vec::new();
    let mut everything = None;
    for (scope, feed) in plane.swept() {
        let new = feed.is_new();
        match scope {
            Scope::Service(service) => {
                wanted.insert(service.clone());
                if new || is_due(&service) {
                    names.insert(service.clone());
                    told.push((service, feed));
                }
            }
            _ => everything = Some((feed, new)),
        }
    }
    if let Some((_, new)) = &everything {
        let listed = reader.services(datacenter).await?.value;
        for service in listed {
            if *new || is_due(&service) || !last.contains_key(&service) {
                names.insert(service.clone());
            }
            wanted.insert(service);
        }
    }
    last.retain(|service, _| wanted.contains(service));
    let mut denied = BTreeMap::new();
    for (service, found) in services(reader, datacenter, names).await? {
        match found {
            Ok(found) => {
                dirty.read(&service, begin, found.index);
                if let Some(before) = last.get(&service) {
                    found.value.follows(before)?;
                }
                last.insert(service, found.value);
            }
            Err(error) => {
                last.remove(&service);
                denied.insert(service, error);
            }
        }
    }
    for (service, feed) in told {
        match (last.get(&service), denied.get(&service)) {
            (Some(found), _) => feed.fanout.replace(found.instances.clone()),
            (None, Some(error)) => plane.fail_one(&service.into(), error),
            (None, None) => {}
        }
    }
    if let Some((feed, _)) = everything {
        // What may not be read is not among those that are listed, but for a moment.
        let all = last.values().flat_map(|found| &found.instances);
        feed.fanout.replace(all.cloned().collect());
    }
    Ok(())
}

/// The instances of these services. What fails for one service alone is its own answer.
async fn services(
    reader: &Arc<Reader>,
    datacenter: &Datacenter,
    names: BTreeSet<ServiceName>,
) -> Result<BTreeMap<ServiceName, Result<Found<Service>>>> {
    let mut found = BTreeMap::new();
    let mut names = names.into_iter();
    let mut reads = JoinSet::new();
    loop {
        while reads.len() < ABREAST
            && let Some(service) = names.next()
        {
            let (reader, datacenter) = (reader.clone(), datacenter.clone());
            reads.spawn(async move {
                let read = reader.service(&datacenter, &service).await;
                (service, read)
            });
        }
        match reads.join_next().await {
            None => return Ok(found),
            Some(Ok((service, Err(error)))) if error.kind() != ErrorKind::Denied => {
                return Err(error.with("service", service));
            }
            Some(Ok((service, read))) => drop(found.insert(service, read)),
            Some(Err(panic)) => {
                let why = "a read of the shared watch ended early";
                return Err(Error::new(ErrorKind::Lost, why).because(panic));
            }
        }
    }
}
