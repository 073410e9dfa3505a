//! The contract of a pluggable service registry, and the machinery that every backend shares.
//!
//! A *service* has a name; an *instance* is one running copy of it; a *registry* stores instances. A backend
//! implements [`Registry`] and [`Watcher`] and knows one dialect. Everything else is here, once.

mod backoff;
mod balancer;
mod capability;
mod discovery;
mod driver;
mod error;
mod fanout;
mod health;
mod instance;
mod memory;
mod registrar;
mod registration;
mod registry;
mod selector;
mod target;
mod telemetry;
mod time;
mod tls;
mod turns;
mod watcher;

pub use async_trait::async_trait;
pub use balancer::{
    Attempts, Balancer, Explained, Explanation, Hedge, Pick, PickError, PickErrorKind, RetryBudget,
};
pub use capability::{Capability, Check, Limits, TtlScope, Window, Windows};
pub use discovery::{Changes, Discovery, DiscoveryConfig, Freshness, GuardPolicy, Snapshot, View};
pub use driver::{Connecting, Driver, Drivers};
pub use error::{Error, ErrorKind, Result};
pub use fanout::{Fanout, FanoutWatcher};
pub use instance::{
    Address, Endpoint, Host, Instance, InstanceBuilder, InstanceId, InstanceKey, Label, Metadata,
    ServiceName, Status,
};
pub use inventory;
pub use memory::Memory;
pub use registrar::{Readiness, Registrar, RegistrarConfig, RegistrationHandle, RegistrationState};
pub use registration::{CheckKind, HealthCheck, Held, Registered, Registration, Renewal};
pub use registry::{ReadOptions, Registry};
pub use selector::{
    Aperture, BoundedLoad, Built, Caller, Candidate, Context, Load, Maglev, Member, Needs, Only,
    Outcome, OutlierEjection, PeakEwma, PickRequest, Picker, PowerOfTwo, Random, Rendezvous,
    RingHash, RoundRobin, Selector, Slot, SlowStart, Smoothing, Stage, Sticky, Subset, Tiers,
    Total, WeightedRandom, WeightedRoundRobin, ZonePreference,
};
pub use target::{Options, RegistryUrl};
pub use tls::TlsConfig;
pub use turns::{Turn, Turns};
pub use watcher::{Change, Scope, Watcher};
