//! Describing an instance step by step.

use super::{Address, Endpoint, Instance, InstanceId, Label, Metadata, ServiceName, Status};
use crate::error::{Error, Result};

/// An instance being described. It remembers the first value that was refused and
/// [`build`](Self::build) returns it, so that a description stays one chain.
#[derive(Clone, Debug)]
#[must_use = "call build(), or give it to Registrar::register"]
pub struct InstanceBuilder(Result<Instance>);

impl InstanceBuilder {
    pub(super) fn new<S, A>(service: S, address: A) -> Self
    where
        S: TryInto<ServiceName>,
        A: TryInto<Address>,
        Error: From<S::Error> + From<A::Error>,
    {
        let start = || -> Result<Instance> {
            let service = service.try_into()?;
            Ok(Instance {
                id: InstanceId::random(&service),
                service,
                version: None,
                address: address.try_into()?,
                alternates: Vec::new(),
                status: Status::Up,
                weight: 1,
                zone: None,
                metadata: Metadata::new(),
                endpoints: Vec::new(),
            })
        };
        Self(start())
    }

    /// The id, in place of a random one.
    pub fn id<T: TryInto<InstanceId>>(self, id: T) -> Self
    where
        Error: From<T::Error>,
    {
        self.set(id, |instance, id| instance.id = id)
    }

    /// The version of the program.
    pub fn version<T: TryInto<Label>>(self, version: T) -> Self
    where
        Error: From<T::Error>,
    {
        self.set(version, |instance, version| {
            instance.version = Some(version)
        })
    }

    /// Where to call it.
    pub fn address<T: TryInto<Address>>(self, address: T) -> Self
    where
        Error: From<T::Error>,
    {
        self.set(address, |instance, address| instance.address = address)
    }

    /// One more address of the same instance.
    pub fn alternate<T: TryInto<Address>>(self, address: T) -> Self
    where
        Error: From<T::Error>,
    {
        self.set(address, |instance, address| {
            instance.alternates.push(address)
        })
    }

    /// The failure domain that it runs in.
    pub fn zone<T: TryInto<Label>>(self, zone: T) -> Self
    where
        Error: From<T::Error>,
    {
        self.set(zone, |instance, zone| instance.zone = Some(zone))
    }

    /// Whether it may be called. Default `Up`.
    pub fn status(mut self, status: Status) -> Self {
        if let Ok(instance) = &mut self.0 {
            instance.status = status;
        }
        self
    }

    /// Its share of the calls; 0 means no new ones. Default 1.
    pub fn weight(mut self, weight: u16) -> Self {
        if let Ok(instance) = &mut self.0 {
            instance.weight = weight;
        }
        self
    }

    /// One pair of metadata.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        if let Ok(instance) = &mut self.0
            && let Err(error) = instance.metadata.insert(key, value)
        {
            self.0 = Err(error);
        }
        self
    }

    /// All metadata at once.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        if let Ok(instance) = &mut self.0 {
            instance.metadata = metadata;
        }
        self
    }

    /// One more endpoint.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        if let Ok(instance) = &mut self.0 {
            instance.endpoints.push(endpoint);
        }
        self
    }

    /// The instance.
    ///
    /// # Errors
    /// `Invalid` for the first value that was refused; the error says what is allowed.
    pub fn build(self) -> Result<Instance> {
        self.0
    }

    fn set<T, V>(mut self, value: T, into: impl FnOnce(&mut Instance, V)) -> Self
    where
        T: TryInto<V>,
        Error: From<T::Error>,
    {
        if let Ok(instance) = &mut self.0 {
            match value.try_into() {
                Ok(value) => into(instance, value),
                Err(error) => self.0 = Err(error.into()),
            }
        }
        self
    }
}

impl From<Instance> for InstanceBuilder {
    fn from(instance: Instance) -> Self {
        Self(Ok(instance))
    }
}

impl TryFrom<InstanceBuilder> for Instance {
    type Error = Error;
    fn try_from(builder: InstanceBuilder) -> Result<Self> {
        builder.build()
    }
}
