//! `greeter-server` and `http-client`, as in two terminals.

mod common;

use common::Program;
use common::registry::{Registry, on_every_registry};

fn server(registry: &str, id: &str) -> Program {
    let args = ["--id", id, "--host", "127.0.0.1"];
    Program::start(env!("CARGO_BIN_EXE_greeter-server"), registry, &args)
}

on_every_registry!(a_fleet);

/// Servers come, one is killed, one leaves, and every request is answered.
async fn a_fleet(registry: &Registry) {
    let (registry, killed) = (registry.url.as_str(), registry.killed);
    let args = ["--every", "0.05"];
    let mut client = Program::start(env!("CARGO_BIN_EXE_http-client"), registry, &args);
    let first = server(registry, "first");
    let mut second = server(registry, "second");
    client.says(&["call", "this is first"]).await;
    client.says(&["call", "this is second"]).await;

    second.process.kill().await.unwrap();
    client.says(&[killed, "second"]).await;
    let third = server(registry, "third");
    client.says(&["call", "this is third"]).await;

    first.interrupt().await;
    client.says(&["gone", "first"]).await;
    client.says(&["call", "this is third"]).await;

    // Its end fails when a request was not answered.
    client.interrupt().await;
    third.interrupt().await;
}
