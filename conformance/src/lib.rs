#![doc = include_str!("../README.md")]

#[macro_use]
mod case;
mod fixture;
mod history;
mod laws;
mod observer;
mod recorded;
mod runner;
pub mod server;
mod suite;
mod wait;
mod world;

pub use case::{Case, Failure, Outcome};
pub use fixture::{Access, Backend, Fault, Faults, MemoryBackend, Mode, Proxy, Site};
pub use runner::{check, run};
pub use server::{LocalProcess, Server, free_port};
pub use suite::cases;
