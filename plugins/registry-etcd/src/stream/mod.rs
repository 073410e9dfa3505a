//! Watches, all on one stream.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Error as EtcdError, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse,
};
use registry_core::{Error, ErrorKind, Fanout, Instance, InstanceKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{Connection, Link};
use crate::codec::{Codec, Range};
use crate::error::{self, Remedy};
use crate::list::LARGEST;

/// A stream that was silent for this long is asked for its progress …
const SILENCE: Duration = Duration::from_secs(5);
/// … and taken for dead when that is not answered within this.
const PATIENCE: Duration = Duration::from_secs(4);

/// The watch streams: one, and for a while another one after the connection was replaced.
pub(crate) struct Streams {
    connection: Arc<Connection>,
    codec: Arc<Codec>,
    losses: watch::Sender<u64>,
    ids: AtomicI64,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Of the connection that it is on.
    serial: u64,
    commands: Option<mpsc::UnboundedSender<Command>>,
    /// They end with the registry.
    tasks: JoinSet<()>,
}

enum Command {
    Open(Open),
    Cancel(i64),
}

struct Open {
    id: i64,
    range: Range,
    start: i64,
    sink: Sink,
}

/// Where the events of one watch go.
enum Sink {
    Feed(Arc<Fanout>),
    /// Whether it still watches.
    Guard(Arc<AtomicBool>),
}

/// A watch at the server; dropping it cancels the watch.
#[derive(Debug)]
pub(crate) struct Handle {
    id: i64,
    commands: mpsc::UnboundedSender<Command>,
}

/// A watch of one key's deletion.
#[derive(Debug)]
pub(crate) struct Guard {
    alive: Arc<AtomicBool>,
    _handle: Handle,
}

impl Guard {
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A stream that has ended has no watches left.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

impl Streams {
    pub(crate) fn new(
        connection: Arc<Connection>,
        codec: Arc<Codec>,
        losses: watch::Sender<u64>,
    ) -> Self {
        Self {
            connection,
            codec,
            losses,
            ids: AtomicI64::new(1),
            current: Mutex::default(),
        }
    }

    /// Feeds what happens in a range from this revision on.
    pub(crate) fn feed(&self, link: &Link, range: Range, start: i64, to: Arc<Fanout>) -> Handle {
        self.open(link, range, start, Sink::Feed(to))
    }

    /// Tells `losses` when a key is deleted at this revision or later, and when that cannot be told any more.
    pub(crate) fn guard(&self, link: &Link, key: Vec<u8>, start: i64) -> Guard {
        let alive = Arc::new(AtomicBool::new(true));
        let end = [&*key, &[0]].concat();
        let range = Range { start: key, end };
        Guard {
            _handle: self.open(link, range, start, Sink::Guard(alive.clone())),
            alive,
        }
    }

    /// Ends all streams, and with them all watches at the server.
    pub(crate) fn close(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Current::default();
    }

    fn open(&self, link: &Link, range: Range, start: i64, sink: Sink) -> Handle {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let mut open = Command::Open(Open {
            id,
            range,
            start,
            sink,
        });
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = current
            .commands
            .clone()
            .filter(|_| current.serial == link.serial)
        {
            match commands.send(open) {
                Ok(()) => return Handle { id, commands },
                Err(refused) => open = refused.0,
            }
        }
        let (commands, inbox) = mpsc::unbounded_channel();
        // The other end is here.
        let _ = commands.send(open);
        let task = Task {
            link: link.clone(),
            connection: self.connection.clone(),
            codec: self.codec.clone(),
            losses: self.losses.clone(),
            watches: HashMap::new(),
            sent: VecDeque::new(),
            queue: VecDeque::new(),
            floor: 0,
        };
        while current.tasks.try_join_next().is_some() {}
        current.tasks.spawn(task.run(inbox));
        if link.serial >= current.serial {
            current.serial = link.serial;
            current.commands = Some(commands.clone());
        }
        Handle { id, commands }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// One stream.
struct Task {
    link: Link,
    connection: Arc<Connection>,
    codec: Arc<Codec>,
    losses: watch::Sender<u64>,
    watches: HashMap<i64, Watch>,
    /// Watches that were asked for, in the order of the answers: the refusal of a watch does not name it.
    sent: VecDeque<i64>,
    /// What is to be sent: to wait for room while nothing is received could be to wait for ever.
    queue: VecDeque<Request>,
    /// The server was at this revision.
    floor: i64,
}

struct Watch {
    start: i64,
    sink: Sink,
    /// Fragments of one answer, until the last one is there.
    changes: Vec<(InstanceKey, Option<Arc<Instance>>)>,
}

enum Request {
    Watch(i64, Range, WatchOptions),
    Cancel(i64),
    Progress,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let error = self.serve(&mut commands).await;
        commands.close();
        while let Ok(command) = commands.try_recv() {
            self.obey(command);
        }
        let mut guarded = false;
        for (_, watch) in self.watches.drain() {
            guarded |= matches!(watch.sink, Sink::Guard(_));
            end(&watch.sink, &error);
        }
        if guarded {
            self.losses.send_modify(|losses| *losses += 1);
        }
    }

    /// Serves until nobody needs it, or it fails.
    async fn serve(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Error {
        let ended = || error::lost("the stream of changes ended");
        let first = loop {
            match self.queue.pop_front() {
                Some(Request::Watch(id, range, options)) => break (id, range, options),
                Some(_) => {}
                None => match commands.recv().await {
                    Some(command) => self.obey(command),
                    None => return ended(),
                },
            }
        };
        let (id, range, options) = first;
        let client = self.link.client.watch_client();
        let mut client = client.max_decoding_message_size(LARGEST);
        let opening = client.watch(range.start, Some(options));
        let stream = match timeout(self.connection.config().timeout, opening).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.failed(error).await,
            Err(_) => return self.silent(),
        };
        self.sent.push_back(id);
        let (mut requests, mut answers) = stream.split();
        let (mut needed, mut asked) = (true, false);
        let mut silent = Instant::now() + SILENCE;
        loop {
            if !needed && self.watches.is_empty() {
                return ended();
            }
            tokio::select! {
                answer = answers.message() => {
                    let answer = match answer {
                        Ok(Some(answer)) => answer,
                        Ok(None) => return self.left(ended()),
                        Err(error) => return self.failed(error).await,
                    };
                    (silent, asked) = (Instant::now() + SILENCE, false);
                    if let Err(error) = self.hear(&answer) {
                        return error;
                    }
                    if let Some(remedy) = self.stale(&answer) {
                        // Watches that are open go on; new ones need a stream with a new token.
                        let authenticated = self.connection.authenticate(remedy, &self.link);
                        if let Err((_, error)) = authenticated.await {
                            return error;
                        }
                        commands.close();
                    }
                }
                command = commands.recv(), if needed => match command {
                    Some(command) => self.obey(command),
                    None => needed = false,
                },
                sent = send(&mut requests, self.queue.front()), if !self.queue.is_empty() => {
                    if let Err(error) = sent {
                        return self.failed(error).await;
                    }
                    if let Some(Request::Watch(id, ..)) = self.queue.pop_front() {
                        self.sent.push_back(id);
                    }
                }
                () = sleep_until(silent), if !self.watches.is_empty() => {
                    if asked {
                        return self.silent();
                    }
                    (silent, asked) = (Instant::now() + PATIENCE, true);
                    self.queue.push_back(Request::Progress);
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(open) => {
                let mut options = WatchOptions::new()
                    .with_range(open.range.end.clone())
                    .with_start_revision(open.start)
                    .with_watch_id(open.id)
                    .with_fragment();
                if matches!(open.sink, Sink::Guard(_)) {
                    options = options.with_filters([WatchFilterType::NoPut]);
                }
                let watch = Watch {
                    start: open.start,
                    sink: open.sink,
                    changes: Vec::new(),
                };
                self.watches.insert(open.id, watch);
                let request = Request::Watch(open.id, open.range, options);
                self.queue.push_back(request);
            }
            Command::Cancel(id) => {
                self.watches.remove(&id);
                let queued = |request: &Request| matches!(request, Request::Watch(other, ..) if *other == id);
                match self.queue.iter().position(queued) {
                    Some(place) => drop(self.queue.remove(place)),
                    None => self.queue.push_back(Request::Cancel(id)),
                }
            }
        }
    }

    /// Takes in an answer. An error ends the stream.
    fn hear(&mut self, answer: &WatchResponse) -> Result<(), Error> {
        let revision = answer.header().map_or(0, |header| header.revision());
        let mut id = answer.watch_id();
        if answer.created() {
            id = self.sent.pop_front().unwrap_or(id);
            if let Some(watch) = self.watches.get(&id).filter(|_| !answer.canceled()) {
                // A server that has less than what the snapshot held has lost data, and would stay silent until it has
                // as much again.
                if revision + 1 < watch.start {
                    return Err(error::lost(
                        "etcd's revision went back: it lost data, or lags",
                    ));
                }
                self.floor = self.floor.max(watch.start - 1);
            }
        }
        if answer.canceled() {
            if let Some(watch) = self.watches.remove(&id) {
                end(
                    &watch.sink,
                    &cancelled(answer, self.stale(answer).is_some()),
                );
            }
        } else if !answer.events().is_empty() {
            self.apply(id, answer);
        } else if !answer.created() {
            if revision < self.floor {
                return Err(error::lost("etcd's revision went back: it lost data"));
            }
            for watch in self.watches.values() {
                if let Sink::Feed(fanout) = &watch.sink {
                    fanout.confirm();
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, id: i64, answer: &WatchResponse) {
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        let mut deleted = false;
        let records = answer.events().iter().filter_map(|event| event.kv());
        // A watch from a revision that was not there yet may tell of older ones too.
        for record in records.filter(|record| record.mod_revision() >= watch.start) {
            self.floor = self.floor.max(record.mod_revision());
            // `Event::event_type` panics where it does not know a type; a record without a version was deleted.
            let gone = record.version() == 0;
            deleted |= gone;
            if let Sink::Feed(_) = watch.sink {
                let now = if gone {
                    None
                } else {
                    self.codec.decode(record)
                };
                let owner = self.codec.owner(record.key());
                watch.changes.extend(owner.map(|owner| (owner, now)));
            }
        }
        // Fragments belong to one answer, and are told together.
        if answer.0.fragment {
            return;
        }
        match &watch.sink {
            Sink::Feed(fanout) => fanout.apply(std::mem::take(&mut watch.changes)),
            Sink::Guard(_) if deleted => self.losses.send_modify(|losses| *losses += 1),
            Sink::Guard(_) => {}
        }
    }

    /// What helps, where the stream's token is no longer good for new watches.
    fn stale(&self, answer: &WatchResponse) -> Option<Remedy> {
        let refusal = error::refusal(answer.cancel_reason()).filter(|_| answer.canceled());
        refusal
            .map(|(remedy, _)| remedy)
            .filter(|remedy| self.connection.can_authenticate(*remedy))
    }

    async fn failed(&self, error: EtcdError) -> Error {
        match error::read(error, &self.link.endpoint) {
            (remedy, error) if self.connection.can_authenticate(remedy) => {
                match self.connection.authenticate(remedy, &self.link).await {
                    Ok(()) => error::lost("etcd wanted the user anew; watch again"),
                    Err(_) => error,
                }
            }
            (Remedy::Rotate, error) => self.left(error),
            (_, error) => error,
        }
    }

    fn silent(&self) -> Error {
        self.left(error::unavailable(
            "etcd's stream of changes fell silent",
            &self.link.endpoint,
        ))
    }

    fn left(&self, error: Error) -> Error {
        self.connection.discard(&self.link);
        error
    }
}

fn end(sink: &Sink, error: &Error) {
    match sink {
        Sink::Feed(fanout) => fanout.fail(error),
        Sink::Guard(alive) => alive.store(false, Ordering::Relaxed),
    }
}

/// Why the server gave up a watch. It gives no reason where the history was cut off. A `stale` stream is the reason of
/// its own; the next one is better.
fn cancelled(answer: &WatchResponse, stale: bool) -> Error {
    let reason = answer.cancel_reason();
    if answer.compact_revision() > 0 {
        return error::lost("etcd compacted changes that were not read yet");
    }
    match error::refusal(reason) {
        Some((remedy, error)) if !stale && remedy != Remedy::Reauthenticate => error,
        _ => Error::new(ErrorKind::Lost, format!("etcd cancelled a watch: {reason}")),
    }
}

async fn send(
    requests: &mut WatchRequestSender,
    request: Option<&Request>,
) -> Result<(), EtcdError> {
    match request {
        Some(Request::Watch(_, range, options)) => {
            let options = options.clone();
            requests.watch(range.start.clone(), Some(options)).await
        }
        Some(Request::Cancel(id)) => requests.cancel(*id).await,
        Some(Request::Progress) => requests.request_progress().await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
