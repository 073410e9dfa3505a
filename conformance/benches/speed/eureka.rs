//! Eureka, beside `reqwest` and `serde_json`.

use std::process::Command;
use std::sync::Arc;

use registry_conformance::server::Eureka;
use registry_core::{Drivers, ReadOptions, Registry};
use reqwest::Client;
use serde_json::Value;
use tokio::time::Instant;

use crate::measure::{Growth, Times, compare};
use crate::ours;
use crate::{Effort, Failure};

pub(crate) async fn measure(effort: Effort) -> Result<(), Failure> {
    if let Some(missing) = Eureka::missing() {
        println!("eureka: left out: {missing}");
        return Ok(());
    }
    let server = Eureka::start().await?;
    let address = server.server().address();
    println!("\nEureka, eureka://{address}");
    let url = format!("eureka://{address}?cache=1s&eviction=1s&self-preservation=false");
    let registry = connect(&url).await?;
    let count = effort.instances;
    ours::fill(&registry, "many", count).await?;
    let (client, address) = (Client::new(), address.to_string());
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..effort.reads {
        ours.add(ours::read(&registry, "many", count).await?);
        let begin = Instant::now();
        let all: Value = serde_json::from_slice(&bare(&client, &address, "MANY").await?)?;
        theirs.add(begin.elapsed());
        let found = all["application"]["instance"].as_array().map(Vec::len);
        assert_eq!(found, Some(count));
    }
    compare(&format!("a lookup of {count} instances"), &ours, &theirs);
    println!("how much memory grows at most by one such lookup");
    for (who, target) in [("bytes", &address), ("value", &address), ("ours", &url)] {
        let program = std::env::current_exe()?;
        let output = Command::new(program).args([PEAK, who, target]).output()?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// The first argument of a process that measures memory.
pub(crate) const PEAK: &str = "peak";

/// Prints how much memory one lookup takes: for the bytes alone, for them as JSON, or for ours.
pub(crate) async fn peak(who: &str, target: &str) -> Result<(), Failure> {
    if who == "ours" {
        let registry = connect(target).await?;
        let (none, many) = ("none".try_into()?, "many".try_into()?);
        registry.lookup(&none, &ReadOptions::default()).await?;
        let growth = Growth::from_here()?;
        let found = registry.lookup(&many, &ReadOptions::default()).await?;
        let grown = growth.peak()?;
        println!("  ours     {grown} KiB, {} instances", found.len());
        return Ok(());
    }
    let client = Client::new();
    // Who is unknown is a 404.
    let _ = bare(&client, target, "NONE").await;
    let growth = Growth::from_here()?;
    let bytes = bare(&client, target, "MANY").await?;
    let all = (who == "value").then(|| serde_json::from_slice::<Value>(&bytes));
    let (grown, size) = (growth.peak()?, bytes.len() / 1024);
    println!("  {who:<8} {grown} KiB, {size} KiB of JSON");
    drop(all);
    Ok(())
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>, Failure> {
    let drivers = Drivers::new().with(registry_eureka::DRIVER);
    Ok(drivers.connect(url).await?)
}

async fn bare(client: &Client, address: &str, name: &str) -> Result<Vec<u8>, Failure> {
    let request = client.get(format!("http://{address}/eureka/apps/{name}"));
    let answer = request.header("Accept", "application/json").send().await?;
    Ok(answer.error_for_status()?.bytes().await?.into())
}
