//! What a gRPC call through the registry costs and survives, beside tonic's own channels, in one run.
//!
//! `cargo bench -p registry-conformance --bench grpc`. Servers run in this process, each in a runtime of its own; calls are
//! those of the standard health service. Ours and theirs take turns, so that what else the machine does meets both; read
//! the shares and ratios, not the times.

mod load;
mod restart;
mod server;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Discovery, Instance, Memory, PeakEwma, Registration, Registry, RoundRobin, Selector,
};
use registry_tonic::{Channel, ChannelConfig};
use tonic::transport::Channel as Theirs;
use tonic::transport::channel::Change;

use load::{Calls, run};
use server::Server;

type Failure = Box<dyn Error + Send + Sync>;

/// How much is measured: little where only the program itself is tested.
#[derive(Clone, Copy)]
struct Effort {
    /// Calls of each kind of channel.
    calls: usize,
    /// Instances that are restarted one after the other.
    fleet: usize,
    /// Whether registries with servers take part.
    servers: bool,
}

fn main() -> Result<(), Failure> {
    // Cargo says `--bench` when it measures, and nothing when it tests that benches run.
    let effort = match std::env::args().any(|argument| argument == "--bench") {
        true => Effort {
            calls: 5000,
            fleet: 10,
            servers: true,
        },
        false => Effort {
            calls: 50,
            fleet: 2,
            servers: false,
        },
    };
    let mut one = tokio::runtime::Builder::new_multi_thread();
    let one = one.worker_threads(1).enable_all().build()?;
    one.block_on(single(effort, "one worker thread"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        single(effort, "a worker thread for each processor").await?;
        dead(effort).await?;
        slow(effort).await?;
        restart::measure(effort).await
    })
}

/// One healthy instance: what the channel adds to a call. With one worker thread that is what it does itself; with several
/// it is also how often a call changes between them.
async fn single(effort: Effort, workers: &str) -> Result<(), Failure> {
    const TURN: usize = 50;
    let mut times = [Calls::default(), Calls::default(), Calls::default()];
    // Which thread has which connection makes a difference of some percent: so with several of each.
    for _ in 0..effort.fleet {
        let server = Server::start(Duration::ZERO)?;
        let bare = server.endpoint()?.connect().await?;
        let balanced = Theirs::balance_list([server.endpoint()?].into_iter());
        let ours = ours(&[&server], RoundRobin::default(), ChannelConfig::default()).await?;
        // In turns, in an order of its own each round: who comes after whom is part of what is measured.
        let mut order = [0, 1, 2];
        for _ in 0..effort.calls / TURN {
            fastrand::shuffle(&mut order);
            for who in order {
                times[who].add(match who {
                    0 => run(&bare, 1, TURN).await,
                    1 => run(&balanced, 1, TURN).await,
                    _ => run(&ours, 1, TURN).await,
                });
            }
        }
    }
    println!(
        "one healthy instance, {workers}, one call after the other ({} each)",
        effort.fleet * effort.calls
    );
    for (who, calls) in ["tonic, bare", "tonic, balance_list", "ours"]
        .iter()
        .zip(&times)
    {
        println!(
            "  {who:<22} {calls}   ratio to bare {:.3}",
            calls.ratio(&times[0], 0.5)
        );
    }
    println!();
    Ok(())
}

/// Two instances of which one is dead.
async fn dead(effort: Effort) -> Result<(), Failure> {
    let (living, mut killed) = (
        Server::start(Duration::ZERO)?,
        Server::start(Duration::ZERO)?,
    );
    let list = Theirs::balance_list([living.endpoint()?, killed.endpoint()?].into_iter());
    let (channel, changes) = Theirs::balance_channel(8);
    for (key, server) in [&living, &killed].into_iter().enumerate() {
        changes
            .send(Change::Insert(key, server.endpoint()?))
            .await?;
    }
    let ours = ours(
        &[&living, &killed],
        RoundRobin::default(),
        ChannelConfig::default(),
    )
    .await?;
    // All are connected.
    run(&list, 1, 20).await;
    run(&channel, 1, 20).await;
    run(&ours, 1, 20).await;
    killed.kill();
    println!(
        "two instances, one of them killed ({} calls each)",
        effort.calls
    );
    let list = run(&list, 4, effort.calls).await;
    println!("  {:<22} {list}", "tonic, balance_list");
    let channel = run(&channel, 4, effort.calls).await;
    println!("  {:<22} {channel}", "tonic, balance_channel");
    let ours = run(&ours, 4, effort.calls).await;
    println!("  {:<22} {ours}", "ours");
    Ok(())
}

/// Ten instances of which one takes twenty times as long.
async fn slow(effort: Effort) -> Result<(), Failure> {
    const USUAL: Duration = Duration::from_millis(2);
    let mut servers = Vec::new();
    for number in 0..10 {
        servers.push(Server::start(if number == 0 { USUAL * 20 } else { USUAL })?);
    }
    let endpoints: Result<Vec<_>, _> = servers.iter().map(Server::endpoint).collect();
    let list = Theirs::balance_list(endpoints?.into_iter());
    let all: Vec<_> = servers.iter().collect();
    let ours = ours(&all, PeakEwma::default(), ChannelConfig::default()).await?;
    run(&list, 10, 100).await;
    run(&ours, 10, 100).await;
    println!(
        "\nten instances, one of them twenty times slower ({} calls each)",
        effort.calls
    );
    let theirs = run(&list, 10, effort.calls).await;
    println!("  {:<22} {theirs}", "tonic, balance_list");
    let ours = run(&ours, 10, effort.calls).await;
    println!(
        "  {:<22} {ours}   p99 ratio {:.2}",
        "ours, Peak-EWMA",
        ours.ratio(&theirs, 0.99)
    );
    Ok(())
}

/// A channel of ours to these servers, by the memory backend.
async fn ours(
    servers: &[&Server],
    selector: impl Selector,
    config: ChannelConfig,
) -> Result<Channel, Failure> {
    let registry = Arc::new(Memory::new());
    for (number, server) in servers.iter().enumerate() {
        let instance = Instance::new("web", server.address()).id(format!("i{number}"));
        let registration = Registration::new(instance)?.ttl(Duration::from_secs(3600));
        registry.register(&registration).await?;
    }
    let balancer = Discovery::new(registry).balancer("web", selector).await?;
    Ok(Channel::with_config(balancer, config)?)
}
