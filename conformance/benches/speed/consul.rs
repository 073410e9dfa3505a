//! Consul, beside `reqwest`.

use std::sync::Arc;
use std::time::Duration;

use registry_conformance::server::Consul;
use registry_core::{Drivers, Registry};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::measure::{Times, compare, connections};
use crate::ours::{self, Idle, Pair};
use crate::{Effort, Failure};

pub(crate) async fn measure(effort: Effort) -> Result<(), Failure> {
    if let Some(missing) = Consul::missing() {
        println!("consul: left out: {missing}");
        return Ok(());
    }
    let telemetry = r#"{"telemetry":{"prometheus_retention_time":"10m","disable_hostname":true}}"#;
    let server = Consul::builder().configuration(telemetry).start().await?;
    let address = server.server().address();
    let url = format!("consul://{address}");
    println!("\nConsul, {url}");
    told(&format!("http://{address}"), &url, effort).await?;
    read(&format!("http://{address}"), &url, effort).await?;
    held(&server, &url, effort).await
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>, Failure> {
    Ok(Drivers::new()
        .with(registry_consul::DRIVER)
        .connect(url)
        .await?)
}

/// From `register` to the change at another client, beside a PUT to the return of a blocking query.
async fn told(base: &str, url: &str, effort: Effort) -> Result<(), Failure> {
    let mut pair = Pair::open(connect(url).await?, connect(url).await?, "told").await?;
    let (writer, reader) = (Client::new(), Client::new());
    let mut index = query(&reader, base, "bare", 0).await?.0;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for number in 0..effort.rounds {
        ours.add(pair.round(number).await?);
        theirs.add(bare_round(&writer, &reader, base, &mut index, number).await?);
    }
    compare("register to the change at another client", &ours, &theirs);
    Ok(())
}

/// The index of a health query, and how many entries it returns.
async fn query(
    client: &Client,
    base: &str,
    service: &str,
    index: u64,
) -> Result<(u64, Vec<Value>), Failure> {
    let url = format!("{base}/v1/health/service/{service}?index={index}&wait=20s");
    let answer = client.get(url).send().await?.error_for_status()?;
    let header = answer.headers().get("x-consul-index");
    let index = header.ok_or("no index")?.to_str()?.parse()?;
    Ok((index, answer.json().await?))
}

async fn bare_round(
    writer: &Client,
    reader: &Client,
    base: &str,
    index: &mut u64,
    number: usize,
) -> Result<Duration, Failure> {
    let id = format!("bare-{number}");
    let body = json!({
        "ID": id, "Name": "bare", "Address": "127.0.0.7", "Port": 8080,
        "Meta": {"transport": "grpc", "version": "1.2"},
        "Check": {"CheckID": format!("service:{id}"), "TTL": "600s", "Status": "passing"},
    });
    let put = writer
        .put(format!("{base}/v1/agent/service/register"))
        .json(&body);
    let begin = Instant::now();
    let call = tokio::spawn(async move { put.send().await?.error_for_status() });
    // Only with its check it is whole: the node's own check comes first.
    let whole = |entries: &[Value]| {
        let checks = |entry: &Value| entry["Checks"].as_array().map_or(0, Vec::len);
        entries.iter().any(|entry| checks(entry) > 1)
    };
    until(reader, base, index, whole).await?;
    let time = begin.elapsed();
    call.await??;
    let deregister = format!("{base}/v1/agent/service/deregister/{id}");
    writer.put(deregister).send().await?.error_for_status()?;
    until(reader, base, index, |entries| entries.is_empty()).await?;
    Ok(time)
}

/// Asks until the entries are as wanted.
async fn until(
    reader: &Client,
    base: &str,
    index: &mut u64,
    wanted: impl Fn(&[Value]) -> bool,
) -> Result<(), Failure> {
    loop {
        let (next, entries) = query(reader, base, "bare", *index).await?;
        *index = next;
        if wanted(&entries) {
            return Ok(());
        }
    }
}

/// A lookup of many, beside the bare read of the same bytes.
async fn read(base: &str, url: &str, effort: Effort) -> Result<(), Failure> {
    let registry = connect(url).await?;
    let count = effort.instances;
    let client = Client::new();
    fill(&registry, &client, base, count).await?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..effort.reads {
        ours.add(ours::read(&registry, "many", count).await?);
        let begin = Instant::now();
        let (_, entries) = query(&client, base, "many", 0).await?;
        theirs.add(begin.elapsed());
        assert_eq!(entries.len(), count);
    }
    compare(&format!("a lookup of {count} instances"), &ours, &theirs);
    Ok(())
}

/// Writes copies of one registration into the catalog, as those of another node: an agent takes the longer for each
/// service the more it has.
async fn fill(
    registry: &Arc<dyn Registry>,
    client: &Client,
    base: &str,
    count: usize,
) -> Result<(), Failure> {
    /// The server takes 128 operations at once.
    const AT_ONCE: usize = 60;
    ours::fill(registry, "many", 1).await?;
    let mut index = 0;
    let entry = loop {
        let (next, mut entries) = query(client, base, "many", index).await?;
        match entries.pop() {
            Some(entry) => break entry,
            None => index = next,
        }
    };
    let (service, mut check) = (&entry["Service"], entry["Checks"][1].clone());
    check["Node"] = "far".into();
    if let Some(check) = check.as_object_mut() {
        // A transaction does not take back all that a query tells.
        check.retain(|field, _| !["Interval", "Timeout"].contains(&field.as_str()));
    }
    let node =
        json!({ "Node": { "Verb": "set", "Node": { "Node": "far", "Address": "127.0.0.8" } } });
    let model = json!([
        { "Service": { "Verb": "set", "Node": "far", "Service": service } },
        { "Check": { "Verb": "set", "Check": check } },
    ])
    .to_string();
    let mut writes = vec![node];
    for number in 1..count {
        let copy = model.replace("many-0", &format!("many-{number}"));
        writes.extend(serde_json::from_str::<Vec<Value>>(&copy)?);
    }
    for part in writes.chunks(AT_ONCE * 2) {
        let put = client.put(format!("{base}/v1/txn")).json(part);
        let answer = put.send().await?;
        if !answer.status().is_success() {
            return Err(format!("the catalog refuses the copies: {}", answer.text().await?).into());
        }
    }
    Ok(())
}

/// What many registrations of one process cost, and a program at rest.
async fn held(server: &Consul, url: &str, effort: Effort) -> Result<(), Failure> {
    let port = server.server().address().port();
    let before = connections(port)?;
    let idle = Idle::start(connect(url).await?, effort.registrations, 300).await?;
    // What is counted is what it holds once it has settled.
    tokio::time::sleep(Duration::from_secs(6)).await;
    println!(
        "{} registrations and 300 watches of one process: {} connections",
        effort.registrations,
        connections(port)?.saturating_sub(before),
    );
    drop(idle);
    let _idle = Idle::start(connect(url).await?, 100, 100).await?;
    // Its beginning is not what it asks at rest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = requests(server).await?;
    tokio::time::sleep(Duration::from_secs(effort.idle)).await;
    let asked = requests(server).await? - before;
    println!(
        "100 registrations and 100 watches at rest: {asked} requests in {} s",
        effort.idle
    );
    Ok(())
}

/// How many HTTP requests the agent has answered.
async fn requests(server: &Consul) -> Result<u64, Failure> {
    let metrics = server
        .ask("GET", "/v1/agent/metrics?format=prometheus", "")
        .await?;
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("consul_api_http_count"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum::<f64>() as u64)
}
