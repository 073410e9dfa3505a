//! Lists and watches.

use etcd_client::{Txn, TxnOp};
use registry_conformance::Server as _;
use registry_core::{
    Change, ErrorKind, Instance, InstanceKey, ReadOptions, Registration, Registry,
};
use tokio::time::timeout;

use crate::{SOON, Server, next, record, register, registration, service, size, watch};

#[tokio::test]
async fn records_of_others_are_skipped_counted_and_hide_nobody() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let mut watch = watch(&client).await;
    assert_eq!(size(&next(&mut watch).await), 0);
    // The first one of the range.
    server.put("/micro/registry/web/0", "{").await;
    server.put("/micro/registry/web/a", &record("a")).await;
    assert_eq!(size(&next(&mut watch).await), 1);
    assert_eq!(client.skipped(), 1);
    for _ in 0..3 {
        let found = client.lookup(&service(), &ReadOptions::default()).await;
        assert_eq!(found.unwrap().len(), 1);
    }
    assert_eq!(client.skipped(), 1, "a record is counted once");
    server.put("/micro/registry/web/0", &record("0")).await;
    assert_eq!(size(&next(&mut watch).await), 1);
    // A record that turns bad is no longer an instance.
    server.put("/micro/registry/web/0", "null").await;
    let key = InstanceKey {
        service: service(),
        id: "0".try_into().unwrap(),
    };
    assert_eq!(next(&mut watch).await, [Change::Remove(key)]);
    assert_eq!(client.skipped(), 2);
    // It lives without a lease, as go-micro without a TTL writes it: its owner is not ours to judge.
    let taken = client.register(&registration("a")).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_transaction_larger_than_a_message_is_one_batch() {
    let Some(server) = Server::start(&["--max-request-bytes", "8000000"]).await else {
        return;
    };
    let client = server.client();
    let mut watch = watch(&client).await;
    next(&mut watch).await;
    let puts: Vec<_> = (0..100)
        .map(|number| {
            let mut instance = Instance::new("web", "10.0.0.1:80").id(format!("a{number}"));
            for key in 0..12 {
                instance = instance.meta(key.to_string(), "v".repeat(4000));
            }
            let value = registry_go_micro::encode(&instance.build().unwrap());
            TxnOp::put(format!("/micro/registry/web/a{number}"), value, None)
        })
        .collect();
    server
        .raw
        .clone()
        .txn(Txn::new().and_then(puts))
        .await
        .unwrap();
    assert_eq!(size(&next(&mut watch).await), 100);
    let found = client.lookup(&service(), &ReadOptions::default()).await;
    assert_eq!(found.unwrap().len(), 100);
}

#[tokio::test]
async fn a_list_larger_than_any_answer_is_read_in_smaller_pages() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    for number in 0..25 {
        let mut instance = Instance::new("web", "10.0.0.1:80").id(format!("a{number}"));
        for key in 0..200 {
            instance = instance.meta(key.to_string(), "v".repeat(4090));
        }
        let registration = Registration::from(instance.build().unwrap());
        client.register(&registration).await.unwrap();
    }
    let found = client.lookup(&service(), &ReadOptions::default()).await;
    assert_eq!(found.unwrap().len(), 25);
}

#[tokio::test]
async fn a_loss_of_data_ends_a_watch() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    for number in 0..20 {
        register(&client, registration(&format!("a{number}"))).await;
    }
    let mut watch = watch(&client).await;
    assert_eq!(size(&next(&mut watch).await), 20);
    server.process.wipe().await.unwrap();
    let end = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    let error = timeout(SOON, end).await.unwrap();
    assert!(error.is_temporary(), "{error}");
    assert!(watch.next().await.is_err(), "an error is the end");
}
