//! Two data centres, each with a real server.

mod common;

use std::time::Duration;

use common::{Agent, eventually, free_port, told};
use registry_core::{
    Change, ErrorKind, Instance, ReadOptions, Registration, Registry, ServiceName,
};
use serde_json::json;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn reads_may_ask_another_data_centre() {
    let [one, two] = [free_port(), free_port()];
    let config = |name: &str, own: u16, other: u16| {
        json!({
            "datacenter": name, "ports": { "serf_wan": own },
            "retry_join_wan": [format!("127.0.0.1:{other}")], "retry_interval_wan": "1s",
        })
    };
    let (first, second) = (config("dc1", one, two), config("dc2", two, one));
    let (Some(first), Some(second)) = tokio::join!(Agent::start(first), Agent::start(second))
    else {
        return;
    };
    let (near, far) = (first.client(""), second.client(""));
    let elsewhere = ReadOptions::default().datacenter("dc2".try_into().unwrap());
    let web = ServiceName::try_from("web").unwrap();
    eventually(LIMIT, "the data centres to know each other", async || {
        near.lookup(&web, &elsewhere).await.is_ok()
    })
    .await;
    let mut watch = near.watch(&web.clone().into(), &elsewhere).await.unwrap();
    let snapshot = timeout(LIMIT, watch.next()).await.unwrap().unwrap();
    assert_eq!(snapshot, [Change::Snapshot(vec![])]);
    let instance = Instance::new("web", "127.0.0.7:80")
        .id("i")
        .build()
        .unwrap();
    far.register(&Registration::from(instance.clone()))
        .await
        .unwrap();
    let told = told(&mut *watch, LIMIT).await;
    assert_eq!(told, [Change::Upsert(instance.into())]);
    assert_eq!(near.lookup(&web, &elsewhere).await.unwrap().len(), 1);
    let named = near.services(&elsewhere).await.unwrap();
    assert_eq!(named, std::slice::from_ref(&web));
    assert!(
        near.lookup(&web, &ReadOptions::default())
            .await
            .unwrap()
            .is_empty()
    );
    let by_url = first.client("datacenter=dc2");
    assert_eq!(
        by_url
            .lookup(&web, &ReadOptions::default())
            .await
            .unwrap()
            .len(),
        1
    );
    let nowhere = ReadOptions::default().datacenter("nowhere".try_into().unwrap());
    let error = near.lookup(&web, &nowhere).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("No path to datacenter"),
        "{error}"
    );
    // A data centre that dies ends its watches, and is no empty service.
    drop(second);
    let end = timeout(LIMIT, async {
        while watch.next().await.is_ok() {}
        near.lookup(&web, &elsewhere).await
    });
    let end = end.await.unwrap().unwrap_err();
    assert_eq!(end.kind(), ErrorKind::Unavailable, "{end}");
}
