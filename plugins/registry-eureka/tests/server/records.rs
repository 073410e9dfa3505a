//! What becomes of a record.

use registry_core::{Held, Registry, Renewal, Status};
use serde_json::Value;

use crate::common::{ask, client, instance, left_out, registration, shared};
use crate::{at, find, only};

#[tokio::test]
async fn what_an_operator_overrides_is_read_and_never_cleared() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let (client, instance) = (client(server), instance());
    let registered = client.register(&registration(&instance)).await.unwrap();
    let held = Held::new(registration(&instance).into(), registered);
    let path = format!("{}/status", at(&instance));
    let out = instance.edit().status(Status::Maintenance).build().unwrap();
    assert_eq!(
        ask(server, "PUT", &format!("{path}?value=OUT_OF_SERVICE"), None)
            .await
            .0,
        200
    );
    only(&client, &out).await;
    client.register(&registration(&instance)).await.unwrap();
    assert!(matches!(
        client.renew(&[held]).await[..],
        [Ok(Renewal::Held(_))]
    ));
    only(&client, &out).await;
    // What he says of himself is worse, and shows; then he is better, and the operator's word holds again.
    let down = instance.edit().status(Status::Down).build().unwrap();
    client.register(&registration(&down)).await.unwrap();
    only(&client, &down).await;
    client.register(&registration(&instance)).await.unwrap();
    only(&client, &out).await;
    assert_eq!(
        ask(server, "DELETE", &format!("{path}?value=UP"), None)
            .await
            .0,
        200
    );
    only(&client, &instance).await;
}

#[tokio::test]
async fn every_status_follows_every_other() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let (client, instance) = (client(server), instance());
    for from in Status::ALL {
        for to in Status::ALL {
            for status in [from, to] {
                let now = instance.edit().status(status).build().unwrap();
                client.register(&registration(&now)).await.unwrap();
                assert_eq!(
                    find(&client, &instance).await.unwrap(),
                    [now],
                    "{from} to {to}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_renewal_of_the_unknown_and_of_a_newer_record_says_so() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let (client, instance) = (client(server), instance());
    let mut registered = client.register(&registration(&instance)).await.unwrap();
    let held = |registered| [Held::new(registration(&instance).into(), registered)];
    // The server missed what we registered last.
    registered.token += 1;
    assert!(matches!(
        client.renew(&held(registered.clone())).await[..],
        [Ok(Renewal::Unknown)]
    ));
    registered.token -= 1;
    assert!(matches!(
        client.renew(&held(registered.clone())).await[..],
        [Ok(Renewal::Held(_))]
    ));
    let (status, _) = ask(server, "DELETE", &at(&instance), None).await;
    assert_eq!(status, 200);
    assert!(matches!(
        client.renew(&held(registered)).await[..],
        [Ok(Renewal::Unknown)]
    ));
    assert!(find(&client, &instance).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_clock_that_was_ahead_does_not_lock_the_id() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let instance = instance();
    let before = client(server);
    before.register(&registration(&instance)).await.unwrap();
    let record = ask(server, "GET", &at(&instance), None).await.1;
    let mut record: Value = serde_json::from_str(&record).unwrap();
    record["instance"]["lastDirtyTimestamp"] = "9999999999999".into();
    let app = format!("/apps/{}", instance.service.as_str().to_uppercase());
    assert_eq!(ask(server, "POST", &app, Some(record)).await.0, 204);
    let after = client(server);
    let moved = instance.edit().address("10.0.0.2:80").build().unwrap();
    after.register(&registration(&moved)).await.unwrap();
    only(&after, &moved).await;
    let again = moved.edit().weight(3).build().unwrap();
    after.register(&registration(&again)).await.unwrap();
    only(&after, &again).await;
}
