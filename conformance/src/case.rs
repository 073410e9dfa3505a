//! A case: one expectation, as data.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use registry_core::Capability;

use crate::fixture::Faults;
use crate::world::World;

/// One expectation that a backend is held to.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    path: &'static str,
    needs: fn(&Capability, &Faults) -> bool,
    run: fn(World) -> Running,
}

/// A case that is running.
pub(crate) type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How a case ended.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Case {
    pub(crate) const fn new(
        path: &'static str,
        needs: fn(&Capability, &Faults) -> bool,
        run: fn(World) -> Running,
    ) -> Self {
        Self { path, needs, run }
    }

    /// The topic and what is expected: `watch::first_event_is_a_snapshot`.
    pub fn name(&self) -> String {
        let case = self.path.rsplit("::").next().unwrap_or_default();
        format!("{}::{case}", self.topic())
    }

    /// The topic: the module of the suite that the case is in.
    pub fn topic(&self) -> &'static str {
        let mut modules = self
            .path
            .split("::")
            .skip_while(|module| *module != "suite");
        modules.nth(1).unwrap_or_default()
    }

    /// Whether it can be asked of a backend with this capability, on a fixture that can make these faults.
    pub fn applies(&self, capability: &Capability, faults: &Faults) -> bool {
        (self.needs)(capability, faults)
    }

    pub(crate) fn start(&self, world: World) -> Running {
        (self.run)(world)
    }
}

/// Why a case failed, for people.
///
/// Any error turns into one with `?`.
pub struct Failure(String);

impl Failure {
    /// A failure that says what was expected and what was found.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// What was expected and what was found.
    pub fn message(&self) -> &str {
        &self.0
    }

    pub(crate) fn and(mut self, more: &str) -> Self {
        if !more.is_empty() {
            self.0.push('\n');
            self.0.push_str(more);
        }
        self
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message.push_str("; because: ");
            message.push_str(&error.to_string());
            source = error.source();
        }
        Self(message)
    }
}

/// A [`Case`] from an async function of the [`World`], and what it needs, if it needs something.
macro_rules! case {
    ($function:ident) => {
        case!($function, |_, _| true)
    };
    ($function:ident, $needs:expr) => {
        $crate::case::Case::new(
            concat!(module_path!(), "::", stringify!($function)),
            $needs,
            |world| Box::pin($function(world)),
        )
    };
}

/// Fails the case with this message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::case::Failure::new(format!($($message)+)));
        }
    };
}

/// Fails the case unless both are equal; the message says what they are.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($message:tt)+) => {{
        let (found, expected) = (&$found, &$expected);
        if found != expected {
            return Err($crate::case::Failure::new(format!(
                "{}: found {found:?}, expected {expected:?}",
                format!($($message)+),
            )));
        }
    }};
}
