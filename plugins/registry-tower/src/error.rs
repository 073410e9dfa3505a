//! Why a request has no answer.

use std::error::Error as StdError;
use std::fmt;

use registry_core::{Instance, PickError, PickErrorKind};

/// Any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request has no answer: what happened, to which service and instance. What the client said is its source.
pub struct CallError {
    kind: CallErrorKind,
    text: String,
    source: Option<BoxError>,
}

/// The kinds of [`CallError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The request names no service, the client refused it, or its body failed. No instance had all of it.
    Invalid,
    /// The registry has not told of the service yet, or refuses to, or so does the balancer its selector. Nothing was sent.
    Registry,
    /// The service has no instance that may be called. Nothing was sent.
    Nobody,
    /// No instance could be connected to. Nothing was sent.
    Unreachable,
    /// The connection broke, or what came was no answer, while an instance had the request.
    Broken,
    /// There was no answer in time.
    Late,
}

impl CallError {
    pub(crate) fn new(kind: CallErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            source: None,
        }
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Of one instance.
    pub(crate) fn of(kind: CallErrorKind, instance: &Instance, what: &str) -> Self {
        let Instance {
            service,
            id,
            address,
            ..
        } = instance;
        let text = format!("service {service}: instance {id} at {address} {what}");
        Self::new(kind, text)
    }

    pub(crate) fn nobody(error: &PickError) -> Self {
        match error.kind() {
            PickErrorKind::NotReady => {
                let text = format!(
                    "service {}: the registry has not answered yet",
                    error.service()
                );
                Self::new(CallErrorKind::Registry, text)
            }
            _ => Self::new(CallErrorKind::Nobody, error.to_string()),
        }
    }

    /// What kind of reason.
    pub const fn kind(&self) -> CallErrorKind {
        self.kind
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `main` prints of an error.
        f.write_str(&self.text)?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for CallError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
