//! Checks that the registrar runs itself, against the memory backend.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Scripted, eventually, lookup};
use registry_core::{
    Capability, Check, CheckKind, ErrorKind, HealthCheck, Instance, Memory, Registrar,
    RegistrarConfig, Registration, RegistrationHandle, Registry, Result, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tonic_health::ServingStatus;

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

/// Often enough for a test.
fn check(kind: CheckKind) -> HealthCheck {
    let interval = Duration::from_millis(20);
    HealthCheck::new(kind).interval(interval).timeout(SECOND)
}

fn registrar(registry: &Arc<Scripted>) -> Registrar {
    let config = RegistrarConfig::default().command_checks(true);
    Registrar::with_config(registry.clone(), config)
}

async fn register(registry: &Arc<Scripted>, check: HealthCheck) -> Result<RegistrationHandle> {
    let instance = Instance::new("greeter", "10.0.0.1:80").id("a");
    let registration = Registration::new(instance)?.check(check);
    registrar(registry).register(registration).await
}

async fn status(registry: &Scripted) -> Status {
    lookup(registry, "greeter").await[0].status
}

async fn becomes(registry: &Scripted, wanted: Status) {
    let what = format!("shown as {wanted:?}");
    eventually(SOON, &what, async || {
        (status(registry).await == wanted).then_some(())
    })
    .await;
}

/// For many intervals of [`check`].
async fn stays(registry: &Scripted, wanted: Status) {
    for _ in 0..30 {
        assert_eq!(status(registry).await, wanted);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_falls_silent_or_says_so_is_shown_as_down() {
    let registry = Scripted::new();
    let ttl = HealthCheck::new(CheckKind::Ttl).interval(10 * SECOND);
    let handle = register(&registry, ttl).await.unwrap();
    for _ in 0..5 {
        sleep(9 * SECOND).await;
        assert_eq!(status(&registry).await, Status::Up);
        handle.pass();
    }
    sleep(11 * SECOND).await;
    assert_eq!(
        status(&registry).await,
        Status::Down,
        "after 11 s of silence"
    );
    handle.pass();
    sleep(SECOND).await;
    assert_eq!(status(&registry).await, Status::Up);
    handle.fail("the disk is full");
    sleep(SECOND).await;
    assert_eq!(status(&registry).await, Status::Down);
    sleep(60 * SECOND).await;
    assert_eq!(
        status(&registry).await,
        Status::Down,
        "it is kept all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_program_chose_comes_back_and_is_never_overruled() {
    let registry = Scripted::new();
    let ttl = HealthCheck::new(CheckKind::Ttl).interval(100 * SECOND);
    let handle = register(&registry, ttl).await.unwrap();
    handle.fail("no");
    sleep(SECOND).await;
    let chosen =
        |status| move |instance: registry_core::InstanceBuilder| instance.status(status).weight(7);
    handle.update(chosen(Status::Warning)).await.unwrap();
    assert_eq!(status(&registry).await, Status::Down, "it fails still");
    assert_eq!(lookup(&*registry, "greeter").await[0].weight, 7);
    handle
        .update(|instance| instance.version("2"))
        .await
        .unwrap();
    handle.pass();
    sleep(SECOND).await;
    assert_eq!(status(&registry).await, Status::Warning);
    for status_chosen in [Status::Maintenance, Status::Starting, Status::Draining] {
        handle.update(chosen(status_chosen)).await.unwrap();
        handle.fail("no");
        sleep(SECOND).await;
        assert_eq!(status(&registry).await, status_chosen);
        handle.pass();
        sleep(SECOND).await;
        assert_eq!(status(&registry).await, status_chosen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_is_refused_or_meets_an_outage_is_published_later() {
    let registry = Scripted::new();
    let ttl = HealthCheck::new(CheckKind::Ttl).interval(1000 * SECOND);
    let handle = register(&registry, ttl).await.unwrap();
    registry.lie(Some(ErrorKind::Denied));
    let before = Scripted::count(&registry.registers);
    handle.fail("no");
    sleep(60 * SECOND).await;
    let tries = Scripted::count(&registry.registers) - before;
    assert!((2..=3).contains(&tries), "{tries} tries in a minute");
    assert_eq!(
        status(&registry).await,
        Status::Up,
        "nobody may say otherwise"
    );
    registry.lie(None);
    sleep(31 * SECOND).await;
    assert_eq!(status(&registry).await, Status::Down);
    registry.memory.set_outage(true);
    handle.pass();
    sleep(5 * SECOND).await;
    registry.memory.set_outage(false);
    sleep(6 * SECOND).await;
    assert_eq!(status(&registry).await, Status::Up);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_update_is_answered_whatever_the_checks_say_meanwhile() {
    let registry = Scripted::new();
    let ttl = HealthCheck::new(CheckKind::Ttl).interval(1000 * SECOND);
    let handle = register(&registry, ttl).await.unwrap();
    registry.delay(SECOND);
    let first = handle.update(|instance| instance.weight(2));
    let second = async {
        sleep(SECOND / 4).await;
        // The first one is on its way, so that this one waits.
        handle.update(|instance| instance.weight(3)).await
    };
    let fails = async {
        sleep(SECOND / 2).await;
        handle.fail("no");
    };
    let all = async { tokio::join!(first, second, fails) };
    let (first, second, ()) = timeout(10 * SECOND, all).await.expect("both answered");
    first.unwrap();
    second.unwrap();
    let shown = lookup(&*registry, "greeter").await;
    assert_eq!((shown[0].weight, shown[0].status), (3, Status::Down));
}

#[tokio::test]
async fn an_address_that_takes_no_connection_is_down() {
    let registry = Scripted::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = register(
        &registry,
        check(CheckKind::Tcp(address.try_into().unwrap())),
    )
    .await;
    let _handle = handle.unwrap();
    stays(&registry, Status::Up).await;
    drop(listener);
    becomes(&registry, Status::Down).await;
    let _listener = TcpListener::bind(address).await.unwrap();
    becomes(&registry, Status::Up).await;
}

/// Answers each request with this status, after this many milliseconds; 0: never.
struct Http {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    pause: Arc<AtomicUsize>,
    /// How many requests were open at once at most, and how many there were.
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Http {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            status: Arc::new(AtomicU16::new(200)),
            pause: Arc::default(),
            most: Arc::default(),
            all: Arc::default(),
        };
        let (status, pause) = (this.status.clone(), this.pause.clone());
        let (most, all, open) = (
            this.most.clone(),
            this.all.clone(),
            Arc::new(AtomicUsize::new(0)),
        );
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (status, pause) = (status.clone(), pause.clone());
                let (most, all, open) = (most.clone(), all.clone(), open.clone());
                tokio::spawn(async move {
                    all.fetch_add(1, Ordering::SeqCst);
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let status = status.load(Ordering::SeqCst);
                    sleep(Duration::from_millis(pause.load(Ordering::SeqCst) as u64)).await;
                    answer(stream, status).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        this
    }

    fn check(&self) -> HealthCheck {
        check(CheckKind::Http(format!("http://{}/health", self.address)))
    }
}

async fn answer(mut stream: TcpStream, status: u16) {
    let mut request = [0; 1024];
    let Ok(read) = stream.read(&mut request).await else {
        return;
    };
    assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn another_answer_than_2xx_or_none_in_time_is_down() {
    let (registry, server) = (Scripted::new(), Http::start().await);
    let patient = server.check().timeout(Duration::from_millis(300));
    let _handle = register(&registry, patient).await.unwrap();
    stays(&registry, Status::Up).await;
    for status in [500, 404, 503] {
        server.status.store(status, Ordering::SeqCst);
        becomes(&registry, Status::Down).await;
        server.status.store(204, Ordering::SeqCst);
        becomes(&registry, Status::Up).await;
    }
    server.pause.store(5000, Ordering::SeqCst);
    becomes(&registry, Status::Down).await;
    server.pause.store(0, Ordering::SeqCst);
    becomes(&registry, Status::Up).await;
}

#[tokio::test]
async fn so_many_answers_in_a_row_decide() {
    let (registry, server) = (Scripted::new(), Http::start().await);
    server.status.store(500, Ordering::SeqCst);
    let stubborn = server.check().failures(4).passes(3);
    let _handle = register(&registry, stubborn).await.unwrap();
    becomes(&registry, Status::Down).await;
    assert!(
        server.all.load(Ordering::SeqCst) >= 4,
        "it takes four failures"
    );
    server.status.store(200, Ordering::SeqCst);
    let before = server.all.load(Ordering::SeqCst);
    becomes(&registry, Status::Up).await;
    assert!(
        server.all.load(Ordering::SeqCst) - before >= 3,
        "it takes three passes"
    );
}

#[tokio::test]
async fn one_check_never_runs_twice_at_a_time() {
    let (registry, server) = (Scripted::new(), Http::start().await);
    server.pause.store(60, Ordering::SeqCst);
    let _handle = register(&registry, server.check()).await.unwrap();
    eventually(SOON, "ten answers", async || {
        (server.all.load(Ordering::SeqCst) >= 10).then_some(())
    })
    .await;
    assert_eq!(server.most.load(Ordering::SeqCst), 1);
    assert_eq!(status(&registry).await, Status::Up);
}

#[tokio::test]
async fn an_interval_lies_between_two_checks() {
    let (registry, server) = (Scripted::new(), Http::start().await);
    let interval = Duration::from_millis(100);
    let begin = Instant::now();
    let handle = register(&registry, server.check().interval(interval)).await;
    let _handle = handle.unwrap();
    eventually(SOON, "four checks", async || {
        (server.all.load(Ordering::SeqCst) >= 4).then_some(())
    })
    .await;
    // Each may be a tenth shorter.
    assert!(begin.elapsed() >= interval.mul_f64(3.0 * 0.9));
}

#[tokio::test]
async fn the_standard_health_service_is_asked_for_its_service() {
    let registry = Scripted::new();
    let (mut reporter, service) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    reporter
        .set_service_status("greet.v1", ServingStatus::Serving)
        .await;
    let grpc = check(CheckKind::Grpc(
        address.try_into().unwrap(),
        "greet.v1".to_owned(),
    ));
    let _handle = register(&registry, grpc).await.unwrap();
    stays(&registry, Status::Up).await;
    reporter
        .set_service_status("greet.v1", ServingStatus::NotServing)
        .await;
    becomes(&registry, Status::Down).await;
    reporter
        .set_service_status("greet.v1", ServingStatus::Serving)
        .await;
    becomes(&registry, Status::Up).await;
    reporter.clear_service_status("greet.v1").await;
    becomes(&registry, Status::Down).await;
    reporter
        .set_service_status("greet.v1", ServingStatus::Serving)
        .await;
    becomes(&registry, Status::Up).await;
    server.abort();
    becomes(&registry, Status::Down).await;
}

#[tokio::test]
async fn what_is_no_health_service_is_down() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = tonic::transport::Server::builder();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let without = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let routes = tonic::service::Routes::default();
    tokio::spawn({
        let mut server = server;
        server.add_routes(routes).serve_with_incoming(incoming)
    });
    let http = Http::start().await;
    for address in [silent.local_addr().unwrap(), without, http.address] {
        let registry = Scripted::new();
        let grpc = check(CheckKind::Grpc(address.try_into().unwrap(), String::new()));
        let hasty = grpc.timeout(Duration::from_millis(200));
        let _handle = register(&registry, hasty).await.unwrap();
        becomes(&registry, Status::Down).await;
    }
}

#[tokio::test]
async fn a_command_decides_by_its_code() {
    let registry = Scripted::new();
    let directory = std::env::temp_dir().join(format!("registry-health-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("ready");
    let command = ["test", "-e", file.to_str().unwrap()].map(str::to_owned);
    std::fs::write(&file, "").unwrap();
    let handle = register(&registry, check(CheckKind::Command(command.to_vec()))).await;
    let _handle = handle.unwrap();
    stays(&registry, Status::Up).await;
    std::fs::remove_file(&file).unwrap();
    becomes(&registry, Status::Down).await;
    std::fs::write(&file, "").unwrap();
    becomes(&registry, Status::Up).await;
    std::fs::remove_dir_all(&directory).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_whose_time_is_up_is_ended_with_what_it_started() {
    let registry = Scripted::new();
    let file = std::env::temp_dir().join(format!("registry-health-pids-{}", std::process::id()));
    let script = format!("sleep 300 & echo $$ $! > {}; wait", file.display());
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let hasty = check(CheckKind::Command(command)).timeout(Duration::from_millis(300));
    let hasty = hasty.interval(300 * SECOND);
    let handle = register(&registry, hasty).await.unwrap();
    let pids = eventually(SOON, "the command's processes", async || {
        let pids = std::fs::read_to_string(&file).unwrap_or_default();
        let pids: Vec<_> = pids.split_whitespace().map(str::to_owned).collect();
        (pids.len() == 2).then_some(pids)
    })
    .await;
    becomes(&registry, Status::Down).await;
    let runs = |pid: &String| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
        // One that nobody has waited for yet is dead all the same.
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    eventually(SOON, "their end", async || {
        (!pids.iter().any(runs)).then_some(())
    })
    .await;
    drop(handle);
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_no_check_can_be_is_refused() {
    let registry = Scripted::new();
    let command = CheckKind::Command(vec!["true".to_owned()]);
    let instance = Instance::new("greeter", "10.0.0.1:80");
    let registration = Registration::new(instance).unwrap().check(check(command));
    let cautious = Registrar::new(registry.clone());
    let refused = cautious.register(registration).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains("command_checks"), "{refused}");
    for bad in [
        check(CheckKind::Http("ftp://h/".to_owned())),
        check(CheckKind::Command(Vec::new())),
        check(CheckKind::Command(vec![String::new()])),
        check(CheckKind::Ttl).interval(Duration::ZERO),
        check(CheckKind::Ttl).timeout(Duration::ZERO),
        check(CheckKind::Ttl).passes(0),
        check(CheckKind::Ttl).failures(0),
    ] {
        let refused = register(&registry, bad.clone()).await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{bad:?}: {refused}");
    }
    assert_eq!(Scripted::count(&registry.registers), 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_the_registry_runs_is_left_to_it() {
    let mut capability: Capability = Memory::new().capability();
    capability.checks = &[Check::Tcp];
    let registry = Scripted::with(Memory::new(), capability);
    let tcp = check(CheckKind::Tcp("127.0.0.1:1".parse().unwrap()));
    // The memory backend says what it was given.
    let refused = register(&registry, tcp).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(Scripted::count(&registry.registers), 1);
}

#[tokio::test(start_paused = true)]
async fn checks_end_with_their_registration() {
    let (registry, server) = (Scripted::new(), Http::start().await);
    let handle = register(&registry, server.check()).await.unwrap();
    handle.deregister().await.unwrap();
    sleep(SECOND).await;
    let before = server.all.load(Ordering::SeqCst);
    sleep(10 * SECOND).await;
    assert_eq!(server.all.load(Ordering::SeqCst), before);
}
