//! Follows what is below a path.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use registry_core::{Error, ErrorKind, Fanout, Instance, InstanceKey, Result, Scope};
use tokio::time::timeout;
use zookeeper_client as zk;

use crate::client::{Conn, PATIENCE};
use crate::error;
use crate::pipeline::{WINDOW, pipeline_raw};
use crate::read::{Reader, absent};

/// Turns the events of one recursive watch into what a [`Fanout`] holds.
///
/// An event names a node and not what it says, so each one leads to a read. There is at most one read of a node on its
/// way: what happens to the node meanwhile leads to one more after it, so that no older state follows a newer one and
/// whatever the server does costs one entry for a node.
pub(crate) struct Follower {
    conn: Arc<Conn>,
    reader: Arc<Reader>,
    scope: Scope,
    fanout: Arc<Fanout>,
    /// The nodes that are to be read, in order.
    due: VecDeque<String>,
    /// The reads that are on their way. The server answers in this order.
    reads: VecDeque<(String, Read)>,
    states: HashMap<String, State>,
    known: HashMap<String, Arc<Instance>>,
    /// Whether a record was seen that does not stand where its id belongs, as Curator's sequential ones.
    displaced: bool,
    started: bool,
}

type Answer = Result<(Vec<u8>, zk::Stat), zk::Error>;
type Read = Pin<Box<dyn Future<Output = Answer> + Send>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Reading,
    /// Something happened to it while it was being read.
    Stale,
}

impl Follower {
    pub(crate) fn new(
        conn: Arc<Conn>,
        reader: Arc<Reader>,
        scope: Scope,
        fanout: Arc<Fanout>,
    ) -> Self {
        Self {
            conn,
            reader,
            scope,
            fanout,
            due: VecDeque::new(),
            reads: VecDeque::new(),
            states: HashMap::new(),
            known: HashMap::new(),
            displaced: false,
            started: false,
        }
    }

    /// Follows until nobody can promise any more that nothing was missed, and says why.
    pub(crate) async fn run(mut self) -> Error {
        let error = match self.follow().await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match error.kind() {
            // Before the first snapshot there was nothing to lose: the server is away.
            ErrorKind::Unavailable | ErrorKind::Throttled if self.started => {
                error::lost("the watch was cut; what happened meanwhile is not known")
                    .because(error)
            }
            _ => error,
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible> {
        let mut events = self.open().await?;
        let conn = self.conn.clone();
        loop {
            self.send();
            if self.reads.is_empty() && !self.started {
                self.started = true;
                let known = self.known.values();
                self.fanout
                    .replace(known.filter_map(|known| self.owner(&known.key())).collect());
            }
            tokio::select! {
                biased;
                error = conn.ended() => return Err(error),
                event = events.changed() => self.note(event)?,
                answer = front(&mut self.reads), if !self.reads.is_empty() => self.done(answer?)?,
            }
        }
    }

    /// Sets the watch, and only then lists what is there: what changes from here on is an event.
    async fn open(&mut self) -> Result<zk::PersistentWatcher> {
        let (conn, reader) = (self.conn.clone(), self.reader.clone());
        let root = reader.places.scope(&self.scope);
        let client = &conn.client;
        let synced = client.sync(&root);
        let watch = client.watch(&root, zk::AddWatchMode::PersistentRecursive);
        let list = client.list_children(&root);
        conn.call("asking for the latest state", synced).await?;
        let events = conn.call("watching the registry", watch).await?;
        let what = "listing the registry";
        let names = conn
            .attempt(what, list)
            .await?
            .or_else(|error| absent(what, error))?;
        let paths = names.iter().map(|name| format!("{root}/{name}"));
        if matches!(self.scope, Scope::Service(_)) {
            paths.for_each(|path| self.want(path));
            return Ok(events);
        }
        let parents: Vec<_> = paths.collect();
        let lists = parents.iter().map(|parent| client.list_children(parent));
        let lists = pipeline_raw(&conn, what, lists).await;
        for (parent, list) in parents.iter().zip(lists) {
            let nodes = match list? {
                // One service that may not be read hides no other.
                Err(zk::Error::NoAuth) => Vec::new(),
                list => list.or_else(|error| absent(what, error))?,
            };
            nodes
                .iter()
                .for_each(|node| self.want(format!("{parent}/{node}")));
        }
        Ok(events)
    }

    /// Sends as many of the reads that are due as may be on their way.
    fn send(&mut self) {
        while self.reads.len() < WINDOW {
            let Some(path) = self.due.pop_front() else {
                return;
            };
            let read = Box::pin(self.conn.client.get_data(&path));
            self.states.insert(path.clone(), State::Reading);
            self.reads.push_back((path, read));
        }
    }

    fn want(&mut self, path: String) {
        match self.states.get_mut(&path) {
            Some(state @ State::Reading) => *state = State::Stale,
            Some(State::Due | State::Stale) => {}
            None => {
                self.states.insert(path.clone(), State::Due);
                self.due.push_back(path);
            }
        }
    }

    fn note(&mut self, event: zk::WatchedEvent) -> Result<()> {
        if event.event_type == zk::EventType::Session {
            // After some of these the library panics when it is asked for one more.
            return Err(error::call(
                "watching the registry",
                zk::Error::ConnectionLoss,
            ));
        }
        if self.reader.places.split(&event.path).is_none() {
            return Ok(());
        }
        let deleted = event.event_type == zk::EventType::NodeDeleted;
        if deleted && !self.states.contains_key(&event.path) {
            self.tell(event.path, None);
        } else {
            self.want(event.path);
        }
        Ok(())
    }

    fn done(&mut self, (path, answer): (String, Answer)) -> Result<()> {
        let instance = self.reader.answer(&path, answer)?;
        if self.states.remove(&path) == Some(State::Stale) {
            self.want(path.clone());
        }
        self.tell(path, instance);
        Ok(())
    }

    /// The node says this now.
    fn tell(&mut self, path: String, now: Option<Arc<Instance>>) {
        let places = &self.reader.places;
        self.displaced |= now
            .as_ref()
            .is_some_and(|now| places.record(&now.key()) != path);
        let new = now.as_ref().map(|now| now.key());
        let old = match now {
            Some(now) => self.known.insert(path, now),
            None => self.known.remove(&path),
        };
        let old = old
            .map(|old| old.key())
            .filter(|old| Some(old) != new.as_ref());
        if self.started {
            let changes = [old, new].into_iter().flatten();
            let changes: Vec<_> = changes.map(|key| (key.clone(), self.owner(&key))).collect();
            self.fanout.apply(changes);
        }
    }

    /// What the node says that has this key: of several, the one that stands at its place.
    fn owner(&self, key: &InstanceKey) -> Option<Arc<Instance>> {
        let place = self.reader.places.record(key);
        let at_place = self.known.get(&place).filter(|instance| instance.is(key));
        if at_place.is_some() || !self.displaced {
            return at_place.cloned();
        }
        let others = self.known.iter().filter(|(_, instance)| instance.is(key));
        others
            .min_by_key(|(path, _)| *path)
            .map(|(_, instance)| instance.clone())
    }
}

/// The answer to the first read. Dropping the future loses nothing.
async fn front(reads: &mut VecDeque<(String, Read)>) -> Result<(String, Answer)> {
    let what = "reading a record";
    let Some((_, read)) = reads.front_mut() else {
        return std::future::pending().await;
    };
    let answer = timeout(PATIENCE, read)
        .await
        .map_err(|_| error::late(what))?;
    match reads.pop_front() {
        Some((path, _)) => Ok((path, answer)),
        None => std::future::pending().await,
    }
}
