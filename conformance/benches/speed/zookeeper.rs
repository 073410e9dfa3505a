//! ZooKeeper, beside `zookeeper-client`.

use std::sync::Arc;
use std::time::Duration;

use registry_conformance::server::ZooKeeper;
use registry_core::{Drivers, Registry};
use tokio::time::Instant;
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, EventType, PersistentWatcher};

use crate::measure::{Times, compare};
use crate::ours::{self, Pair};
use crate::{Effort, Failure};

const ROOT: &str = "/micro-registry";

pub(crate) async fn measure(effort: Effort) -> Result<(), Failure> {
    if let Some(missing) = ZooKeeper::missing() {
        println!("zookeeper: left out: {missing}");
        return Ok(());
    }
    let server = ZooKeeper::start().await?;
    let address = server.server().address().to_string();
    let url = format!("zookeeper://{address}");
    println!("\nZooKeeper, {url}");
    told(&address, &url, effort).await?;
    read(&address, &url, effort).await
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>, Failure> {
    let drivers = Drivers::new().with(registry_zookeeper::DRIVER);
    Ok(drivers.connect(url).await?)
}

/// From `register` to the change at another client, beside create, event and read.
async fn told(address: &str, url: &str, effort: Effort) -> Result<(), Failure> {
    let mut pair = Pair::open(connect(url).await?, connect(url).await?, "told").await?;
    let (writer, reader) = (
        Client::connect(address).await?,
        Client::connect(address).await?,
    );
    let service = format!("{ROOT}/bare");
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    writer.mkdir(&service, &options).await?;
    let mut watch = reader
        .watch(&service, AddWatchMode::PersistentRecursive)
        .await?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for number in 0..effort.rounds {
        ours.add(pair.round(number).await?);
        theirs.add(bare_round(&writer, &reader, &mut watch, number).await?);
    }
    compare("register to the change at another client", &ours, &theirs);
    Ok(())
}

async fn bare_round(
    writer: &Client,
    reader: &Client,
    watch: &mut PersistentWatcher,
    number: usize,
) -> Result<Duration, Failure> {
    let instance = ours::instance("bare", &format!("i{number}"))?;
    let (path, value) = (
        format!("{ROOT}/bare/i{number}"),
        registry_go_micro::encode(&instance),
    );
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let begin = Instant::now();
    // A request is sent when its future is made.
    let call = writer.create(&path, value.as_bytes(), &options);
    event(watch, EventType::NodeCreated).await;
    reader.get_data(&path).await?;
    let time = begin.elapsed();
    call.await?;
    writer.delete(&path, None).await?;
    event(watch, EventType::NodeDeleted).await;
    Ok(time)
}

async fn event(watch: &mut PersistentWatcher, wanted: EventType) {
    while watch.changed().await.event_type != wanted {}
}

/// A lookup of many, beside the bare reads of the same nodes, all of them on their way at once.
async fn read(address: &str, url: &str, effort: Effort) -> Result<(), Failure> {
    let registry = connect(url).await?;
    let count = effort.instances;
    ours::fill(&registry, "many", count).await?;
    let client = Client::connect(address).await?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..effort.reads {
        ours.add(ours::read(&registry, "many", count).await?);
        let begin = Instant::now();
        let names = client.list_children(&format!("{ROOT}/many")).await?;
        let reads: Vec<_> = names
            .iter()
            .map(|name| client.get_data(&format!("{ROOT}/many/{name}")))
            .collect();
        let mut decoded = Vec::with_capacity(count);
        for read in reads {
            decoded.push(registry_go_micro::decode(&read.await?.0)?);
        }
        theirs.add(begin.elapsed());
        assert_eq!(decoded.len(), count);
    }
    compare(&format!("a lookup of {count} instances"), &ours, &theirs);
    Ok(())
}
