//! What a backend can, cannot, and how fast.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::registration::{CheckKind, Registration};
use crate::registry::ReadOptions;

/// The longest TTL that can be wished for.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 86_400);

/// What a backend can do and how fast it is. The conformance suite holds it to every field.
///
/// Start from [`Capability::new`], the backend that can nothing beyond the contract, and change what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// What a TTL belongs to.
    pub ttl: TtlScope,
    /// The TTL that is granted where none is wished for.
    pub default_ttl: Option<Duration>,
    /// The checks that the registry runs itself; [`register`](crate::Registry::register) refuses another one.
    pub checks: &'static [Check],
    /// [`Scope::All`](crate::Scope::All) can be watched.
    pub watch_all: bool,
    /// Several changes written at once arrive at a watcher as one batch.
    pub atomic_batches: bool,
    /// Reads may ask another data centre.
    pub datacenters: bool,
    /// [`recheck`](crate::Registry::recheck) can bring news before the crash window ends.
    pub recheck: bool,
    /// Two live owners of one instance id are told apart, and the later one gets a `Conflict`.
    pub conflicts: bool,
    /// A fault of the server always ends the watches. Where it may pass unseen, as between two polls, the
    /// discovery's guard is always armed.
    pub faults_visible: bool,
    /// The server, or what stands for it, can lose its records while clients live on.
    pub can_forget: bool,
    /// The windows that hold while nothing is at fault.
    pub windows: Windows,
    /// What fits into one record.
    pub limits: Limits,
}

/// What a TTL belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TtlScope {
    /// There is none, or the protocol fixes it: a wish is not granted.
    Fixed,
    /// Each registration has its own.
    Registration,
    /// All registrations of one connection share it.
    Connection,
}

/// A kind of check, without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// [`CheckKind::Http`].
    Http,
    /// [`CheckKind::Tcp`].
    Tcp,
    /// [`CheckKind::Grpc`].
    Grpc,
    /// [`CheckKind::Command`].
    Command,
    /// [`CheckKind::Ttl`].
    Ttl,
}

impl From<&CheckKind> for Check {
    fn from(kind: &CheckKind) -> Self {
        match kind {
            CheckKind::Http(_) => Self::Http,
            CheckKind::Tcp(_) => Self::Tcp,
            CheckKind::Grpc(..) => Self::Grpc,
            CheckKind::Command(_) => Self::Command,
            CheckKind::Ttl => Self::Ttl,
        }
    }
}

/// How long after an act its effect has been seen by everybody, while nothing is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Windows {
    /// From `register` to the instance in others' lookups and watches.
    pub visible: Duration,
    /// From `deregister` to its absence there.
    pub gone: Duration,
    /// From the death of the registrant until nobody calls it any more: it is absent, or its status is `Down`;
    /// `None`: never by itself.
    pub crash: Option<Window>,
    /// From the death of the registrant to its absence; `None`: never by itself.
    pub removed: Option<Window>,
    /// From the server's forgetting a live registrant to its presence; `None`: the server cannot forget.
    pub reregister: Option<Window>,
    /// From the opening of a watch to its first snapshot.
    pub settle: Duration,
}

/// A time that may depend on the TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// This many times the granted TTL …
    pub ttl_times: u32,
    /// … and this.
    pub plus: Duration,
}

impl Window {
    /// A window that does not depend on the TTL.
    pub const fn fixed(plus: Duration) -> Self {
        Self { ttl_times: 0, plus }
    }

    /// The window for a granted TTL.
    pub fn at(self, ttl: Option<Duration>) -> Duration {
        let ttl = ttl.unwrap_or_default();
        ttl.saturating_mul(self.ttl_times).saturating_add(self.plus)
    }
}

/// What fits into one record of a backend, where it is less than the types allow. In bytes where nothing
/// else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Pairs of metadata.
    pub metadata_pairs: usize,
    /// Key and value of one pair together.
    pub metadata_pair: usize,
    /// All that is written for one instance; `None`: nothing beyond the limits of the types.
    pub record: Option<usize>,
}

impl Capability {
    /// A backend that can do what the contract asks of all, within a second, and nothing beyond.
    pub const fn new() -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            ttl: TtlScope::Fixed,
            default_ttl: None,
            checks: &[],
            watch_all: false,
            atomic_batches: false,
            datacenters: false,
            recheck: false,
            conflicts: false,
            faults_visible: true,
            can_forget: false,
            windows: Windows {
                visible: SECOND,
                gone: SECOND,
                crash: None,
                removed: None,
                reregister: None,
                settle: SECOND,
            },
            limits: Limits {
                metadata_pairs: crate::Metadata::MAX_PAIRS,
                metadata_pair: crate::Metadata::MAX_KEY + crate::Metadata::MAX_VALUE,
                record: None,
            },
        }
    }

    /// Refuses a registration that this backend cannot honour. A plugin calls it before any I/O.
    ///
    /// # Errors
    /// `Unsupported` for a check that the registry cannot run, `Invalid` for a check or a TTL of 0, for a TTL over a
    /// year and for metadata beyond the [`Limits`]; the error names the limit.
    pub fn admit(&self, registration: &Registration) -> Result<()> {
        let key = registration.key();
        if registration
            .ttl
            .is_some_and(|ttl| ttl.is_zero() || ttl > LONGEST_TTL)
        {
            let why = "the TTL is refused; allowed: more than 0, at most 365 days";
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", key));
        }
        for check in &registration.checks {
            check
                .admit()
                .map_err(|error| error.with("instance", &key))?;
            let check = Check::from(&check.kind);
            if !self.checks.contains(&check) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "this registry runs no {check:?} check; it runs {}{}",
                        names(self.checks),
                        match cfg!(feature = "health") {
                            true => "",
                            false => "; with the feature \"health\" the registrar runs it",
                        }
                    ),
                )
                .with("instance", key));
            }
        }
        let metadata = &registration.instance.metadata;
        let limits = self.limits;
        if metadata.len() > limits.metadata_pairs {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} pairs of metadata are too many; this registry takes {}",
                    metadata.len(),
                    limits.metadata_pairs
                ),
            )
            .with("instance", key));
        }
        for (name, value) in metadata.iter() {
            let bytes = name.len() + value.len();
            if bytes > limits.metadata_pair {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "a metadata pair of {bytes} bytes is too long; this registry takes {}",
                        limits.metadata_pair
                    ),
                )
                .with("instance", key)
                .with("key", name));
            }
        }
        Ok(())
    }

    /// Refuses a read that this backend cannot honour. A plugin calls it before any I/O.
    ///
    /// # Errors
    /// `Unsupported`, naming the option.
    pub fn admit_read(&self, options: &ReadOptions) -> Result<()> {
        match &options.datacenter {
            Some(datacenter) if !self.datacenters => Err(Error::new(
                ErrorKind::Unsupported,
                "this registry knows no data centres; read without one",
            )
            .with("datacenter", datacenter)),
            _ => Ok(()),
        }
    }
}

fn names(checks: &[Check]) -> String {
    match checks {
        [] => "none".to_owned(),
        checks => format!("{checks:?}"),
    }
}

impl Default for Capability {
    fn default() -> Self {
        Self::new()
    }
}
