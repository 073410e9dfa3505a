//! What a program holds of its registration.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::ask;
use super::readiness::Readiness;
use super::task::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::health::Report;
use crate::instance::{InstanceBuilder, InstanceKey, Status};

/// A registration that is kept true while this is held.
///
/// Dropping it stops the renewals and deregisters in the background.
#[derive(Debug)]
#[must_use = "dropping the handle deregisters the instance"]
pub struct RegistrationHandle {
    key: InstanceKey,
    /// Which registration of this key, for a key may be registered again.
    serial: u64,
    readiness: Readiness,
    commands: mpsc::UnboundedSender<Command>,
    /// How long a change takes to reach everybody.
    visible: Duration,
}

/// How a registration stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The registry has what was last published.
    Registered,
    /// The registry may not have it. The registrar goes on trying.
    Degraded {
        /// Since when that cannot be said any more.
        since: Instant,
        /// What the last attempt met.
        reason: Error,
    },
    /// It was taken back.
    Deregistered,
}

impl RegistrationHandle {
    pub(super) const fn new(
        key: InstanceKey,
        serial: u64,
        readiness: Readiness,
        commands: mpsc::UnboundedSender<Command>,
        visible: Duration,
    ) -> Self {
        Self {
            key,
            serial,
            readiness,
            commands,
            visible,
        }
    }

    /// Who is registered.
    pub const fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// How the registration stands now.
    pub fn state(&self) -> RegistrationState {
        let state = self.readiness.state().borrow().clone();
        let abandoned = self.readiness.state().has_changed().is_err();
        match state {
            RegistrationState::Registered if abandoned => {
                let reason =
                    Error::new(ErrorKind::Closed, "the registrar ended: nobody renews this");
                RegistrationState::Degraded {
                    since: Instant::now(),
                    reason,
                }
            }
            state => state,
        }
    }

    /// Follows how the registration stands.
    pub fn watch(&self) -> watch::Receiver<RegistrationState> {
        self.readiness.state().clone()
    }

    /// For a readiness probe of the program.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Publishes an edited description of the instance.
    ///
    /// Returns after the first attempt; while the registry is away it stays
    /// [`Degraded`](RegistrationState::Degraded) and the registrar goes on trying. From the call on, every
    /// automatic registration publishes the edited description.
    ///
    /// # Errors
    /// What will not pass by itself, such as `Invalid`; then what was published before stays. The service and
    /// the id cannot change. `Closed` after the registration was taken back.
    pub async fn update(
        &self,
        edit: impl FnOnce(InstanceBuilder) -> InstanceBuilder + Send + 'static,
    ) -> Result<()> {
        let (key, serial) = (self.key.clone(), self.serial);
        ask(&self.commands, |reply| Command::Update {
            key,
            serial,
            edit: Box::new(edit),
            reply,
        })
        .await
    }

    /// Says that all is well, for a [`CheckKind::Ttl`](crate::CheckKind::Ttl). Without one it does nothing.
    pub fn pass(&self) {
        self.report(Ok(()));
    }

    /// Says what is wrong, for a [`CheckKind::Ttl`](crate::CheckKind::Ttl). Without one it does nothing.
    pub fn fail(&self, why: impl Into<String>) {
        self.report(Err(why.into()));
    }

    fn report(&self, report: Report) {
        // A task that is gone shows nothing any more.
        let _ = self.commands.send(Command::Report {
            key: self.key.clone(),
            serial: self.serial,
            report,
        });
    }

    /// Publishes [`Status::Draining`] and returns when every client can have seen it, so that no new call comes
    /// while the last ones are finished. Then [`deregister`](Self::deregister).
    ///
    /// # Errors
    /// As [`update`](Self::update); and why it could not be published now, when nobody can have seen it.
    pub async fn drain(&self) -> Result<()> {
        self.update(|instance| instance.status(Status::Draining))
            .await?;
        if let RegistrationState::Degraded { reason, .. } = self.state() {
            return Err(reason);
        }
        sleep(self.visible).await;
        Ok(())
    }

    /// Takes the registration back. This is final: from the call on nothing registers it again.
    ///
    /// # Errors
    /// What the first attempt met. The registrar goes on trying in the background, and the call can be repeated.
    pub async fn deregister(&self) -> Result<()> {
        let (key, serial) = (self.key.clone(), self.serial);
        if matches!(self.state(), RegistrationState::Deregistered) {
            return Ok(());
        }
        ask(&self.commands, |reply| Command::Deregister {
            key,
            serial,
            reply,
        })
        .await
    }
}

impl Drop for RegistrationHandle {
    fn drop(&mut self) {
        if !matches!(self.state(), RegistrationState::Deregistered) {
            // A task that is gone has nothing left to deregister.
            let _ = self.commands.send(Command::Abandon {
                key: self.key.clone(),
                serial: self.serial,
            });
        }
    }
}
