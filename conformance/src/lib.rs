#![doc = include_str!("../README.md")]

#[macro_use]
mod case;
mod fixture;
mod history;
mod laws;
mod observer;
mod recorded;
mod runner;
mod suite;
mod wait;
mod world;

pub use case::{Case, Failure, Outcome};
pub use fixture::{
    Access, Backend, Fault, Faults, LocalProcess, MemoryBackend, Mode, Proxy, Site, free_port,
};
pub use runner::{check, run};
pub use suite::cases;
