//! Lines for people: when, what, who, and how long it took.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use registry_plugins::{Freshness, Instance, InstanceId, Snapshot, View};
use tokio::time::Instant;

use crate::client::{Reply, Unanswered};

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

    /// How a call went: whom it met, and who answered.
    pub fn call(&self, what: &str, result: &Result<Reply, Unanswered>) {
        match result {
            Ok(reply) => {
                for attempt in &reply.retried {
                    let detail = format_args!("{attempt}: tried elsewhere");
                    self.event(what, &attempt.who.id, detail);
                }
                let detail = format_args!("{:?} in {}", reply.text, span(reply.took));
                self.event(what, &reply.by.id, detail);
            }
            Err(unanswered) => self.event(what, "nobody", unanswered),
        }
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

/// Tells what a registry says of a service: who comes, changes and goes, and when it falls silent itself.
#[derive(Debug)]
pub struct Narrator {
    console: Console,
    known: BTreeMap<InstanceId, Arc<Instance>>,
    fresh: bool,
}

impl Narrator {
    /// A narrator who knows nothing yet.
    pub const fn new(console: Console) -> Self {
        Self {
            console,
            known: BTreeMap::new(),
            fresh: true,
        }
    }

    /// Tells what happens until `holds`, of which it has then told. Dropping the future loses nothing.
    pub async fn tell_until(&mut self, view: &View, holds: impl Fn(&Snapshot) -> bool + Send) {
        let mut moved = view.moved();
        loop {
            let now = view.snapshot();
            self.tell(&now);
            if holds(&now) || moved.changed().await.is_err() {
                return;
            }
        }
    }

    fn tell(&mut self, now: &Snapshot) {
        let console = self.console;
        let here: BTreeMap<_, _> = now
            .instances
            .iter()
            .map(|instance| (instance.id.clone(), instance.clone()))
            .collect();
        for id in self.known.keys().filter(|id| !here.contains_key(*id)) {
            console.event("gone", id, "left the registry");
        }
        for (id, instance) in &here {
            match self.known.get(id) {
                None => {
                    let detail = format_args!("at {}, {}", instance.address, instance.status);
                    console.event("found", id, detail);
                }
                Some(known) if known.status != instance.status => {
                    let detail = format_args!("from {} to {}", known.status, instance.status);
                    console.event("changed", id, detail);
                }
                Some(_) => {}
            }
        }
        self.known = here;
        match &now.freshness {
            Freshness::Stale { reason, .. } if self.fresh => {
                console.event(
                    "stale",
                    "registry",
                    format_args!("{reason}; serving what it said last"),
                );
            }
            Freshness::Fresh if !self.fresh => {
                console.event("fresh", "registry", "it answers again");
            }
            _ => {}
        }
        self.fresh = now.freshness.is_fresh();
    }
}
