//! One shared watch for every service at once, and for the services beyond those that have a query of their own.
//!
//! Two blocking queries, on the services and on the checks of the whole catalog, say that something changed; then
//! every service that is watched is read. Nothing is read while nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Instance, Result, Scope, ServiceName};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::hub::Plane;
use crate::reader::{Datacenter, Reader};

/// A path, and a filter that nothing passes: only the index is of interest.
pub(crate) type Place = (&'static str, &'static str);

/// A change of a service's record.
const SERVICES: Place = ("catalog/services", "ServiceName == \"\"");

/// A change of a check.
const CHECKS: Place = ("health/state/any", "CheckID == \"\"");

/// Reads at a time, which leaves other calls their turn.
const ABREAST: usize = 8;

/// Time between two queries that each bring something new.
const PACE: Duration = Duration::from_millis(50);

/// Longest time between two sweeps while something changes all the time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
    let services = reader.index(datacenter, SERVICES).await?;
    let checks = reader.index(datacenter, CHECKS).await?;
    let changed = Notify::new();
    let sweeps = async {
        let mut all = true;
        loop {
            let begin = Instant::now();
            read(plane, reader, datacenter, all).await?;
            if all {
                // It takes half of the time at most.
                sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
            }
            all = tokio::select! {
                () = changed.notified() => true,
                () = added.notified() => false,
            };
        }
    };
    let moves = |place, index| moves(plane, reader, datacenter, place, index, &changed);
    tokio::select! {
        end = sweeps => end,
        end = moves(SERVICES, services) => end,
        end = moves(CHECKS, checks) => end,
    }
}

/// Says so whenever the index of a part of the catalog moves.
async fn moves(
    plane: &Weak<Plane>,
    reader: &Reader,
    datacenter: &Datacenter,
    (path, filter): Place,
    mut index: u64,
    changed: &Notify,
) -> Result<Infallible> {
    loop {
        let now = reader.moved(datacenter, (path, filter), index).await?;
        if now == index {
            confirm(plane);
            continue;
        }
        index = now;
        changed.notify_one();
        sleep(PACE).await;
    }
}

fn confirm(plane: &Weak<Plane>) {
    for (_, feed) in plane.upgrade().iter().flat_map(|plane| plane.swept()) {
        feed.fanout.confirm();
    }
}

/// Reads what is watched: everything, or only what was not read before.
async fn read(
    plane: &Weak<Plane>,
    reader: &Arc<Reader>,
    datacenter: &Datacenter,
    all: bool,
) -> Result<()> {
    let Some(plane) = plane.upgrade() else {
        return Ok(());
    };
    let mut feeds = plane.swept();
    feeds.retain(|(_, feed)| feed.is_new() || all);
    let mut names: BTreeSet<ServiceName> = BTreeSet::new();
    for (scope, _) in &feeds {
        match scope {
            Scope::Service(service) => drop(names.insert(service.clone())),
            _ => names.extend(reader.services(datacenter).await?.value),
        }
    }
    let mut found = services(reader, datacenter, names).await?;
    for (scope, feed) in feeds {
        match &scope {
            Scope::Service(service) => match found.get(service).cloned() {
                Some(Ok(instances)) => feed.fanout.replace(instances),
                Some(Err(error)) => plane.fail_one(&scope, &error),
                None => {}
            },
            // A service that may not be read is not among those that are named, but for a moment.
            _ => feed.fanout.replace(
                found
                    .values_mut()
                    .flatten()
                    .flat_map(|found| found.clone())
                    .collect(),
            ),
        }
    }
    Ok(())
}

/// The instances of these services. What fails for one service alone is its own answer.
async fn services(
    reader: &Arc<Reader>,
    datacenter: &Datacenter,
    names: BTreeSet<ServiceName>,
) -> Result<BTreeMap<ServiceName, Result<Vec<Arc<Instance>>>>> {
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
                (service, read.map(|found| found.value))
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
