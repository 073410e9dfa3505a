//! What a registry stores: one running copy of a service.

mod address;
mod builder;
mod metadata;
mod text;

use std::fmt;

pub use address::{Address, Host};
pub use builder::InstanceBuilder;
pub use metadata::Metadata;
pub use text::{InstanceId, Label, ServiceName};

use crate::error::Error;

/// One running copy of a service.
///
/// Two instances are equal when all they say is equal; what they *are* is their [`key`](Self::key).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The service that it is a copy of.
    pub service: ServiceName,
    /// Its id, unique within the service.
    pub id: InstanceId,
    /// The version of its program.
    pub version: Option<Label>,
    /// Where to call it.
    pub address: Address,
    /// Where else the same instance can be called: other interfaces or address families.
    pub alternates: Vec<Address>,
    /// Whether it may be called.
    pub status: Status,
    /// Its share of the calls relative to the others, for selectors that heed it; 0 means none. Default 1.
    pub weight: u16,
    /// The failure domain that it runs in.
    pub zone: Option<Label>,
    /// Free pairs.
    pub metadata: Metadata,
    /// What can be called on it.
    pub endpoints: Vec<Endpoint>,
}

impl Instance {
    /// Describes an instance: up, weight 1, with a random id. Finish with [`InstanceBuilder::build`], or
    /// give the builder to [`Registrar::register`](crate::Registrar::register) as it is.
    #[expect(
        clippy::new_ret_no_self,
        reason = "an invalid value must not become an Instance"
    )]
    pub fn new<S, A>(service: S, address: A) -> InstanceBuilder
    where
        S: TryInto<ServiceName>,
        A: TryInto<Address>,
        Error: From<S::Error> + From<A::Error>,
    {
        InstanceBuilder::new(service, address)
    }

    /// Who it is: this survives every change of what it says.
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            service: self.service.clone(),
            id: self.id.clone(),
        }
    }

    /// Whether `key` names this instance.
    pub fn is(&self, key: &InstanceKey) -> bool {
        self.id == key.id && self.service == key.service
    }

    /// A builder that starts from what this instance says.
    pub fn edit(&self) -> InstanceBuilder {
        InstanceBuilder::from(self.clone())
    }
}

/// Who an instance is: its service and its id, never its address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceKey {
    /// The service.
    pub service: ServiceName,
    /// The id within the service.
    pub id: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether an instance may be called: every state that a backend can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// It serves (Consul `passing`, Eureka `UP`).
    #[default]
    Up,
    /// It serves, and a check has something to say (Consul `warning`).
    Warning,
    /// It does not serve yet (Eureka `STARTING`).
    Starting,
    /// It finishes what it has and wants nothing new.
    Draining,
    /// An operator took it out (Consul maintenance, Eureka `OUT_OF_SERVICE`).
    Maintenance,
    /// It does not serve (Consul `critical`, Eureka `DOWN`).
    Down,
    /// The registry does not say (Eureka `UNKNOWN`).
    Unknown,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 7] = [
        Self::Up,
        Self::Warning,
        Self::Starting,
        Self::Draining,
        Self::Maintenance,
        Self::Down,
        Self::Unknown,
    ];

    /// The status in one lower-case word, as it is written to registries that have no word of their own.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Warning => "warning",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }

    /// The status that [`as_str`](Self::as_str) wrote; any other word is `Unknown`.
    pub fn from_word(word: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that can be called on an instance, such as a method.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its name, such as `Greeter.Hello`.
    pub name: Label,
    /// Free pairs.
    pub metadata: Metadata,
}

impl Endpoint {
    /// An endpoint without metadata.
    pub const fn new(name: Label) -> Self {
        Self {
            name,
            metadata: Metadata::new(),
        }
    }

    /// Replaces the metadata.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_first_bad_value_is_the_builders_error() {
        let error = Instance::new("greeter", "0.0.0.0:80")
            .id("a/b")
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("unspecified"), "{error}");
        assert!(
            Instance::new("greeter", "10.0.0.1:80")
                .id("a/b")
                .build()
                .is_err()
        );
        assert!(
            Instance::new("greeter", "10.0.0.1:80")
                .meta("a=b", "")
                .build()
                .is_err()
        );
    }

    #[test]
    fn editing_keeps_what_is_not_edited() {
        let before = Instance::new("greeter", "10.0.0.1:80")
            .version("1")
            .meta("a", "1")
            .build()
            .unwrap();
        let after = before.edit().weight(7).meta("b", "2").build().unwrap();
        assert_eq!(after.key(), before.key());
        assert_eq!((after.weight, after.metadata.len()), (7, 2));
        assert_eq!(after.version, before.version);
    }

    #[test]
    fn every_status_has_a_word_of_its_own() {
        for status in Status::ALL {
            assert_eq!(Status::from_word(status.as_str()), status);
        }
        assert_eq!(Status::from_word("WEIRD"), Status::Unknown);
    }
}
