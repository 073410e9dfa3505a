//! What holds for the history of every case, whatever it is about: pure functions of the log.
//!
//! - a watch begins with a snapshot, ends with an error and says nothing after it;
//! - it reports no change that is none, and never an empty list;
//! - it shows only what was registered (no phantom), and never an older state after a newer one; a registry that judges
//!   health may show it with a status of its own;
//! - what was deregistered does not come back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Change, Instance, InstanceKey, Status};

use crate::case::{Failure, Outcome};
use crate::history::{Event, What, slice};

/// Every law that holds for every history, about the services whose names begin with `ours`. `gone` is how long a
/// removal may take to be seen; `judges` is whether the registry gives statuses of its own.
pub(crate) fn hold(events: &[Event], ours: &str, gone: Duration, judges: bool) -> Outcome {
    let mut written = Written {
        ours,
        gone,
        judges,
        ..Written::default()
    };
    let mut watches: HashMap<&str, Watch> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        let watch = || event.who.as_ref();
        match &event.what {
            What::Saw(changes) => {
                let watch = watches.entry(watch()).or_default();
                watch
                    .saw(changes, &written, event.at)
                    .map_err(|broken| broken.told(events, at))?;
            }
            What::Ended(_) => watches.entry(watch()).or_default().ended = true,
            _ => written.note(event),
        }
    }
    Ok(())
}

/// No watch reports one of these as gone, and no snapshot lacks it once the watch has seen it.
pub(crate) fn never_removed(events: &[Event], keys: &[InstanceKey]) -> Outcome {
    always(events, keys, |_| true)
}

/// No watch reports one of these as gone or `Down`, and no snapshot lacks it once the watch has seen it.
pub(crate) fn never_lost(events: &[Event], keys: &[InstanceKey]) -> Outcome {
    always(events, keys, lives)
}

fn always(events: &[Event], keys: &[InstanceKey], stays: fn(&Instance) -> bool) -> Outcome {
    for key in keys {
        let mut seen: HashMap<&str, bool> = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            let What::Saw(changes) = &event.what else {
                continue;
            };
            let seen = seen.entry(&event.who).or_default();
            for change in changes {
                let now = match change {
                    Change::Snapshot(all) => all.iter().any(|other| other.is(key) && stays(other)),
                    Change::Upsert(instance) if instance.is(key) => stays(instance),
                    Change::Upsert(_) => *seen,
                    Change::Remove(gone) => *seen && gone != key,
                    Change::Current => *seen,
                };
                if *seen && !now {
                    let law = "a live instance was reported as gone";
                    return Err(Broken {
                        law,
                        key: Some(key.clone()),
                    }
                    .told(events, at));
                }
                *seen = now;
            }
        }
    }
    Ok(())
}

/// Whether somebody may be sent to it, now or later.
pub(crate) fn lives(instance: &Instance) -> bool {
    instance.status != Status::Down
}

/// What was ever registered.
#[derive(Default)]
struct Written<'a> {
    ours: &'a str,
    gone: Duration,
    judges: bool,
    states: HashMap<InstanceKey, Vec<Arc<Instance>>>,
    /// When the last deregistration was acknowledged, unless something was at fault or registered since.
    removed: HashMap<InstanceKey, Duration>,
}

impl Written<'_> {
    fn note(&mut self, event: &Event) {
        match &event.what {
            What::Writes(instance) => {
                let key = instance.key();
                self.removed.remove(&key);
                let states = self.states.entry(key).or_default();
                if states.last() != Some(instance) {
                    states.push(instance.clone());
                }
            }
            What::Removed(key) => {
                self.removed.insert(key.clone(), event.at);
            }
            What::Fault(_) => self.removed.clear(),
            _ => {}
        }
    }

    /// Whether what was registered may be shown like this.
    fn may_show(&self, state: &Arc<Instance>, shown: &Arc<Instance>) -> bool {
        let judged = self.judges
            && matches!(
                shown.status,
                Status::Down | Status::Warning | Status::Maintenance
            );
        match judged {
            true => {
                let mut state = Instance::clone(state);
                state.status = shown.status;
                state == **shown
            }
            false => state == shown,
        }
    }
}

/// One watch, as far as it has come.
#[derive(Default)]
struct Watch {
    started: bool,
    ended: bool,
    view: BTreeMap<InstanceKey, Arc<Instance>>,
    /// For each instance how far in the sequence of its states the watch is.
    position: HashMap<InstanceKey, usize>,
}

struct Broken {
    law: &'static str,
    key: Option<InstanceKey>,
}

impl Broken {
    const fn of(law: &'static str) -> Self {
        Self { law, key: None }
    }

    /// The shortest slice of the log that shows it: what the same watch saw and what was done, about one instance.
    fn told(self, events: &[Event], at: usize) -> Failure {
        const LINES: usize = 8;
        let who = &events[at].who;
        let about = |event: &&Event| match &self.key {
            Some(key) => event.concerns(key) && (event.who == *who || !is_watch(event)),
            None => event.who == *who,
        };
        let shown: Vec<_> = events[..=at].iter().filter(about).collect();
        let shown = &shown[shown.len().saturating_sub(LINES)..];
        let key = self
            .key
            .as_ref()
            .map_or(String::new(), |key| format!(" ({key})"));
        Failure::new(format!(
            "{}{key}:\n{}",
            self.law,
            slice(shown.iter().copied())
        ))
    }
}

fn is_watch(event: &Event) -> bool {
    matches!(event.what, What::Saw(_) | What::Ended(_))
}

impl Watch {
    fn saw(
        &mut self,
        changes: &[Change],
        written: &Written<'_>,
        now: Duration,
    ) -> Result<(), Broken> {
        if self.ended {
            return Err(Broken::of("a watch yielded an item after its error"));
        }
        if changes.is_empty() {
            return Err(Broken::of("a watch yielded an empty list"));
        }
        if !self.started && !matches!(changes[0], Change::Snapshot(_)) {
            return Err(Broken::of("the first item of a watch is not a snapshot"));
        }
        self.started = true;
        for change in changes {
            let broken = |law, key: &InstanceKey| {
                Err(Broken {
                    law,
                    key: Some(key.clone()),
                })
            };
            match change {
                Change::Snapshot(all) => {
                    self.view.clear();
                    for instance in all {
                        self.check(instance, written, now)?;
                        if self.view.insert(instance.key(), instance.clone()).is_some() {
                            return broken("a snapshot names an instance twice", &instance.key());
                        }
                    }
                }
                Change::Upsert(instance) => {
                    let key = instance.key();
                    if self.view.get(&key) == Some(instance) {
                        return broken("a change was reported that is none", &key);
                    }
                    self.check(instance, written, now)?;
                    self.view.insert(key, instance.clone());
                }
                Change::Remove(key) => {
                    if self.view.remove(key).is_none() {
                        return broken("the removal of an unknown instance was reported", key);
                    }
                }
                Change::Current => {}
            }
        }
        Ok(())
    }

    fn check(
        &mut self,
        instance: &Arc<Instance>,
        written: &Written<'_>,
        now: Duration,
    ) -> Result<(), Broken> {
        let key = instance.key();
        if !key.service.as_str().starts_with(written.ours) {
            return Ok(());
        }
        let broken = |law, key| {
            Err(Broken {
                law,
                key: Some(key),
            })
        };
        let states = written.states.get(&key).map_or(&[][..], Vec::as_slice);
        let position = self.position.get(&key).copied().unwrap_or_default();
        let is_shown = |state: &Arc<Instance>| written.may_show(state, instance);
        match states.iter().skip(position).position(is_shown) {
            Some(ahead) => self.position.insert(key.clone(), position + ahead),
            None if states.iter().any(is_shown) => {
                return broken("an older state came after a newer one", key);
            }
            None => return broken("a state was shown that nobody registered", key),
        };
        // What was shown before the removal may be repeated until its window has passed.
        if written
            .removed
            .get(&key)
            .is_some_and(|at| now > *at + written.gone)
        {
            return broken("a deregistered instance came back", key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use registry_core::{Error, ErrorKind};

    use super::*;

    const GONE: Duration = Duration::from_secs(1);

    fn instance(weight: u16) -> Arc<Instance> {
        let instance = Instance::new("web", "10.0.0.1:80").id("a").weight(weight);
        Arc::new(instance.build().unwrap())
    }

    fn down() -> Arc<Instance> {
        let down = instance(1).edit().status(Status::Down);
        Arc::new(down.build().unwrap())
    }

    fn key() -> InstanceKey {
        instance(1).key()
    }

    fn log(whats: Vec<What>) -> Vec<Event> {
        let event = |(at, what)| Event {
            at: Duration::from_secs(at as u64 * 10),
            who: "watch".into(),
            what,
        };
        whats.into_iter().enumerate().map(event).collect()
    }

    fn broken(whats: Vec<What>) -> String {
        let failure = hold(&log(whats), "", GONE, false).unwrap_err();
        failure.message().lines().next().unwrap().to_owned()
    }

    fn saw(change: Change) -> What {
        What::Saw(vec![change])
    }

    #[test]
    fn an_honest_watch_breaks_no_law() {
        let honest = log(vec![
            What::Writes(instance(1)),
            saw(Change::Snapshot(vec![instance(1)])),
            What::Writes(instance(2)),
            saw(Change::Upsert(instance(2))),
            What::Writes(instance(1)),
            saw(Change::Upsert(instance(1))),
            saw(Change::Current),
            What::Removed(key()),
            saw(Change::Remove(key())),
            saw(Change::Snapshot(vec![])),
            What::Ended(Error::new(ErrorKind::Lost, "cut")),
        ]);
        hold(&honest, "", GONE, false).unwrap();
    }

    #[test]
    fn every_law_finds_its_offender() {
        let empty = || saw(Change::Snapshot(vec![]));
        let begin = || vec![What::Writes(instance(1)), empty()];
        let with = |more: Vec<What>| begin().into_iter().chain(more).collect::<Vec<_>>();
        let up = |weight| saw(Change::Upsert(instance(weight)));
        let cases = [
            (vec![up(1)], "the first item of a watch is not a snapshot"),
            (vec![What::Saw(vec![])], "a watch yielded an empty list"),
            (
                with(vec![What::Ended(Error::new(ErrorKind::Lost, "cut")), up(1)]),
                "a watch yielded an item after its error",
            ),
            (
                with(vec![up(1), up(1)]),
                "a change was reported that is none (web/a)",
            ),
            (
                with(vec![saw(Change::Remove(key()))]),
                "the removal of an unknown instance was reported (web/a)",
            ),
            (
                with(vec![up(2)]),
                "a state was shown that nobody registered (web/a)",
            ),
            (
                with(vec![What::Writes(instance(2)), up(2), up(1)]),
                "an older state came after a newer one (web/a)",
            ),
            (
                with(vec![What::Removed(key()), up(1)]),
                "a deregistered instance came back (web/a)",
            ),
            (
                with(vec![saw(Change::Snapshot(vec![instance(1), instance(1)]))]),
                "a snapshot names an instance twice (web/a)",
            ),
        ];
        for (whats, law) in cases {
            assert_eq!(broken(whats).trim_end_matches(':'), law);
        }
    }

    #[test]
    fn only_a_registry_that_judges_gives_statuses_of_its_own() {
        let judged = log(vec![
            What::Writes(instance(1)),
            saw(Change::Snapshot(vec![down()])),
        ]);
        hold(&judged, "", GONE, true).unwrap();
        hold(&judged, "", GONE, false).unwrap_err();
    }

    #[test]
    fn a_removal_of_a_live_instance_is_found_in_changes_and_snapshots() {
        let seen = || saw(Change::Snapshot(vec![instance(1)]));
        for gone in [
            Change::Remove(key()),
            Change::Snapshot(vec![]),
            Change::Upsert(down()),
            Change::Snapshot(vec![down()]),
        ] {
            assert!(never_lost(&log(vec![seen(), saw(gone)]), &[key()]).is_err());
        }
        never_removed(&log(vec![seen(), saw(Change::Upsert(down()))]), &[key()]).unwrap();
        never_lost(&log(vec![seen(), saw(Change::Current)]), &[key()]).unwrap();
    }
}
