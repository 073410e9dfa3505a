//! Eureka, beside `reqwest` and `serde_json`.

use std::sync::Arc;

use registry_conformance::server::Eureka;
use registry_core::{Drivers, Registry};
use reqwest::Client;
use serde_json::Value;
use tokio::time::Instant;

use crate::measure::{Times, compare};
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
    let drivers = Drivers::new().with(registry_eureka::DRIVER);
    let registry: Arc<dyn Registry> = drivers.connect(&url).await?;
    let count = effort.instances;
    ours::fill(&registry, "many", count).await?;
    let client = Client::new();
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..effort.reads {
        ours.add(ours::read(&registry, "many", count).await?);
        let begin = Instant::now();
        let request = client.get(format!("http://{address}/eureka/apps/MANY"));
        let answer = request.header("Accept", "application/json").send().await?;
        let all: Value = answer.error_for_status()?.json().await?;
        theirs.add(begin.elapsed());
        let found = all["application"]["instance"].as_array().map(Vec::len);
        assert_eq!(found, Some(count));
    }
    compare(&format!("a lookup of {count} instances"), &ours, &theirs);
    Ok(())
}
