//! Keeps registrations true.
//!
//! The registrar holds what *should* be registered. One task renews it all, registers again what the registry no
//! longer knows, with what was last published, and backs off while the registry is away.

mod entry;
mod handle;
mod readiness;
mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use handle::{RegistrationHandle, RegistrationState};
pub use readiness::Readiness;

use crate::error::{Error, ErrorKind, Result};
use crate::registration::Registration;
use crate::registry::Registry;
use crate::time::{NEVER, after};
use task::{Command, Request, Task};

/// Registers instances and keeps them registered until they are deregistered.
///
/// Its task lives as long as the registrar or one of its handles.
///
/// # What it tells
///
/// With `tracing`, each call to the registry is a span of level `DEBUG`: `register` and `deregister` with the field
/// `instance`, `renew` with `instances`, how many.
///
/// With the feature `metrics`, it tells the recorder of the crate `metrics`:
///
/// | Name | Kind | What |
/// | --- | --- | --- |
/// | `registry_registrations` | gauge | registrations that are held, by `state`: `registered`, `degraded` |
/// | `registry_attempts_total` | counter | calls to the registry, by `operation` (`register`, `renew`, `deregister`) and `outcome`: `ok`, or the kind of the error in lower case |
/// | `registry_attempt_seconds` | histogram | how long they took, by `operation` |
/// | `registry_forgotten_total` | counter | registrations that the registry had forgotten, which were made again |
#[derive(Clone, Debug)]
pub struct Registrar {
    commands: mpsc::UnboundedSender<Command>,
}

/// How a [`Registrar`] works.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RegistrarConfig {
    /// How long one call to the registry may take. Default 5 s.
    pub attempt_timeout: Duration,
    /// How often a registration without a TTL is checked. Default 30 s.
    pub verify_interval: Duration,
    /// How long a dropped handle is given to be deregistered after the last owner of the registrar is gone.
    /// Default 5 s.
    pub drop_timeout: Duration,
    /// Whether checks that run on this side may run commands. Default `false`.
    pub command_checks: bool,
}

impl Default for RegistrarConfig {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(5),
            verify_interval: Duration::from_secs(30),
            drop_timeout: Duration::from_secs(5),
            command_checks: false,
        }
    }
}

impl RegistrarConfig {
    /// Sets how long one call to the registry may take.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets how often a registration without a TTL is checked.
    pub const fn verify_interval(mut self, interval: Duration) -> Self {
        self.verify_interval = interval;
        self
    }

    /// Sets how long a dropped handle is given.
    pub const fn drop_timeout(mut self, timeout: Duration) -> Self {
        self.drop_timeout = timeout;
        self
    }

    /// Sets whether checks that run on this side may run commands.
    pub const fn command_checks(mut self, allowed: bool) -> Self {
        self.command_checks = allowed;
        self
    }
}

impl Registrar {
    /// A registrar for this registry, with the default configuration.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: it starts its task.
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        Self::with_config(registry, RegistrarConfig::default())
    }

    /// A registrar for this registry.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: it starts its task.
    pub fn with_config(registry: Arc<dyn Registry>, config: RegistrarConfig) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Task::new(registry, config, commands.downgrade()).run(inbox));
        Self { commands }
    }

    /// Registers an instance and keeps it registered until the handle is dropped or deregistered.
    ///
    /// Returns after the first attempt. While the registry is away the handle is
    /// [`Degraded`](RegistrationState::Degraded) and the registrar goes on trying. An id that somebody else holds is
    /// tried again for as long as a registry with TTLs may take a dead owner for alive, so that a program that was
    /// killed gets its old id back when it is started again. A future that is dropped before it ends leaves nothing
    /// behind.
    ///
    /// # Errors
    /// What will not pass by itself: `Invalid`, `Unsupported`, `Denied`, `Config`; `Conflict` when somebody else who is
    /// alive, or this registrar, holds the id; `Closed` after [`close`](Self::close).
    pub async fn register<T>(&self, registration: T) -> Result<RegistrationHandle>
    where
        T: TryInto<Registration>,
        Error: From<T::Error>,
    {
        self.submit(registration.try_into()?, after(NEVER)).await
    }

    /// Registers an instance, and gives up when the registry has not taken it within `timeout`.
    ///
    /// # Errors
    /// As [`register`](Self::register), and why the last attempt failed.
    pub async fn register_within<T>(
        &self,
        registration: T,
        timeout: Duration,
    ) -> Result<RegistrationHandle>
    where
        T: TryInto<Registration>,
        Error: From<T::Error>,
    {
        let registration = registration.try_into()?;
        let key = registration.key();
        let deadline = after(timeout);
        let late = || {
            Error::new(
                ErrorKind::Unavailable,
                format!("not registered within {timeout:?}"),
            )
            .with("instance", &key)
        };
        let handle = tokio::time::timeout_at(deadline, self.submit(registration, deadline))
            .await
            .map_err(|_| late())??;
        let mut state = handle.watch();
        let registered = state.wait_for(|state| matches!(state, RegistrationState::Registered));
        if tokio::time::timeout_at(deadline, registered)
            .await
            .is_ok_and(|state| state.is_ok())
        {
            return Ok(handle);
        }
        Err(match handle.state() {
            RegistrationState::Degraded { reason, .. } => reason,
            _ => late(),
        })
    }

    async fn submit(
        &self,
        registration: Registration,
        until: Instant,
    ) -> Result<RegistrationHandle> {
        let registration = Arc::new(registration);
        ask(&self.commands, |reply| {
            Command::Register(Request {
                registration,
                until,
                reply,
            })
        })
        .await
    }

    /// Deregisters everything and ends. The registry itself stays open.
    ///
    /// # Errors
    /// `Unavailable` when some could not be taken back within `timeout`: they lapse as after a crash. Closing
    /// twice is no error.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        let deadline = after(timeout);
        match ask(&self.commands, |reply| Command::Close { deadline, reply }).await {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            result => result,
        }
    }
}

/// Sends a command and waits for its answer; a task that is gone answers `Closed`.
async fn ask<T>(
    commands: &mpsc::UnboundedSender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let closed = || Error::new(ErrorKind::Closed, "the registrar was closed");
    commands.send(command(reply)).map_err(|_| closed())?;
    answer.await.unwrap_or_else(|_| Err(closed()))
}
