//! etcd, beside `etcd-client`.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, PutOptions, WatchOptions, WatchStream};
use registry_conformance::server::Etcd;
use registry_core::{Drivers, Registry};
use tokio::time::Instant;

use crate::measure::{Times, compare, connections};
use crate::ours::{self, Idle, Pair};
use crate::{Effort, Failure};

const PREFIX: &str = "/micro/registry/";
const KEEP_ALIVES: &str = r#"grpc_server_started_total{grpc_method="LeaseKeepAlive"#;

pub(crate) async fn measure(effort: Effort) -> Result<(), Failure> {
    if let Some(missing) = Etcd::missing() {
        println!("etcd: left out: {missing}");
        return Ok(());
    }
    let server = Etcd::start().await?;
    let url = format!("etcd://{}", server.server().address());
    println!("\netcd, {url}");
    told(&server, &url, effort).await?;
    read(&server, &url, effort).await?;
    held(&server, &url, effort).await
}

async fn connect(url: &str) -> Result<Arc<dyn Registry>, Failure> {
    Ok(Drivers::new()
        .with(registry_etcd::DRIVER)
        .connect(url)
        .await?)
}

async fn bare(server: &Etcd) -> Result<Client, Failure> {
    Ok(Client::connect([server.server().address().to_string()], None).await?)
}

/// From `register` to the change at another client, beside grant and put to the event.
async fn told(server: &Etcd, url: &str, effort: Effort) -> Result<(), Failure> {
    let mut pair = Pair::open(connect(url).await?, connect(url).await?, "told").await?;
    let (writer, mut watcher) = (bare(server).await?, bare(server).await?);
    let options = WatchOptions::new().with_prefix();
    let mut watch = watcher
        .watch(format!("{PREFIX}bare/"), Some(options))
        .await?;
    watch.message().await?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for number in 0..effort.rounds {
        ours.add(pair.round(number).await?);
        theirs.add(bare_round(writer.clone(), &mut watch, number).await?);
    }
    compare("register to the change at another client", &ours, &theirs);
    Ok(())
}

async fn bare_round(
    mut writer: Client,
    watch: &mut WatchStream,
    number: usize,
) -> Result<Duration, Failure> {
    let instance = ours::instance("bare", &format!("i{number}"))?;
    let (key, value) = (
        format!("{PREFIX}bare/i{number}"),
        registry_go_micro::encode(&instance),
    );
    let mut revoker = writer.clone();
    let begin = Instant::now();
    let call = tokio::spawn(async move {
        let lease = writer.lease_grant(600, None).await?.id();
        let options = PutOptions::new().with_lease(lease);
        writer.put(key, value, Some(options)).await?;
        Ok::<_, etcd_client::Error>(lease)
    });
    event(watch).await?;
    let time = begin.elapsed();
    let lease = call.await??;
    revoker.lease_revoke(lease).await?;
    event(watch).await?;
    Ok(time)
}

async fn event(watch: &mut WatchStream) -> Result<(), Failure> {
    loop {
        let message = watch.message().await?.ok_or("the watch ended")?;
        if !message.events().is_empty() {
            return Ok(());
        }
    }
}

/// A lookup of many, beside the bare read of the same bytes.
async fn read(server: &Etcd, url: &str, effort: Effort) -> Result<(), Failure> {
    let registry = connect(url).await?;
    let count = effort.instances;
    ours::fill(&registry, "many", count).await?;
    let kv = bare(server).await?.kv_client();
    let mut kv = kv.max_decoding_message_size(usize::MAX);
    let options = GetOptions::new().with_prefix();
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..effort.reads {
        ours.add(ours::read(&registry, "many", count).await?);
        let begin = Instant::now();
        let answer = kv
            .get(format!("{PREFIX}many/"), Some(options.clone()))
            .await?;
        let decoded = answer
            .kvs()
            .iter()
            .map(|kv| registry_go_micro::decode(kv.value()));
        let decoded: Vec<_> = decoded.collect::<Result<_, _>>()?;
        theirs.add(begin.elapsed());
        assert_eq!(decoded.len(), count);
    }
    compare(&format!("a lookup of {count} instances"), &ours, &theirs);
    Ok(())
}

/// What many registrations of one process cost, and a program at rest.
async fn held(server: &Etcd, url: &str, effort: Effort) -> Result<(), Failure> {
    let port = server.server().address().port();
    let before = connections(port)?;
    let streams = server.metric(KEEP_ALIVES).await?;
    let idle = Idle::start(connect(url).await?, effort.registrations, 0).await?;
    // What is counted is what it holds once it has settled.
    tokio::time::sleep(Duration::from_secs(6)).await;
    println!(
        "{} registrations of one process: {} connections, {} keep-alive streams",
        effort.registrations,
        connections(port)?.saturating_sub(before),
        server.metric(KEEP_ALIVES).await? - streams,
    );
    drop(idle);
    let _idle = Idle::start(connect(url).await?, 100, 100).await?;
    // Its beginning is not what it asks at rest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = server.metric("grpc_server_msg_received_total").await?;
    tokio::time::sleep(Duration::from_secs(effort.idle)).await;
    let asked = server.metric("grpc_server_msg_received_total").await? - before;
    println!(
        "100 registrations and 100 watches at rest: {asked} messages in {} s",
        effort.idle
    );
    Ok(())
}
