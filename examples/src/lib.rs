//! What the examples share: a tiny HTTP server and its client, and lines for people to read.
//!
//! The stories themselves are in `src/bin/`, one program each.

pub mod args;
pub mod calls;
pub mod client;
pub mod console;
pub mod greeter;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod hint;
pub mod server;
pub mod signal;
