//! Lines for people: when, what, who, and how long it took.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use registry_plugins::{Change, Instance, InstanceId, Status};
use tokio::time::Instant;

/// Writes one aligned line for each event, with the time since the program began.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    started: Instant,
    names: usize,
}

impl Console {
    /// A console whose time starts now, with a column for names of this many characters.
    pub fn new(names: usize) -> Self {
        Self {
            started: Instant::now(),
            names,
        }
    }

    /// One event: what happened, to whom, and what there is to say about it.
    pub fn event(&self, what: &str, who: impl fmt::Display, detail: impl fmt::Display) {
        let at = self.started.elapsed().as_secs_f64();
        let names = self.names;
        self.text(format_args!(
            "{at:>7.2} s  {what:<10}  {who:<names$}  {detail}"
        ));
    }

    /// A line of plain text. A terminal that is gone is no reason to fail.
    pub fn text(&self, text: impl fmt::Display) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// The time since the console was made.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A time in a unit that suits it: `0.42 ms`, `17 ms`, `2.31 s`.
pub fn span(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// Tells the changes of one service as they arrive.
#[derive(Debug)]
pub struct Narrator {
    console: Console,
    known: Vec<(InstanceId, Status)>,
}

impl Narrator {
    /// A narrator who knows no instance yet.
    pub const fn new(console: Console) -> Self {
        Self {
            console,
            known: Vec::new(),
        }
    }

    /// Tells what these changes say.
    pub fn tell(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Snapshot(instances) => {
                    let gone = |id: &InstanceId| !instances.iter().any(|here| here.id == *id);
                    let gone: Vec<_> = self.known.extract_if(.., |(id, _)| gone(id)).collect();
                    for (id, _) in gone {
                        self.gone(&id);
                    }
                    for instance in instances {
                        self.here(instance);
                    }
                }
                Change::Upsert(instance) => self.here(instance),
                Change::Remove(key) => {
                    self.known.retain(|(id, _)| *id != key.id);
                    self.gone(&key.id);
                }
                Change::Current => {}
            }
        }
    }

    fn here(&mut self, instance: &Instance) {
        let Instance { id, status, .. } = instance;
        match self.known.iter_mut().find(|(known, _)| known == id) {
            None => {
                let version = instance
                    .version
                    .as_ref()
                    .map_or("-", |label| label.as_str());
                let detail = format!("at {}, version {version}, {status}", instance.address);
                self.console.event("found", id, detail);
                self.known.push((id.clone(), *status));
            }
            Some((_, known)) if known != status => {
                self.console
                    .event("changed", id, format_args!("from {known} to {status}"));
                *known = *status;
            }
            Some(_) => {}
        }
    }

    fn gone(&self, id: &InstanceId) {
        self.console.event("gone", id, "left the registry");
    }
}
