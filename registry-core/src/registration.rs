//! What a process wants kept in a registry, and what the registry made of it.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Address, Instance, InstanceBuilder, InstanceKey, Status};

/// An instance that this process wants kept in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registration {
    /// What to publish.
    pub instance: Arc<Instance>,
    /// How long the registry should keep the instance after this process fell silent. A wish that means "at
    /// least": [`Registered::ttl`] says what was granted. `None` takes the backend's default.
    pub ttl: Option<Duration>,
    /// Checks that decide whether it is shown as healthy; see [`HealthCheck`].
    pub checks: Vec<HealthCheck>,
    /// The status that the program chose, while a check that runs on this side shows it as `Down`.
    pub(crate) chosen: Option<Status>,
}

impl Registration {
    /// A registration with the backend's default TTL and no checks.
    ///
    /// # Errors
    /// What the [`InstanceBuilder`] found, if `instance` is one.
    pub fn new<T>(instance: T) -> Result<Self>
    where
        T: TryInto<Instance>,
        Error: From<T::Error>,
    {
        Ok(Self {
            instance: Arc::new(instance.try_into()?),
            ttl: None,
            checks: Vec::new(),
            chosen: None,
        })
    }

    /// Wishes for a TTL.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Adds a check.
    pub fn check(mut self, check: HealthCheck) -> Self {
        self.checks.push(check);
        self
    }

    /// Who is registered.
    pub fn key(&self) -> InstanceKey {
        self.instance.key()
    }

    /// The instance as the program described it.
    pub(crate) fn described(&self) -> InstanceBuilder {
        let builder = self.instance.edit();
        match self.chosen {
            Some(status) => builder.status(status),
            None => builder,
        }
    }

    /// As the program described it now, and as it is shown: who would be called and fails a check is `Down`.
    pub(crate) fn showing(&self, described: Instance, failing: bool) -> Result<Self> {
        let status = described.status;
        let hides = failing && matches!(status, Status::Up | Status::Warning);
        let instance = match hides {
            true => described.edit().status(Status::Down).build()?,
            false => described,
        };
        Ok(Self {
            instance: Arc::new(instance),
            chosen: hides.then_some(status),
            ..self.clone()
        })
    }
}

impl TryFrom<InstanceBuilder> for Registration {
    type Error = Error;
    fn try_from(builder: InstanceBuilder) -> Result<Self> {
        Self::new(builder)
    }
}

impl From<Instance> for Registration {
    fn from(instance: Instance) -> Self {
        Self {
            instance: Arc::new(instance),
            ttl: None,
            checks: Vec::new(),
            chosen: None,
        }
    }
}

/// A check of an instance, which is shown as `Down` while it fails.
///
/// A registry that can run it does so, see [`Capability::checks`](crate::Capability::checks). For the others the
/// registrar runs it beside the service, with the feature `health`; without it such a check is refused. Until the first
/// answer the instance is shown as the program described it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between two checks. Default 10 s.
    pub interval: Duration,
    /// How long an answer may take. Default 5 s.
    pub timeout: Duration,
    /// How many checks in a row must pass until the instance counts as healthy. Default 1.
    pub passes: u16,
    /// How many checks in a row must fail until the instance counts as `Down`. Default 1.
    pub failures: u16,
    /// The registry removes an instance that was `Down` for this long. A wish that means "at least"; the registrar removes
    /// nobody. Default: the registry's own habit.
    pub remove_after: Option<Duration>,
}

impl HealthCheck {
    /// A check every 10 s with 5 s for the answer, whose last answer counts.
    pub const fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            passes: 1,
            failures: 1,
            remove_after: None,
        }
    }

    /// Sets the time between two checks.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how long an answer may take.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many checks in a row must pass until the instance counts as healthy.
    pub const fn passes(mut self, passes: u16) -> Self {
        self.passes = passes;
        self
    }

    /// Sets how many checks in a row must fail until the instance counts as `Down`.
    pub const fn failures(mut self, failures: u16) -> Self {
        self.failures = failures;
        self
    }

    /// Has an instance removed that was `Down` for this long.
    pub const fn remove_after(mut self, time: Duration) -> Self {
        self.remove_after = Some(time);
        self
    }

    /// Refuses what no check can be, with `Invalid`.
    pub(crate) fn admit(&self) -> Result<()> {
        if self.interval.is_zero()
            || self.timeout.is_zero()
            || self.passes == 0
            || self.failures == 0
        {
            let why =
                "a check is refused; its interval, timeout, passes and failures are more than 0";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(())
    }
}

/// What a [`HealthCheck`] asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckKind {
    /// `GET` of this URL answers 2xx.
    Http(String),
    /// This address accepts a connection.
    Tcp(Address),
    /// The standard gRPC health service at this address says `SERVING` for this service name (empty: the server).
    Grpc(Address, String),
    /// This command, run without a shell, ends with code 0. On this side it is ended with its process group when its time
    /// is up, and only where [`RegistrarConfig::command_checks`](crate::RegistrarConfig::command_checks) allows it.
    Command(Vec<String>),
    /// The program itself says so, at least once in each interval: [`RegistrationHandle::pass`](crate::RegistrationHandle::pass).
    /// Its silence is a failure.
    Ttl,
}

/// What a registry made of a [`Registration`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// Who is registered.
    pub key: InstanceKey,
    /// The TTL that was granted; `None` when the registry keeps the instance without renewals.
    pub ttl: Option<Duration>,
    /// The plugin's own mark of this registration: a lease, a session, a timestamp. Only it reads the mark.
    pub token: i64,
}

impl Registered {
    /// What a plugin returns from [`register`](crate::Registry::register).
    pub const fn new(key: InstanceKey, ttl: Option<Duration>, token: i64) -> Self {
        Self { key, ttl, token }
    }
}

/// A registration and what the registry last made of it: what is given to [`renew`](crate::Registry::renew).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Held {
    /// What was last published.
    pub registration: Arc<Registration>,
    /// What the registry made of it.
    pub registered: Registered,
}

impl Held {
    /// Pairs the two.
    pub const fn new(registration: Arc<Registration>, registered: Registered) -> Self {
        Self {
            registration,
            registered,
        }
    }
}

/// What a registry says about a registration that was renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It still has it, and it is ours.
    Held(Registered),
    /// It does not know it, or it is no longer ours: register again.
    Unknown,
}
