//! Many watches, few connections.
//!
//! Watches of one service share one blocking query. Beyond a number of services they share two for all, see
//! [`sweep`](crate::sweep). One probe for all notices a server that is silent or without a leader.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use registry_core::{Error, ErrorKind, Fanout, FanoutWatcher, Result, Scope, ServiceName};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::reader::{Datacenter, Reader, WAIT, not_before};
use crate::sweep;

/// Time between two probes, and how long an answer may take.
const PROBE: Duration = Duration::from_secs(5);

/// How long the first query of a watch waits for a change, and by how much each further one waits longer, up to
/// [`WAIT`]. Until then a server is asked after each: an agent may still answer from its view of before a fault, at an
/// index that says nothing now.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGER: u32 = 3;

/// Time between two queries while each brings nothing new.
const IDLE_PACE: Duration = Duration::from_millis(50);

/// Time between two queries that each bring something new, for each instance of the service.
const PER_INSTANCE: Duration = Duration::from_micros(10);

/// What is watched, by data centre.
#[derive(Debug)]
pub(crate) struct Hub {
    reader: Arc<Reader>,
    slots: Arc<Semaphore>,
    planes: Mutex<Planes>,
}

#[derive(Debug, Default)]
struct Planes {
    closed: bool,
    by_datacenter: HashMap<Datacenter, Arc<Plane>>,
}

/// What is watched in one data centre.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) reader: Arc<Reader>,
    pub(crate) datacenter: Datacenter,
    /// Queries that services may have of their own, in all data centres.
    slots: Arc<Semaphore>,
    state: Mutex<State>,
    /// A watch that the sweep has not read yet was added.
    pub(crate) added: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    feeds: HashMap<Scope, Entry>,
    probe: Option<Task>,
    sweep: Option<Task>,
}

#[derive(Debug)]
struct Entry {
    feed: Weak<Feed>,
    /// The sweep feeds it.
    swept: bool,
}

/// What the watches of one scope read from.
#[derive(Debug)]
pub(crate) struct Feed {
    scope: Scope,
    pub(crate) fanout: Arc<Fanout>,
    /// `None`: the sweep feeds it.
    task: Option<Task>,
    /// The sweep has read it.
    pub(crate) read: AtomicBool,
    plane: Arc<Plane>,
}

/// A task that ends with this.
#[derive(Debug)]
struct Task(AbortHandle);

impl Task {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hub {
    pub(crate) fn new(reader: Arc<Reader>, dedicated: usize) -> Self {
        Self {
            reader,
            slots: Arc::new(Semaphore::new(dedicated)),
            planes: Mutex::default(),
        }
    }

    /// Opens a watch.
    pub(crate) fn join(
        &self,
        scope: &Scope,
        datacenter: Datacenter,
    ) -> Result<(FanoutWatcher, Arc<Feed>)> {
        let plane = {
            let mut planes = lock(&self.planes);
            if planes.closed {
                return Err(closed());
            }
            let plane = planes.by_datacenter.entry(datacenter.clone());
            plane
                .or_insert_with(|| {
                    Arc::new(Plane {
                        reader: self.reader.clone(),
                        datacenter,
                        slots: self.slots.clone(),
                        state: Mutex::default(),
                        added: Arc::default(),
                    })
                })
                .clone()
        };
        plane.join(scope)
    }

    /// Ends every watch, now and later, with `Closed`.
    pub(crate) fn close(&self) {
        let planes = {
            let mut planes = lock(&self.planes);
            planes.closed = true;
            std::mem::take(&mut planes.by_datacenter)
        };
        for plane in planes.into_values() {
            lock(&plane.state).closed = true;
            plane.end(|_| true, |feed| feed.fanout.close());
        }
    }
}

impl Plane {
    fn join(self: &Arc<Self>, scope: &Scope) -> Result<(FanoutWatcher, Arc<Feed>)> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(closed());
        }
        let live = state
            .feeds
            .get(scope)
            .and_then(|entry| entry.feed.upgrade());
        let feed = live.unwrap_or_else(|| self.open(&mut state, scope));
        // Under the lock: a feed that fails after this tells this watcher too.
        Ok((feed.fanout.join(scope), feed))
    }

    fn open(self: &Arc<Self>, state: &mut State, scope: &Scope) -> Arc<Feed> {
        let fanout = Arc::new(Fanout::new());
        let plane = Arc::downgrade(self);
        let slot = self.slots.clone().try_acquire_owned().ok();
        let task = match scope {
            Scope::Service(service) if slot.is_some() => {
                let (service, scope) = (service.clone(), scope.clone());
                let (plane, fanout) = (plane.clone(), fanout.clone());
                let (reader, datacenter) = (self.reader.clone(), self.datacenter.clone());
                Some(Task::spawn(async move {
                    let _slot = slot;
                    let error = follow(&reader, &datacenter, &service, &fanout).await;
                    if let Some(plane) = plane.upgrade() {
                        plane.fail_one(&scope, &error);
                    }
                }))
            }
            _ => None,
        };
        let swept = task.is_none();
        let feed = Arc::new(Feed {
            scope: scope.clone(),
            fanout,
            task,
            read: AtomicBool::new(false),
            plane: self.clone(),
        });
        let entry = Entry {
            feed: Arc::downgrade(&feed),
            swept,
        };
        state.feeds.insert(scope.clone(), entry);
        if state.probe.is_none() {
            state.probe = Some(Task::spawn(probe(plane.clone())));
        }
        if swept {
            self.added.notify_one();
            if state.sweep.is_none() {
                state.sweep = Some(Task::spawn(sweep::run(plane)));
            }
        }
        feed
    }

    /// The feeds that the sweep has to serve.
    pub(crate) fn swept(&self) -> Vec<(Scope, Arc<Feed>)> {
        let state = lock(&self.state);
        let swept = state.feeds.values().filter(|entry| entry.swept);
        swept
            .filter_map(|entry| entry.feed.upgrade())
            .map(|feed| (feed.scope.clone(), feed))
            .collect()
    }

    /// Ends the feeds that the sweep serves.
    pub(crate) fn fail_swept(&self, error: &Error) {
        lock(&self.state).sweep = None;
        self.end(|feed| feed.task.is_none(), |feed| feed.fanout.fail(error));
    }

    /// Ends one feed.
    pub(crate) fn fail_one(&self, scope: &Scope, error: &Error) {
        self.end(|feed| feed.scope == *scope, |feed| feed.fanout.fail(error));
    }

    /// Ends the feeds that `which` says: later watches open new ones.
    fn end(&self, which: impl Fn(&Feed) -> bool, how: impl Fn(&Feed)) {
        let mut state = lock(&self.state);
        let all = state.feeds.values();
        // Dropped after the lock: the last of a feed takes it.
        let all: Vec<_> = all.filter_map(|entry| entry.feed.upgrade()).collect();
        for feed in all.iter().filter(|feed| which(feed)) {
            how(feed);
            state.feeds.remove(&feed.scope);
            if let Some(task) = &feed.task {
                task.0.abort();
            }
        }
        state.rest();
        drop(state);
    }
}

impl State {
    /// Ends what has nobody left to serve.
    fn rest(&mut self) {
        if self.feeds.is_empty() {
            self.probe = None;
        }
        if !self.feeds.values().any(|entry| entry.swept) {
            self.sweep = None;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = lock(&self.plane.state);
        // Another feed of the same scope may have taken the place.
        if state
            .feeds
            .get(&self.scope)
            .is_some_and(|entry| entry.feed.strong_count() == 0)
        {
            state.feeds.remove(&self.scope);
        }
        state.rest();
    }
}

/// Follows one service until it cannot, and says why.
async fn follow(
    reader: &Reader,
    datacenter: &Datacenter,
    service: &ServiceName,
    fanout: &Fanout,
) -> Error {
    let follow = async {
        let first = reader.service(datacenter, service).await?;
        let (mut index, mut last) = (first.index, first.value);
        // Of the agent's view: of a service without instances a server says a higher one.
        let mut viewed = 0;
        let mut wait = FIRST_WAIT;
        fanout.replace(last.instances.clone());
        loop {
            let had = !last.instances.is_empty();
            let mut next = reader.next(datacenter, service, index, had, wait).await?;
            not_before(viewed, next.index)?;
            viewed = next.index;
            let quiet = viewed <= index;
            index = viewed;
            if quiet && wait < WAIT {
                wait = (wait * LONGER).min(WAIT);
                next = reader.service(datacenter, service).await?;
                // The view has to come to where the server is.
                index = index.max(next.index);
            }
            next.value.follows(&last)?;
            let news = last.instances != next.value.instances;
            last = next.value;
            if !news {
                fanout.confirm();
                // It may have come at once, from something that does not wait; or others move the index, and whoever
                // asks again at once is as busy as they are.
                sleep(IDLE_PACE).await;
                continue;
            }
            fanout.replace(last.instances.clone());
            // A large service that changes all the time does not take all of the time.
            sleep(PER_INSTANCE * u32::try_from(last.instances.len()).unwrap_or(u32::MAX)).await;
        }
    };
    let result: Result<std::convert::Infallible> = follow.await;
    match result {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Asks for the leader as long as there are watches: the agent's own view answers them also when every server is dead.
async fn probe(plane: Weak<Plane>) {
    loop {
        sleep(PROBE).await;
        let Some((reader, datacenter)) = plane
            .upgrade()
            .map(|plane| (plane.reader.clone(), plane.datacenter.clone()))
        else {
            return;
        };
        let Err(error) = reader.leader(&datacenter, PROBE).await else {
            continue;
        };
        // This ends the probe too; the next watch starts another one.
        if let Some(plane) = plane.upgrade() {
            plane.end(|_| true, |feed| feed.fanout.fail(&error));
        }
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Whether the sweep reads it for the first time.
    pub(crate) fn is_new(&self) -> bool {
        !self.read.swap(true, Ordering::Relaxed)
    }
}
