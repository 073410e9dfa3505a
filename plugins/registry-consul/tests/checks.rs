//! Every kind of check, run by a real agent.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Agent, eventually, free_port, lookup, turns};
use registry_consul::Consul;
use registry_core::{CheckKind, ErrorKind, HealthCheck, Instance, Registration, Registry, Status};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(10);

fn registration(service: &str, check: HealthCheck) -> Registration {
    let instance = Instance::new(service, "127.0.0.7:80").id("i");
    Registration::new(instance)
        .unwrap()
        .ttl(Duration::from_secs(120))
        .check(check)
}

fn each_second(kind: CheckKind) -> HealthCheck {
    let second = Duration::from_secs(1);
    HealthCheck::new(kind).interval(second).timeout(second)
}

/// An HTTP server whose answer is 200 while `well`, and 503 otherwise, and which counts.
async fn server(well: Arc<AtomicBool>, asked: Arc<AtomicUsize>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            asked.fetch_add(1, Ordering::Relaxed);
            let code = if well.load(Ordering::Relaxed) {
                "200 OK"
            } else {
                "503 Down"
            };
            let reply =
                format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    (port, task)
}

#[tokio::test]
async fn http_passes_fails_and_passes_again_with_its_thresholds() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let (well, asked) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (port, _server) = server(well.clone(), asked.clone()).await;
    let url = format!("http://127.0.0.1:{port}/health");
    let check = each_second(CheckKind::Http(url)).passes(3).failures(3);
    registry
        .register(&registration("http", check))
        .await
        .unwrap();
    turns(&registry, "http", Status::Up, LIMIT).await;
    eventually(LIMIT, "two checks", async || {
        asked.load(Ordering::Relaxed) >= 2
    })
    .await;
    well.store(false, Ordering::Relaxed);
    let before = asked.load(Ordering::Relaxed);
    turns(&registry, "http", Status::Down, LIMIT).await;
    let failures = asked.load(Ordering::Relaxed) - before;
    assert!(
        (3..=4).contains(&failures),
        "down after {failures} failures"
    );
    well.store(true, Ordering::Relaxed);
    let before = asked.load(Ordering::Relaxed);
    let took = turns(&registry, "http", Status::Up, LIMIT).await;
    let passes = asked.load(Ordering::Relaxed) - before;
    assert!((3..=4).contains(&passes), "up after {passes} passes");
    // Three checks are two intervals apart at least.
    assert!(took >= Duration::from_millis(1900), "{took:?}");
}

#[tokio::test]
async fn http_that_does_not_answer_in_time_fails() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    // It accepts by its backlog, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let check = each_second(CheckKind::Http(url)).timeout(Duration::from_millis(300));
    registry
        .register(&registration("slow", check))
        .await
        .unwrap();
    turns(&registry, "slow", Status::Down, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn tcp_passes_fails_and_passes_again() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let address = format!("127.0.0.1:{}", free_port());
    let listener = TcpListener::bind(&address).await.unwrap();
    let check = each_second(CheckKind::Tcp(address.parse().unwrap()));
    registry
        .register(&registration("tcp", check))
        .await
        .unwrap();
    turns(&registry, "tcp", Status::Up, LIMIT).await;
    drop(listener);
    turns(&registry, "tcp", Status::Down, LIMIT).await;
    let _listener = TcpListener::bind(&address).await.unwrap();
    turns(&registry, "tcp", Status::Up, LIMIT).await;
}

#[tokio::test]
async fn grpc_passes_fails_and_passes_again() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let (reporter, health) = tonic_health::server::health_reporter();
    let set = async |status| reporter.set_service_status("greeter.Greeter", status).await;
    set(tonic_health::ServingStatus::Serving).await;
    let address = format!("127.0.0.1:{}", free_port());
    let serve = tonic::transport::Server::builder()
        .add_service(health)
        .serve(address.parse().unwrap());
    let _server = tokio::spawn(serve);
    let kind = CheckKind::Grpc(address.parse().unwrap(), "greeter.Greeter".to_owned());
    registry
        .register(&registration("grpc", each_second(kind)))
        .await
        .unwrap();
    turns(&registry, "grpc", Status::Up, LIMIT).await;
    set(tonic_health::ServingStatus::NotServing).await;
    turns(&registry, "grpc", Status::Down, LIMIT).await;
    set(tonic_health::ServingStatus::Serving).await;
    turns(&registry, "grpc", Status::Up, LIMIT).await;
}

#[tokio::test]
async fn command_passes_warns_fails_and_passes_again() {
    let Some(agent) = Agent::start(json!({ "enable_script_checks": true })).await else {
        return;
    };
    let registry = agent.client("");
    let file = std::env::temp_dir().join(format!("registry-consul-code-{}", agent.port));
    let set = |code: &str| std::fs::write(&file, code).unwrap();
    set("0");
    let script = format!("exit $(cat {})", file.display());
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    registry
        .register(&registration(
            "command",
            each_second(CheckKind::Command(command)),
        ))
        .await
        .unwrap();
    turns(&registry, "command", Status::Up, LIMIT).await;
    for (code, status) in [
        ("1", Status::Warning),
        ("2", Status::Down),
        ("0", Status::Up),
    ] {
        set(code);
        turns(&registry, "command", status, LIMIT).await;
    }
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn a_command_that_the_agent_does_not_run_is_refused_once_and_leaves_nothing() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let command = each_second(CheckKind::Command(vec!["true".to_owned()]));
    let refused = registry.register(&registration("command", command)).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(!error.is_temporary());
    assert!(lookup(&registry, "command").await.is_empty());
}

#[tokio::test]
async fn a_heartbeat_lapses_and_the_instance_comes_back() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let instance = Instance::new("ttl", "127.0.0.7:80").id("i");
    let registration = Registration::new(instance)
        .unwrap()
        .ttl(Duration::from_millis(1500));
    let begin = tokio::time::Instant::now();
    registry.register(&registration).await.unwrap();
    turns(&registry, "ttl", Status::Up, LIMIT).await;
    turns(&registry, "ttl", Status::Down, LIMIT).await;
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    registry.register(&registration).await.unwrap();
    turns(&registry, "ttl", Status::Up, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn checks_that_are_no_longer_asked_for_go_and_those_of_others_stay() {
    let Some(agent) = Agent::start(json!({})).await else {
        return;
    };
    let registry = agent.client("");
    let tcp = |port: u16| {
        let address = format!("127.0.0.1:{port}");
        each_second(CheckKind::Tcp(address.parse().unwrap())).interval(Duration::from_secs(600))
    };
    let first = registration("web", tcp(1)).check(tcp(2));
    registry.register(&first).await.unwrap();
    assert_eq!(
        checks(&agent).await,
        ["web:i:tcp:0", "web:i:tcp:1", "web:i:ttl"]
    );
    let other = json!({ "ID": "theirs", "Name": "theirs", "ServiceID": "web:i", "TTL": "1h", "Status": "passing" });
    agent.put("agent/check/register", None, other).await;
    agent
        .put(
            "agent/service/maintenance/web:i?enable=true",
            None,
            json!(null),
        )
        .await;
    turns(&registry, "web", Status::Maintenance, LIMIT).await;
    let kept = [
        "_service_maintenance:web:i",
        "theirs",
        "web:i:tcp:0",
        "web:i:ttl",
    ];
    registry
        .register(&registration("web", tcp(1)))
        .await
        .unwrap();
    assert_eq!(checks(&agent).await, kept);
    // Another client of ours cannot know what was there before.
    registry.register(&first).await.unwrap();
    agent
        .put("agent/check/deregister/theirs", None, json!(null))
        .await;
    let again: Arc<Consul> = agent.client("");
    let refused = again.register(&registration("web", tcp(1))).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let plain = Instance::new("web", "127.0.0.7:80")
        .id("i")
        .status(Status::Draining);
    registry
        .register(&Registration::new(plain).unwrap())
        .await
        .unwrap();
    let kept = ["_service_maintenance:web:i", "web:i:status", "web:i:ttl"];
    assert_eq!(checks(&agent).await, kept);
    turns(&registry, "web", Status::Maintenance, LIMIT).await;
    agent
        .put(
            "agent/service/maintenance/web:i?enable=false",
            None,
            json!(null),
        )
        .await;
    turns(&registry, "web", Status::Draining, LIMIT).await;
}

/// The ids of all checks at the agent, sorted.
async fn checks(agent: &Agent) -> Vec<String> {
    let all = agent.get("agent/checks", None).await;
    all.as_object().unwrap().keys().cloned().collect()
}
