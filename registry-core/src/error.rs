//! The one error type of the workspace.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of every fallible operation here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms of what a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The registry did not answer, or answered that it cannot serve now. Try again later.
    Unavailable,
    /// The registry asks for fewer requests. Try again after [`Error::retry_after`].
    Throttled,
    /// A stream of changes can no longer promise that nothing was missed. Open a new one at once.
    Lost,
    /// Credentials are missing, wrong or not sufficient.
    Denied,
    /// A value is outside of what is allowed. Found before any I/O.
    Invalid,
    /// Somebody else who is alive owns this instance id.
    Conflict,
    /// The backend cannot do what was asked; see [`Capability`](crate::Capability).
    Unsupported,
    /// The registry URL or a backend's configuration is wrong.
    Config,
    /// The handle was closed.
    Closed,
    /// The registry answered something that does not fit its protocol.
    Protocol,
}

impl ErrorKind {
    /// Whether the same request may succeed later without anybody changing it.
    pub const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Throttled | Self::Lost | Self::Protocol
        )
    }

    /// In one lower-case word, for a label.
    #[cfg(feature = "metrics")]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::Lost => "lost",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Config => "config",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "registry unavailable",
            Self::Throttled => "registry throttles",
            Self::Lost => "changes lost",
            Self::Denied => "access denied",
            Self::Invalid => "invalid value",
            Self::Conflict => "conflict",
            Self::Unsupported => "not supported",
            Self::Config => "configuration",
            Self::Closed => "closed",
            Self::Protocol => "protocol violated",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened, to what, and what to do. Cheap to clone, so that one failure can be told to many.
///
/// `Display` is one line without the source; `Debug` adds the chain of sources.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; the message says what happened and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Adds to what it happened, such as `("service", "greeter")`.
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.inner_mut().context.push((name, value.to_string()));
        self
    }

    /// Adds the error that caused this one.
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.inner_mut().source = Some(Arc::new(source));
        self
    }

    /// Adds how long the registry asks to wait.
    pub fn after(mut self, wait: Duration) -> Self {
        self.inner_mut().retry_after = Some(wait);
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_temporary(&self) -> bool {
        self.0.kind.is_temporary()
    }

    /// How long the registry asked to wait before the next try, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    fn inner_mut(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)?;
        for (i, (name, value)) in self.0.context.iter().enumerate() {
            let open = if i == 0 { " (" } else { ", " };
            write!(f, "{open}{name} {value}")?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, "\n  because: {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The beginning of a text that was refused: an error does not grow with it.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_what_and_to_what_and_debug_adds_why() {
        let error = Error::new(ErrorKind::Unavailable, "no answer within 5s")
            .with("service", "greeter")
            .with("endpoint", "10.0.0.1:8500")
            .because(std::io::Error::other("connection refused"));
        assert_eq!(
            error.to_string(),
            "registry unavailable: no answer within 5s (service greeter, endpoint 10.0.0.1:8500)"
        );
        assert!(format!("{error:?}").ends_with("because: connection refused"));
        assert!(error.is_temporary());
    }
}
