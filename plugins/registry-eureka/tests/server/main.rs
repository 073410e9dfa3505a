//! What the suite does not ask, against real servers.

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod records;
mod servers;

use registry_core::{Change, Error, Instance, ReadOptions, Registry, Result, Scope, Watcher};
use registry_eureka::Eureka;
use tokio::time::timeout;

async fn find(client: &Eureka, instance: &Instance) -> Result<Vec<Instance>> {
    let found = client
        .lookup(&instance.service, &ReadOptions::default())
        .await?;
    Ok(found.iter().map(|found| Instance::clone(found)).collect())
}

/// A lookup finds this instance and no other one.
async fn only(client: &Eureka, expected: &Instance) {
    let found = find(client, expected).await.unwrap();
    assert_eq!(found, std::slice::from_ref(expected));
}

async fn watch(client: &Eureka) -> Box<dyn Watcher> {
    client
        .watch(&Scope::All, &ReadOptions::default())
        .await
        .unwrap()
}

/// The error that ends a watch.
async fn end(watcher: &mut Box<dyn Watcher>) -> Error {
    let end = async {
        loop {
            if let Err(error) = watcher.next().await {
                return error;
            }
        }
    };
    timeout(common::LONG, end).await.expect("the watch ends")
}

/// Follows a watch until it tells this instance.
async fn told(watcher: &mut Box<dyn Watcher>, expected: &Instance) {
    let telling = async {
        loop {
            for change in watcher.next().await.unwrap() {
                let shown = match change {
                    Change::Snapshot(all) => all.iter().any(|shown| **shown == *expected),
                    Change::Upsert(shown) => *shown == *expected,
                    _ => false,
                };
                if shown {
                    return;
                }
            }
        }
    };
    timeout(common::LONG, telling)
        .await
        .expect("the instance is told");
}

fn at(instance: &Instance) -> String {
    let app = instance.service.as_str().to_uppercase();
    format!("/apps/{app}/{}:{}", instance.service, instance.id)
}
