//! `greeter-server` and `greeter-client`, as in two terminals.

mod common;

use common::Program;
use common::registry::{Registry, on_every_registry};
use tokio::process::Command;

fn server(registry: &str, id: &str) -> Program {
    let args = ["--id", id, "--host", "127.0.0.1"];
    Program::start(env!("CARGO_BIN_EXE_greeter-server"), registry, &args)
}

fn client(registry: &str, args: &[&str]) -> Program {
    Program::start(env!("CARGO_BIN_EXE_greeter-client"), registry, args)
}

on_every_registry!(a_fleet);

/// Servers come, one is killed, one leaves, and every call is answered.
async fn a_fleet(registry: &Registry) {
    let (registry, killed) = (registry.url.as_str(), registry.killed);
    let mut first = server(registry, "first");
    let mut second = server(registry, "second");
    first.says(&["registered", "greeter/first"]).await;
    second.says(&["registered", "greeter/second"]).await;

    let mut client = client(registry, &["--every", "0.05"]);
    client.says(&["call", "this is first"]).await;
    client.says(&["call", "this is second"]).await;

    second.process.kill().await.unwrap();
    client
        .says(&["call", "second", "refused the connection"])
        .await;
    client.says(&[killed, "second"]).await;

    let mut third = server(registry, "third");
    third.says(&["registered"]).await;
    client.says(&["call", "this is third"]).await;

    first.interrupt().await;
    client.says(&["changed", "first", "draining"]).await;
    client.says(&["gone", "first"]).await;
    client.says(&["call", "this is third"]).await;

    // Its end fails when a call was not answered.
    client.interrupt().await;
    third.interrupt().await;
}

#[tokio::test]
async fn on_memory_each_program_is_alone_and_says_so() {
    let mut server = server("memory://", "alone");
    server.says(&["a registry inside this process"]).await;
    server.says(&["registered", "greeter/alone"]).await;

    let mut client = client("memory://", &["--calls", "1"]);
    client.says(&["call 1", "nobody"]).await;
    assert_eq!(client.process.wait().await.unwrap().code(), Some(1));
    server.interrupt().await;
}

#[tokio::test]
async fn a_wrong_command_line_or_registry_is_refused() {
    let run = |registry, args: [&'static str; 2]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_greeter-server"));
        command.args(args).env("REGISTRY_URL", registry).output()
    };
    let wrong_option = run("memory://", ["--prot", "80"]).await.unwrap();
    assert_eq!(wrong_option.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong_option.stderr).contains("--prot"));

    let wrong_registry = run("pigeon://", ["--port", "0"]).await.unwrap();
    assert_eq!(wrong_registry.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong_registry.stderr).contains("pigeon"));
}
