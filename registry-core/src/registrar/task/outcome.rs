//! What became of the calls to the registry.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Done, Losses, Task, closed};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::InstanceKey;
use crate::registrar::RegistrationState;
use crate::registrar::entry::Entry;
use crate::registration::{Held, Registered, Registration, Renewal};
use crate::telemetry;

impl Task {
    pub(super) fn note(&mut self, done: Done) {
        match done {
            Done::Registered(key, published, result, losses) => {
                self.registered(key, published, result, losses);
            }
            Done::Deregistered(key, result) => self.deregistered(key, result),
            Done::Renewed(held, results, losses) => self.renewed(held, results, losses),
        }
    }

    fn registered(
        &mut self,
        key: InstanceKey,
        published: Arc<Registration>,
        result: Result<Registered>,
        losses: Losses,
    ) {
        let verify = self.config.verify_interval;
        let lost = losses != self.losses;
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.busy = false;
        if entry.successor.is_some() {
            return self.forget(&key);
        }
        if entry.leaving.is_some() {
            // Whether it succeeded or not, it may have reached the registry: it is taken back at once.
            return entry.due = Instant::now();
        }
        match result {
            Ok(registered) => {
                entry.confirm(registered, published.clone(), verify, lost);
                entry.answer(Some(&published), &Ok(()));
            }
            Err(error) => self.register_failed(&key, &published, &error),
        }
    }

    fn deregistered(&mut self, key: InstanceKey, result: Result<()>) {
        match result {
            Ok(()) => self.forget(&key),
            // A closed registry holds nothing of ours, or will soon not.
            Err(error) if error.kind() == ErrorKind::Closed => self.forget(&key),
            Err(error) => self.deregister_failed(&key, &error),
        }
    }

    /// Ends an entry: nothing of it is left at the registry.
    pub(super) fn forget(&mut self, key: &InstanceKey) {
        let Some(mut entry) = self.entries.remove(key) else {
            return;
        };
        entry.state.send_replace(RegistrationState::Deregistered);
        entry.answer(None, &Err(closed("the registration was taken back")));
        for reply in entry.leaving.into_iter().flatten() {
            let _ = reply.send(Ok(()));
        }
        if let Some(request) = entry.successor {
            self.begin(key.clone(), request);
        }
    }

    fn deregister_failed(&mut self, key: &InstanceKey, error: &Error) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.busy = false;
        for reply in entry
            .leaving
            .iter_mut()
            .flat_map(|waiting| waiting.drain(..))
        {
            let _ = reply.send(Err(error.clone()));
        }
        entry.degrade(Instant::now(), error);
        entry.retry_later(error);
        if entry.successor.is_some() {
            self.forget(key);
        }
    }

    fn register_failed(&mut self, key: &InstanceKey, attempted: &Arc<Registration>, error: &Error) {
        tracing::debug!(instance = %key, %error, "an attempt to register failed");
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if error.is_temporary() {
            entry.degrade(Instant::now(), error);
            entry.retry_later(error);
            entry.answer_away();
            return self.note_away(error);
        }
        if !Arc::ptr_eq(attempted, &entry.desired) {
            // What is wanted now was not refused.
            entry.answer(Some(attempted), &Err(error.clone()));
            return entry.due = Instant::now();
        }
        let Some(accepted) = entry.accepted.clone() else {
            entry.degrade(Instant::now(), error);
            if error.kind() == ErrorKind::Conflict
                && let Some(again) = entry.dispute()
            {
                // Its owner may be dead, and the registry may not know it yet.
                return entry.due = again;
            }
            if entry.is_asked_for() {
                return self.refuse(key, error);
            }
            // Somebody has its handle, and was told that it is tried.
            return entry.retry_later(error);
        };
        if Arc::ptr_eq(&accepted, attempted) {
            entry.degrade(Instant::now(), error);
        }
        // An update that is refused is undone.
        entry.desired = accepted;
        entry.judge_later();
        entry.retry_later(error);
        if entry.is_published() {
            entry.backoff.reset();
            entry.due = Instant::now();
        }
        entry.answer(None, &Err(error.clone()));
    }

    /// Ends an entry that the registry refused from the start.
    fn refuse(&mut self, key: &InstanceKey, error: &Error) {
        let Some(mut entry) = self.entries.remove(key) else {
            return;
        };
        entry.state.send_replace(RegistrationState::Deregistered);
        entry.answer(None, &Err(error.clone()));
    }

    fn renewed(&mut self, held: Vec<Held>, results: Vec<Result<Renewal>>, losses: Losses) {
        self.renewing = false;
        let lost = losses != self.losses;
        let mut away = None;
        for (held, result) in held.into_iter().zip(results) {
            let Some(entry) = self.entries.get_mut(&held.registered.key) else {
                continue;
            };
            // The answer is about a registration that was replaced meanwhile.
            if entry
                .held
                .as_ref()
                .is_none_or(|now| now.registered != held.registered)
                || entry.leaving.is_some()
            {
                continue;
            }
            match result {
                Ok(Renewal::Held(registered)) => {
                    let verify = self.config.verify_interval;
                    entry.confirm(registered, held.registration, verify, lost);
                }
                Ok(Renewal::Unknown) => {
                    let why = "the registry forgot the registration; it is being registered again";
                    let reason = Error::new(ErrorKind::Unavailable, why)
                        .with("instance", &held.registered.key);
                    tracing::warn!(instance = %held.registered.key, "the registry forgot a registration; registering again");
                    telemetry::forgotten();
                    entry.held = None;
                    entry.due = Instant::now();
                    entry.degrade(entry.due, &reason);
                }
                Err(error) => {
                    if error.is_temporary() {
                        entry.renew_later(&error, self.config.verify_interval);
                        away = Some(error);
                        continue;
                    }
                    if error.kind() == ErrorKind::Conflict {
                        entry.held = None;
                    }
                    entry.degrade(Instant::now(), &error);
                    entry.retry_later(&error);
                }
            }
        }
        if let Some(error) = away {
            self.note_away(&error);
        }
    }

    /// While the registry is away, TTLs run out.
    fn note_away(&mut self, error: &Error) {
        self.away = Some(error.clone());
        let overdue = |entry: &&mut Entry| entry.is_overdue();
        for entry in self.entries.values_mut().filter(overdue) {
            entry.degrade(entry.confirmed, error);
        }
    }
}
