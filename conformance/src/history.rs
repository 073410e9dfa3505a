//! What was done and what was seen, in order.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::{Change, Error, Instance, InstanceKey};
use tokio::time::Instant;

/// The log of one case, shared by all who write to it.
#[derive(Clone, Debug)]
pub(crate) struct History {
    events: Arc<Mutex<Vec<Event>>>,
    start: Instant,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    /// A client, as `client-2`, or one of its watches, as `client-2.watch-1`.
    pub(crate) who: Arc<str>,
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A registration begins: from now on it may be seen.
    Writes(Arc<Instance>),
    /// It was acknowledged.
    Wrote(InstanceKey),
    /// A deregistration begins.
    Removes(InstanceKey),
    /// It was acknowledged: it is final.
    Removed(InstanceKey),
    /// A watch yielded this.
    Saw(Vec<Change>),
    /// A watch yielded an error.
    Ended(Error),
    /// The suite interfered with the server or the wire: laws that hold while nothing is at fault rest.
    Fault(String),
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            events: Arc::default(),
            start: Instant::now(),
        }
    }

    pub(crate) fn note(&self, who: &Arc<str>, what: What) {
        let at = self.start.elapsed();
        let who = who.clone();
        self.lock().push(Event { at, who, what });
    }

    pub(crate) fn fault(&self, what: impl fmt::Display) {
        self.note(&"suite".into(), What::Fault(what.to_string()));
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// The last lines, for the message of a failure.
    pub(crate) fn tail(&self) -> String {
        const LINES: usize = 12;
        let events = self.lock();
        slice(&events[events.len().saturating_sub(LINES)..])
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// These events, a line each.
pub(crate) fn slice<'a>(events: impl IntoIterator<Item = &'a Event>) -> String {
    let lines: Vec<_> = events
        .into_iter()
        .map(|event| format!("  {event}"))
        .collect();
    lines.join("\n")
}

impl Event {
    /// Whether it says something about this instance.
    pub(crate) fn concerns(&self, key: &InstanceKey) -> bool {
        match &self.what {
            What::Writes(instance) => instance.is(key),
            What::Wrote(other) | What::Removes(other) | What::Removed(other) => other == key,
            What::Saw(changes) => changes.iter().any(|change| match change {
                Change::Snapshot(_) => true,
                Change::Upsert(instance) => instance.is(key),
                Change::Remove(other) => other == key,
                Change::Current => false,
            }),
            What::Ended(_) | What::Fault(_) => true,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.3}s {:<18} ", self.at.as_secs_f64(), self.who)?;
        match &self.what {
            What::Writes(instance) => write!(f, "registers {}", Brief(instance)),
            What::Wrote(key) => write!(f, "registered {key}"),
            What::Removes(key) => write!(f, "deregisters {key}"),
            What::Removed(key) => write!(f, "deregistered {key}"),
            What::Saw(changes) => {
                f.write_str("saw")?;
                for (i, change) in changes.iter().enumerate() {
                    if i == 4 {
                        return write!(f, " and {} more", changes.len() - i);
                    }
                    match change {
                        Change::Snapshot(instances) => {
                            write!(f, " snapshot of {}", instances.len())?
                        }
                        Change::Upsert(instance) => write!(f, " upsert {}", Brief(instance))?,
                        Change::Remove(key) => write!(f, " remove {key}")?,
                        Change::Current => f.write_str(" current")?,
                    }
                }
                Ok(())
            }
            What::Ended(error) => write!(f, "ended: {error}"),
            What::Fault(what) => write!(f, "fault: {what}"),
        }
    }
}

/// An instance in a few words.
pub(crate) struct Brief<'a>(pub(crate) &'a Instance);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instance {
            address,
            status,
            weight,
            metadata,
            ..
        } = self.0;
        write!(f, "{} at {address} {status} weight {weight}", self.0.key())?;
        let mut pairs = metadata.iter();
        for (key, value) in pairs.by_ref().take(3) {
            write!(f, " {key}={value:.24}")?;
        }
        if pairs.len() > 0 {
            write!(f, " and {} pairs more", pairs.len())?;
        }
        Ok(())
    }
}
