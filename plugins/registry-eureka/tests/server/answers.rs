//! What servers and what stands before them may answer.

use registry_core::{ErrorKind, ReadOptions, Registry};
use serde_json::{Value, json};

use crate::common::{Rewriting, client, eventually, instance, left_out, registration, shared};
use crate::{end, find, only, told, watch};

#[tokio::test]
async fn a_count_that_is_always_wrong_costs_one_full_answer_for_each_poll() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    proxy.set(|path, _, answer| {
        if path.ends_with("/delta") {
            let mut json: Value = serde_json::from_str(&answer.body).unwrap();
            json["applications"]["apps__hashcode"] = "UP_999999_".into();
            answer.body = json.to_string();
        }
    });
    let (reader, writer, instance) = (client(proxy.address), client(server), instance());
    let mut watcher = watch(&reader).await;
    watcher.next().await.unwrap();
    writer.register(&registration(&instance)).await.unwrap();
    told(&mut watcher, &instance).await;
    let (full, delta) = proxy.asked();
    assert!(
        full <= delta + 1 && delta > 0,
        "{full} full answers for {delta} polls"
    );
    // When the count is right again, changes are enough.
    proxy.set(|_, _, _| {});
    let last = std::sync::Mutex::new(proxy.asked());
    eventually("polls with changes alone", || async {
        let (now, mut last) = (proxy.asked(), last.lock().unwrap());
        if now.0 != last.0 {
            *last = now;
        }
        Ok(now.1 >= last.1 + 2)
    })
    .await;
}

#[tokio::test]
async fn a_change_without_a_trace_is_found_by_the_count() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    let (reader, writer, instance) = (client(proxy.address), client(server), instance());
    let mut watcher = watch(&reader).await;
    watcher.next().await.unwrap();
    proxy.set(|path, _, answer| {
        if path.ends_with("/delta") {
            let mut json: Value = serde_json::from_str(&answer.body).unwrap();
            json["applications"]["application"] = json!([]);
            answer.body = json.to_string();
        }
    });
    writer.register(&registration(&instance)).await.unwrap();
    told(&mut watcher, &instance).await;
}

#[tokio::test]
async fn where_no_changes_are_told_everything_is_asked_for() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    for status in [403, 404, 200] {
        proxy.set(move |path, _, answer| {
            if path.ends_with("/delta") {
                answer.status = status;
                answer.body.clear();
                answer.content.clear();
            }
        });
        let (reader, writer, instance) = (client(proxy.address), client(server), instance());
        let mut watcher = watch(&reader).await;
        watcher.next().await.unwrap();
        writer.register(&registration(&instance)).await.unwrap();
        told(&mut watcher, &instance).await;
    }
}

#[tokio::test]
async fn other_spellings_of_an_answer_are_read() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    proxy.set(|_, _, answer| {
        answer.body = answer
            .body
            .replace(
                r#""port":{"$":80,"@enabled":"true"}"#,
                r#""port":{"@enabled":true,"$":"80"}"#,
            )
            .replace("overriddenStatus", "overriddenstatus");
        let Ok(mut json) = serde_json::from_str::<Value>(&answer.body) else {
            return;
        };
        // A list of one becomes the one.
        for pointer in ["/application/instance", "/applications/application"] {
            if let Some(list) = json.pointer_mut(pointer)
                && list.as_array().is_some_and(|list| list.len() == 1)
            {
                *list = list[0].take();
            }
        }
        answer.body = json.to_string();
    });
    let (client, instance) = (client(proxy.address), instance());
    client.register(&registration(&instance)).await.unwrap();
    only(&client, &instance).await;
    told(&mut watch(&client).await, &instance).await;
}

#[tokio::test]
async fn answers_that_are_none_are_errors_and_never_empty() {
    if left_out() {
        return;
    }
    let server = shared().await;
    let proxy = Rewriting::start(server).await;
    let instance = instance();
    client(server)
        .register(&registration(&instance))
        .await
        .unwrap();
    let cases: [(u16, &str, &str, ErrorKind); 9] = [
        (200, "", "", ErrorKind::Unavailable),
        (
            200,
            "application/xml",
            "<applications></applications>",
            ErrorKind::Protocol,
        ),
        (200, "text/html", "<html>login</html>", ErrorKind::Protocol),
        (
            200,
            "application/json",
            "{\"applications\":{\"application\":[",
            ErrorKind::Protocol,
        ),
        (
            200,
            "application/json",
            "{\"status\":\"UP\"}",
            ErrorKind::Protocol,
        ),
        (302, "", "", ErrorKind::Protocol),
        (401, "", "", ErrorKind::Denied),
        (403, "", "", ErrorKind::Unavailable),
        (503, "application/json", "{}", ErrorKind::Unavailable),
    ];
    for (status, content, body, kind) in cases {
        proxy.set(move |_, _, answer| {
            answer.status = status;
            answer.content = content.to_owned();
            answer.body = body.to_owned();
        });
        let client = client(proxy.address);
        let lookup = find(&client, &instance).await.unwrap_err();
        assert_eq!(lookup.kind(), kind, "{lookup:?}");
        let services = client.services(&ReadOptions::default()).await.unwrap_err();
        assert_eq!(services.kind(), kind, "{services:?}");
        let error = end(&mut watch(&client).await).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        if status != 403 {
            assert!(client.register(&registration(&instance)).await.is_err());
        }
    }
    // The path of another program, which knows nothing there.
    proxy.set(|_, _, answer| {
        answer.status = 404;
        answer.content = "application/json".to_owned();
        answer.body = "{\"status\":404}".to_owned();
    });
    let error = find(&client(proxy.address), &instance).await.unwrap_err();
    assert!(
        error.to_string().contains("no Eureka under the path"),
        "{error}"
    );
}
