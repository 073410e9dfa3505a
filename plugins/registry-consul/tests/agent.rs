//! What a real agent does with registrations and watches, beyond what the suite asks.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Agent, eventually, lookup, told, turns};
use registry_core::{
    Change, ErrorKind, Held, Instance, ReadOptions, Registration, Registry, Renewal, Scope,
    ServiceName, Status, Watcher,
};
use serde_json::{Value, json};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

fn registration(service: &str, id: &str) -> Registration {
    let instance = Instance::new(service, "127.0.0.7:80").id(id).meta("k", "v");
    Registration::new(instance)
        .unwrap()
        .ttl(Duration::from_secs(120))
}

fn name(service: &str) -> ServiceName {
    service.try_into().unwrap()
}

async fn snapshot(watch: &mut dyn Watcher) -> usize {
    match &timeout(LIMIT, watch.next()).await.unwrap().unwrap()[..] {
        [Change::Snapshot(all)] => all.len(),
        other => panic!("{other:?}"),
    }
}

/// How many connections the agent has from clients.
fn connections(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|line| line.len() > 3 && line[1].ends_with(&local) && line[3] == ESTABLISHED)
        .count()
}

#[tokio::test]
async fn what_the_catalog_lost_is_unknown_and_registering_again_heals_it() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let mut held = Vec::new();
    for id in ["a", "b"] {
        let wish = registration("web", id);
        let registered = registry.register(&wish).await.unwrap();
        held.push(Held::new(Arc::new(wish), registered));
    }
    eventually(LIMIT, "both", async || {
        lookup(&registry, "web").await.len() == 2
    })
    .await;
    let gone = json!({ "Node": "test", "ServiceID": "web:a" });
    // The agent has it still and takes heartbeats; for a moment after a registration its absence is no news.
    let begin = tokio::time::Instant::now();
    eventually(LIMIT, "the loss to be noticed", async || {
        // Again, for the agent's first full sync may bring it back.
        agent.put("catalog/deregister", None, gone.clone()).await;
        let answers = registry.renew(&held).await;
        assert!(matches!(answers[1], Ok(Renewal::Held(_))), "{answers:?}");
        matches!(answers[0], Ok(Renewal::Unknown))
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(5));
    registry.register(&held[0].registration).await.unwrap();
    eventually(Duration::from_secs(2), "both again", async || {
        lookup(&registry, "web").await.len() == 2
    })
    .await;
}

#[tokio::test]
async fn three_hundred_watches_share_few_connections_and_leave_none() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let (registry, writer) = (agent.client("connections=24"), agent.client(""));
    let mut watches = Vec::new();
    for number in 0..300 {
        let scope = Scope::Service(name(&format!("service-{number}")));
        watches.push(
            registry
                .watch(&scope, &ReadOptions::default())
                .await
                .unwrap(),
        );
    }
    for watch in &mut watches {
        assert_eq!(snapshot(&mut **watch).await, 0);
    }
    let before = connections(agent.port);
    assert!(before <= 24 + 16, "{before} connections");
    for number in [0, 150, 299] {
        let service = format!("service-{number}");
        writer.register(&registration(&service, "a")).await.unwrap();
        let told = told(&mut *watches[number], Duration::from_secs(2)).await;
        assert!(matches!(&told[..], [Change::Upsert(i)] if i.service.as_str() == service));
    }
    // A record that changes beside all checks, as other programs write it.
    for port in [1, 2] {
        let record =
            json!({ "ID": "theirs", "Name": "service-200", "Address": "127.0.0.9", "Port": port });
        agent.put("agent/service/register", None, record).await;
        let told = told(&mut *watches[200], Duration::from_secs(7)).await;
        assert!(
            matches!(&told[..], [Change::Upsert(i)] if i.address.port() == port),
            "{told:?}"
        );
    }
    drop(watches);
    // Those of calls stay open for the next calls, those of watches close.
    eventually(
        Duration::from_secs(2),
        "the watches to be closed",
        async || connections(agent.port) <= before.saturating_sub(8),
    )
    .await;
}

#[tokio::test]
async fn go_micros_tags_are_written_beside_the_plain_fields() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("format=go-micro&tag=primary");
    let instance = Instance::new("greeter", "10.0.0.1:8080")
        .id("greeter-1")
        .version("1.0.0");
    let instance = instance.meta("transport", "http").build().unwrap();
    registry
        .register(&Registration::from(instance.clone()))
        .await
        .unwrap();
    eventually(LIMIT, "it", async || {
        lookup(&registry, "greeter").await.len() == 1
    })
    .await;
    assert_eq!(*lookup(&registry, "greeter").await[0], instance);
    let entry = agent.get("health/service/greeter?passing", None).await;
    let tags: Vec<String> = serde_json::from_value(entry[0]["Service"]["Tags"].clone()).unwrap();
    assert!(
        tags[0].starts_with("t-789c") && tags[1].starts_with("v-789c"),
        "{tags:?}"
    );
    assert_eq!(tags[2..], ["version=1.0.0", "primary"]);
}

#[tokio::test]
async fn a_status_is_seen_by_other_clients_and_outlives_the_minute_of_the_dead() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let with = |status| {
        let instance = Instance::new("web", "127.0.0.7:80").id("i").status(status);
        Registration::new(instance).unwrap()
    };
    for (status, passing, critical) in [
        (Status::Up, 1, 0),
        (Status::Draining, 0, 1),
        (Status::Warning, 0, 0),
        (Status::Maintenance, 0, 1),
        (Status::Up, 1, 0),
    ] {
        registry.register(&with(status)).await.unwrap();
        turns(&registry, "web", status, LIMIT).await;
        eventually(LIMIT, "what others see", async || {
            let all = agent.get("health/service/web?passing", None).await;
            let count = |state: &Value| state.as_array().map_or(0, Vec::len);
            let shown = agent.get("health/state/critical", None).await;
            count(&all) == passing && count(&shown) == critical
        })
        .await;
    }
    // Only the heartbeat, which passes while the process lives, removes an instance when it is critical.
    registry.register(&with(Status::Draining)).await.unwrap();
    let health = agent.get("agent/health/service/id/web:i", None).await;
    let checks = health["Checks"].as_array().unwrap();
    let heartbeat = checks
        .iter()
        .find(|check| check["CheckID"] == "web:i:ttl")
        .unwrap();
    assert_eq!(heartbeat["Status"], "passing");
}

#[tokio::test]
async fn acls_that_hide_a_service_are_an_error_and_not_an_empty_list() {
    const ROOT: &str = "8f246b77-f3e1-ff88-5b48-8ec93abf3e05";
    let acl = json!({
        "primary_datacenter": "dc1",
        "acl": {
            "enabled": true, "default_policy": "deny",
            "tokens": { "initial_management": ROOT, "agent": ROOT },
        },
    });
    let Some(agent) = Agent::start(acl).await else {
        return;
    };
    eventually(LIMIT, "the first token", async || {
        agent
            .get("catalog/nodes", Some(ROOT))
            .await
            .as_array()
            .is_some_and(|all| !all.is_empty())
    })
    .await;
    let token = async |rules: &str| {
        let policy = json!({ "Name": format!("p{}", fastrand::u32(..)), "Rules": rules });
        let policy = agent.put("acl/policy", Some(ROOT), policy).await;
        let token = json!({ "Policies": [{ "ID": policy["ID"] }] });
        let token = agent.put("acl/token", Some(ROOT), token).await;
        token["SecretID"].as_str().unwrap().to_owned()
    };
    let write =
        token("service \"web\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }")
            .await;
    let bare = token("service \"web\" { policy = \"write\" }").await;
    let other =
        token("service \"api\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }").await;
    let client = |token: &str| agent.client(&format!("token={token}"));
    let (root, web) = (client(ROOT), client(&write));
    let wish = registration("web", "a");
    let registered = web.register(&wish).await.unwrap();
    let held = [Held::new(Arc::new(wish), registered)];
    eventually(LIMIT, "it", async || lookup(&web, "web").await.len() == 1).await;
    assert!(matches!(web.renew(&held).await[..], [Ok(Renewal::Held(_))]));
    assert!(lookup(&web, "web").await.len() == 1 && lookup(&root, "nobody").await.is_empty());

    // Who may write the service and read no node cannot look into the catalog: the agent's word has to do.
    let writer = client(&bare);
    let wish = registration("web", "b");
    let registered = writer.register(&wish).await.unwrap();
    let held = [Held::new(Arc::new(wish), registered)];
    eventually(LIMIT, "both", async || lookup(&web, "web").await.len() == 2).await;
    let begin = tokio::time::Instant::now();
    eventually(
        LIMIT,
        "the time in which an absence is no news",
        async || {
            let answers = writer.renew(&held).await;
            assert!(matches!(answers[..], [Ok(Renewal::Held(_))]), "{answers:?}");
            begin.elapsed() > Duration::from_secs(4)
        },
    )
    .await;

    let options = ReadOptions::default();
    for (what, registry) in [
        ("no token", agent.client("")),
        (
            "an unknown token",
            client("8f246b77-f3e1-ff88-5b48-8ec93abf3e06"),
        ),
        ("a token without node:read", client(&bare)),
        ("a token for another service", client(&other)),
    ] {
        let denied = |result: registry_core::Result<()>| {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Denied, "{what}: {error}");
        };
        denied(registry.lookup(&name("web"), &options).await.map(drop));
        let mut watch = registry.watch(&name("web").into(), &options).await.unwrap();
        denied(timeout(LIMIT, watch.next()).await.unwrap().map(drop));
        let foreign = registry.register(&registration("db", "x")).await;
        denied(foreign.map(drop));
    }

    // A token that is withdrawn ends a watch that has seen something, and is not taken for an empty service.
    let mut watch = web.watch(&name("web").into(), &options).await.unwrap();
    assert_eq!(snapshot(&mut *watch).await, 2);
    let tokens = agent.get("acl/tokens", Some(ROOT)).await;
    for token in tokens.as_array().unwrap() {
        if token["SecretID"] == write.as_str() {
            let path = format!("acl/token/{}", token["AccessorID"].as_str().unwrap());
            agent.delete(&path, ROOT).await;
        }
    }
    let end = async {
        loop {
            match watch.next().await {
                Ok(changes) => assert_eq!(changes, [Change::Current], "{changes:?}"),
                Err(error) => return error,
            }
        }
    };
    let end = timeout(Duration::from_secs(30), end).await.unwrap();
    assert_eq!(end.kind(), ErrorKind::Denied, "{end}");
}

#[tokio::test]
async fn a_server_that_starts_again_tells_nothing_of_the_past() {
    let Some(mut agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    for number in 0..150 {
        let gone = registration("web", &format!("gone-{number}"));
        registry.register(&gone).await.unwrap();
        registry.deregister(&gone.key()).await.unwrap();
    }
    for id in ["a", "b", "c"] {
        registry.register(&registration("web", id)).await.unwrap();
    }
    eventually(LIMIT, "the three", async || {
        lookup(&registry, "web").await.len() == 3
    })
    .await;
    let service = name("web");
    for _ in 0..3 {
        agent.restart();
        let mut answers = 0;
        eventually(LIMIT, "answers", async || {
            let answer = registry.lookup(&service, &ReadOptions::default()).await;
            if let Ok(found) = answer {
                let ids: Vec<_> = found.iter().map(|found| found.id.as_str()).collect();
                assert_eq!(ids, ["a", "b", "c"]);
                answers += 1;
            }
            answers == 5
        })
        .await;
    }
}
