//! What a process costs that registers and watches much and does nothing: its CPU time and its memory.

use std::error::Error;
use std::time::Duration;

use examples::args::Args;
use examples::console::Console;
use registry_plugins::{Discovery, Instance, Registrar, connect_from_env};
use tokio::task::JoinSet;
use tokio::time::sleep;

const HELP: &str = "\
Registers an instance of each of many services, watches them all, and says what that costs while nothing happens.

Usage: idle [--services COUNT] [--seconds SECONDS]

  --services COUNT   services to register and to watch   default: 100
  --seconds SECONDS  how long to do nothing              default: 30

The registry is named by REGISTRY_URL, such as mdns:// (the default). The figures are Linux' /proc.
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse(HELP);
    let services = args.take("services", 100_u32);
    let seconds = args.take("seconds", 30_u64).max(1);
    args.finish();
    let console = Console::new(10);
    console.event("before", "process", Cost::now()?);

    let registry = connect_from_env().await?;
    let registrar = Registrar::new(registry.clone());
    let mut registering = JoinSet::new();
    for service in 0..services {
        let registrar = registrar.clone();
        registering.spawn(async move {
            registrar
                .register(Instance::new(format!("idle-{service}"), "127.0.0.1:9"))
                .await
        });
    }
    let handles = registering
        .join_all()
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    console.event(
        "registered",
        "process",
        format_args!("{}; {} instances", Cost::now()?, handles.len()),
    );

    let discovery = Discovery::new(registry.clone());
    let mut views = Vec::new();
    for service in 0..services {
        let view = discovery.service(format!("idle-{service}")).await?;
        let mut moved = view.moved();
        while view.snapshot().instances.is_empty() {
            moved.changed().await?;
        }
        views.push(view);
    }
    let before = Cost::now()?;
    console.event(
        "watching",
        "process",
        format_args!("{before}; {} services", views.len()),
    );

    sleep(Duration::from_secs(seconds)).await;
    let after = Cost::now()?;
    console.event("idle", "process", after);
    let share = (after.cpu - before.cpu).as_secs_f64() * 100.0 / seconds as f64;
    console.text(format_args!(
        "\nIdle for {seconds} s: {share:.2} % of one CPU."
    ));

    drop(views);
    registrar.close(Duration::from_secs(10)).await?;
    registry.close().await?;
    Ok(())
}

/// What the process has cost so far.
#[derive(Clone, Copy)]
struct Cost {
    cpu: Duration,
    resident_kib: u64,
}

impl Cost {
    fn now() -> Result<Self, Box<dyn Error>> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // User and system time are the 14th and 15th field; the 2nd, in parentheses, may have spaces (proc(5)).
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = |n: usize| {
            fields
                .split_whitespace()
                .nth(n - 3)
                .and_then(|field| field.parse::<u64>().ok())
        };
        let ticks = ticks(14)
            .zip(ticks(15))
            .ok_or("/proc/self/stat cannot be read")?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident_kib = resident
            .and_then(|line| line.split_whitespace().next())
            .ok_or("no VmRSS")?
            .parse()?;
        // A tick is 10 ms on every Linux that Rust runs on.
        Ok(Self {
            cpu: Duration::from_millis((ticks.0 + ticks.1) * 10),
            resident_kib,
        })
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.resident_kib as f64 / 1024.0;
        write!(
            f,
            "{:>5} ms CPU so far, {mib:>5.1} MiB resident",
            self.cpu.as_millis()
        )
    }
}
