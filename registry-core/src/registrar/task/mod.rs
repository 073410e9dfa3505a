//! The one task that talks to the registry for all registrations.

mod outcome;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::RegistrarConfig;
use super::entry::{Caller, Entry, Waiting};
use super::handle::RegistrationHandle;
use crate::backoff::{Gate, Pass, Passage};
use crate::capability::{Capability, TtlScope};
use crate::error::{Error, ErrorKind, Result};
use crate::health::{self, Report};
use crate::instance::{InstanceBuilder, InstanceKey};
use crate::registration::{Held, Registered, Registration, Renewal};
use crate::registry::Registry;
use crate::telemetry;
use crate::time::{NEVER, after, caught, within};

/// Most registrations and deregistrations on their way at once.
const CONCURRENT: usize = 128;
/// Shortest time between two reports of loss by the plugin that are acted upon.
const LOSS_PAUSE: Duration = Duration::from_secs(1);
/// Most renewals in one call, whose time is limited as that of any other.
const RENEWED_AT_ONCE: usize = 256;
/// What is added to the window of a dead owner: registries round TTLs up.
const ROUNDING: Duration = Duration::from_secs(2);
/// The longest time that a dead owner is waited for, however long its TTL may be.
const LONGEST_PATIENCE: Duration = Duration::from_secs(120);

pub(super) type Edit = Box<dyn FnOnce(InstanceBuilder) -> InstanceBuilder + Send>;

/// A registration that somebody asks for.
pub(super) struct Request {
    pub(super) registration: Arc<Registration>,
    /// From here on the caller does not wait any more.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<RegistrationHandle>>,
}

pub(super) enum Command {
    Register(Request),
    Update {
        key: InstanceKey,
        serial: u64,
        edit: Edit,
        reply: oneshot::Sender<Result<()>>,
    },
    Deregister {
        key: InstanceKey,
        serial: u64,
        reply: oneshot::Sender<Result<()>>,
    },
    Abandon {
        key: InstanceKey,
        serial: u64,
    },
    /// What the program says of itself.
    Report {
        key: InstanceKey,
        serial: u64,
        report: Report,
    },
    /// Its checks have begun to fail, or pass again.
    Judge {
        key: InstanceKey,
        serial: u64,
    },
    Close {
        deadline: Instant,
        reply: oneshot::Sender<Result<()>>,
    },
}

/// How a call to the registry ended.
enum Done {
    Registered(InstanceKey, Arc<Registration>, Result<Registered>, Losses),
    Deregistered(InstanceKey, Result<()>),
    Renewed(Vec<Held>, Vec<Result<Renewal>>, Losses),
}

/// How many reports of loss had come when a call began: what it says is older than those that came since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Losses(u64);

pub(super) struct Task {
    registry: Arc<dyn Registry>,
    config: RegistrarConfig,
    /// For new handles. Weak, so that the task ends with the last registrar and handle.
    commands: mpsc::WeakUnboundedSender<Command>,
    entries: HashMap<InstanceKey, Entry>,
    serial: u64,
    gate: Arc<Gate>,
    /// The last error that may have closed the gate.
    away: Option<Error>,
    running: JoinSet<Done>,
    renewing: bool,
    losses: Losses,
    listen_after: Instant,
    closing: Option<(Instant, Vec<oneshot::Sender<Result<()>>>)>,
}

impl Task {
    pub(super) fn new(
        registry: Arc<dyn Registry>,
        config: RegistrarConfig,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        Self {
            registry,
            config,
            commands,
            entries: HashMap::new(),
            serial: 0,
            gate: Arc::default(),
            away: None,
            running: JoinSet::new(),
            renewing: false,
            losses: Losses::default(),
            listen_after: Instant::now(),
            closing: None,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut open = true;
        loop {
            let wake = self.start_due();
            if self.is_finished() {
                break;
            }
            let listening = self.listen_after <= Instant::now() && !self.entries.is_empty();
            let wake = if listening || self.entries.is_empty() {
                wake
            } else {
                wake.min(self.listen_after)
            };
            tokio::select! {
                command = inbox.recv(), if open => match command {
                    Some(command) => self.obey(command),
                    None => {
                        open = false;
                        self.close(after(self.config.drop_timeout), None);
                    }
                },
                Some(Ok(done)) = self.running.join_next() => self.note(done),
                lost = lost(&*self.registry), if listening => self.heed_loss(&lost),
                () = sleep_until(wake) => {}
            }
        }
        if let Some((_, replies)) = self.closing {
            let left = self.entries.len();
            for reply in replies {
                let result = if left == 0 {
                    Ok(())
                } else {
                    Err(not_taken_back(left))
                };
                let _ = reply.send(result);
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.closing
            .as_ref()
            .is_some_and(|(deadline, _)| self.entries.is_empty() || *deadline <= Instant::now())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Register(request) => self.register(request),
            Command::Update {
                key,
                serial,
                edit,
                reply,
            } => match self.entry(&key, serial) {
                Some(entry) if entry.leaving.is_none() => entry.update(edit, reply),
                _ => drop(reply.send(Err(closed("the registration was taken back")))),
            },
            Command::Deregister { key, serial, reply } => match self.entry(&key, serial) {
                Some(entry) => entry.leave(Some(reply)),
                None => drop(reply.send(Ok(()))),
            },
            Command::Abandon { key, serial } => {
                if let Some(entry) = self.entry(&key, serial) {
                    entry.leave(None);
                }
            }
            Command::Report {
                key,
                serial,
                report,
            } => {
                if let Some(entry) = self.entry(&key, serial) {
                    entry.report(report);
                }
            }
            Command::Judge { key, serial } => {
                if let Some(entry) = self.entry(&key, serial) {
                    entry.judge();
                }
            }
            Command::Close { deadline, reply } => self.close(deadline, Some(reply)),
        }
    }

    fn register(&mut self, request: Request) {
        if self.closing.is_some() {
            let _ = request.reply.send(Err(closed("the registrar was closed")));
            return;
        }
        let key = request.registration.key();
        let Some(entry) = self.entries.get_mut(&key) else {
            return self.begin(key, request);
        };
        if entry.is_abandoned() {
            entry.leave(None);
        }
        if entry.leaving.is_none()
            || entry
                .successor
                .as_ref()
                .is_some_and(|request| !request.reply.is_closed())
        {
            let why =
                "this registrar holds the id already; update its handle, or choose another id";
            let error = Error::new(ErrorKind::Conflict, why).with("instance", key);
            let _ = request.reply.send(Err(error));
            return;
        }
        entry.successor = Some(request);
        // Registering replaces what the last one left: there is nothing to wait for but a call on its way.
        if !entry.busy {
            self.forget(&key);
        }
    }

    fn begin(&mut self, key: InstanceKey, request: Request) {
        // Nobody is left to hold the handle.
        let Some(commands) = self.commands.upgrade() else {
            return;
        };
        let capability = self.registry.capability();
        let Request {
            registration,
            until,
            reply,
        } = request;
        let taken = health::take(&registration, &capability, self.config.command_checks);
        let (registration, checks) = match taken {
            Ok((registration, checks)) => (Arc::new(registration), checks),
            Err(error) => return drop(reply.send(Err(error))),
        };
        self.serial += 1;
        let patience = dead_owner(&capability, &registration);
        let mut entry = Entry::new(self.serial, registration, until, patience);
        if !checks.is_empty() {
            entry.check(checks, self.commands.clone());
        }
        let visible = capability.windows.visible;
        let handle = RegistrationHandle::new(
            key.clone(),
            self.serial,
            entry.readiness(),
            commands,
            visible,
        );
        let wants = entry.desired.clone();
        entry.waiting.push(Waiting {
            wants,
            caller: Caller::Register(reply, handle),
        });
        self.entries.insert(key, entry);
    }

    fn close(&mut self, deadline: Instant, reply: Option<oneshot::Sender<Result<()>>>) {
        for entry in self.entries.values_mut() {
            if let Some(request) = entry.successor.take() {
                let _ = request.reply.send(Err(closed("the registrar was closed")));
            }
            entry.leave(None);
        }
        let (earliest, replies) = self.closing.get_or_insert((deadline, Vec::new()));
        *earliest = deadline.min(*earliest);
        replies.extend(reply);
    }

    fn entry(&mut self, key: &InstanceKey, serial: u64) -> Option<&mut Entry> {
        self.entries
            .get_mut(key)
            .filter(|entry| entry.serial == serial)
    }

    /// Starts the calls that are due, and says when to look again.
    fn start_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + NEVER;
        for entry in self.entries.values_mut() {
            match entry.judge_at {
                Some(at) if at <= now => entry.judge(),
                Some(at) => wake = wake.min(at),
                None => {}
            }
        }
        let mut renewals: Option<Duration> = None;
        let (mut urgent, mut calls) = (Vec::new(), Vec::new());
        for (key, entry) in &self.entries {
            if entry.busy {
                continue;
            }
            let renewal = entry.leaving.is_none() && entry.is_published();
            if entry.due > now {
                wake = wake.min(entry.due);
            } else if renewal {
                let period = entry.period(self.config.verify_interval);
                renewals = Some(renewals.map_or(period, |shortest| shortest.min(period)));
            } else if entry.is_awaited() || self.closing.is_some() {
                urgent.push(key.clone());
            } else {
                calls.push(key.clone());
            }
        }
        if let Some((deadline, _)) = &self.closing {
            wake = wake.min(*deadline);
        }
        // Renewals first: what is registered must not lapse because something else cannot be.
        if let Some(shortest) = renewals.filter(|_| !self.renewing) {
            match self.gate.ask(shortest) {
                Passage::Go(pass) => self.start_renewal(now, pass),
                Passage::At(later) => wake = wake.min(later),
            }
        }
        for key in urgent.into_iter().chain(calls) {
            if self.running.len() >= CONCURRENT {
                break;
            }
            if let Err(later) = self.start_call(key) {
                wake = wake.min(later);
            }
        }
        wake
    }

    /// Starts what one entry needs; an error says when to ask the gate again.
    fn start_call(&mut self, key: InstanceKey) -> Result<(), Instant> {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Ok(());
        };
        let awaited = entry.is_awaited() || self.closing.is_some();
        let pass = match self.gate.ask(NEVER) {
            Passage::Go(pass) => pass,
            _ if awaited => self.gate.pass_anyway(),
            Passage::At(later) => {
                // Whoever waits for an attempt would wait for the end of the outage.
                entry.put_off(self.away.as_ref());
                return Err(later);
            }
        };
        if entry.is_abandoned() {
            entry.leave(None);
        }
        entry.busy = true;
        let losses = self.losses;
        let (registry, limit) = (self.registry.clone(), self.config.attempt_timeout);
        if entry.leaving.is_some() {
            let span = tracing::debug_span!("deregister", instance = %key);
            let leaving = async move {
                let result = attempt("deregister", limit, registry.deregister(&key)).await;
                pass.settle(&result);
                Done::Deregistered(key, result)
            };
            self.running.spawn(leaving.instrument(span));
        } else {
            let desired = entry.desired.clone();
            let span = tracing::debug_span!("register", instance = %key);
            let registering = async move {
                let result = attempt("register", limit, registry.register(&desired)).await;
                pass.settle(&result);
                Done::Registered(key, desired, result, losses)
            };
            self.running.spawn(registering.instrument(span));
        }
        Ok(())
    }

    /// Renews what is due and what will be soon, in one call; of very many those that are due first.
    fn start_renewal(&mut self, now: Instant, pass: Pass) {
        let soon = |held: &Held| held.registered.ttl.unwrap_or(self.config.verify_interval) / 12;
        let mut due: Vec<_> = self
            .entries
            .values()
            .filter(|entry| !entry.busy && entry.leaving.is_none() && entry.is_published())
            .filter_map(|entry| {
                let held = entry.held.as_ref();
                let held = held.filter(|held| entry.due <= now + soon(held))?;
                Some((entry.due, held))
            })
            .collect();
        due.sort_unstable_by_key(|(due, _)| *due);
        let held: Vec<_> = due
            .into_iter()
            .take(RENEWED_AT_ONCE)
            .map(|(_, held)| held.clone())
            .collect();
        self.renewing = true;
        let losses = self.losses;
        let (registry, limit) = (self.registry.clone(), self.config.attempt_timeout);
        let span = tracing::debug_span!("renew", instances = held.len());
        let renewing = async move {
            let begin = Instant::now();
            let results = match within(limit, async { Ok(registry.renew(&held).await) }).await {
                Ok(results) if results.len() == held.len() => results,
                Ok(_) => {
                    let why = "the plugin left renewals unanswered";
                    vec![Err(Error::new(ErrorKind::Protocol, why)); held.len()]
                }
                Err(error) => vec![Err(error); held.len()],
            };
            let answered = results
                .iter()
                .find(|result| result.is_ok())
                .or(results.first());
            if let Some(result) = answered {
                telemetry::attempt("renew", begin, result);
                pass.settle(result);
            }
            Done::Renewed(held, results, losses)
        };
        self.running.spawn(renewing.instrument(span));
    }

    /// The plugin says that something may be lost: renew everything now.
    fn heed_loss(&mut self, lost: &Result<()>) {
        let now = Instant::now();
        if let Err(error) = lost {
            tracing::warn!(%error, "the plugin cannot tell what it lost");
            self.listen_after = now + NEVER;
            return;
        }
        self.listen_after = now + LOSS_PAUSE;
        self.losses.0 += 1;
        for entry in self.entries.values_mut() {
            entry.due = entry.due.min(now);
        }
    }
}

/// The outcome of a call to the registry, which is told.
async fn attempt<T>(
    operation: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let begin = Instant::now();
    let result = within(limit, call).await;
    telemetry::attempt(operation, begin, &result);
    result
}

async fn lost(registry: &dyn Registry) -> Result<()> {
    caught(async {
        registry.lost().await;
        Ok(())
    })
    .await
}

/// How long a registry may take somebody for the owner of an id who is dead, such as this program before a restart.
fn dead_owner(capability: &Capability, registration: &Registration) -> Duration {
    let lapses = capability.conflicts && capability.ttl != TtlScope::Fixed;
    let Some(window) = capability.windows.crash.filter(|_| lapses) else {
        return Duration::ZERO;
    };
    let ttl = match capability.ttl {
        TtlScope::Registration => registration.ttl.max(capability.default_ttl),
        _ => capability.default_ttl,
    };
    window
        .at(ttl)
        .saturating_add(ROUNDING)
        .min(LONGEST_PATIENCE)
}

pub(super) fn closed(what: &str) -> Error {
    Error::new(ErrorKind::Closed, what)
}

fn not_taken_back(left: usize) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "{left} registrations could not be taken back in time; they lapse as after a crash"
        ),
    )
}
