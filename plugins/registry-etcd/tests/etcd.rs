//! What the conformance suite does not ask of every backend, asked of a real etcd.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use registry_conformance::{LocalProcess, Mode, Proxy, Server as _, free_port};
use registry_core::{
    Change, ErrorKind, Held, Instance, InstanceKey, ReadOptions, Registered, Registration,
    Registry, Renewal, Scope, ServiceName, Watcher,
};
use registry_etcd::{Etcd, EtcdConfig};
use tokio::time::{Instant, sleep, timeout};

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(5);

struct Server {
    process: LocalProcess,
    raw: Client,
}

impl Server {
    /// A server of its own; `None`, with a word about it, where etcd is not installed.
    async fn start(arguments: &'static [&'static str]) -> Option<Self> {
        let mut version = Command::new("etcd");
        version.arg("--version").stdout(Stdio::null());
        if let Err(error) = version.status() {
            let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("etcd"), "etcd: {error}");
            eprintln!("nothing is asked of etcd: {error}");
            return None;
        }
        let (client, peer) = (free_port(), free_port());
        let command = move |data: &Path| {
            let url = |port| format!("http://127.0.0.1:{port}");
            let (client, peer) = (url(client), url(peer));
            let mut command = Command::new("etcd");
            command.arg("--data-dir").arg(data.join("etcd"));
            command.args(["--unsafe-no-fsync", "--name", "t"]);
            command.args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ]);
            command.args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ]);
            command.args(["--initial-cluster", &format!("t={peer}")]);
            command.args(arguments);
            command
        };
        let process = LocalProcess::start(([127, 0, 0, 1], client).into(), command);
        let process = process.await.unwrap();
        let address = process.address().to_string();
        let raw = Client::connect([address], None).await.unwrap();
        let this = Self { process, raw };
        // It accepts connections before it has a leader.
        until(async || this.raw.clone().get("any", None).await.is_ok()).await;
        Some(this)
    }

    fn address(&self) -> String {
        self.process.address().to_string()
    }

    fn client(&self) -> Etcd {
        Etcd::new(EtcdConfig::default().endpoint(self.address())).unwrap()
    }

    async fn put(&self, key: &str, value: &str) {
        self.raw.clone().put(key, value, None).await.unwrap();
    }

    /// The number of TCP connections that this process has to the server.
    fn connections(&self) -> usize {
        let port = format!(":{:04X}", self.process.address().port());
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let mine: HashSet<_> = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
            .filter_map(|link| {
                let link = link.to_string_lossy().into_owned();
                Some(
                    link.strip_prefix("socket:[")?
                        .trim_end_matches(']')
                        .to_owned(),
                )
            })
            .collect();
        let lines = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The state 01 is an established connection; the tenth column is the socket's number.
        lines
            .filter(|line| line.len() > 9 && line[2].ends_with(&port) && line[3] == "01")
            .filter(|line| mine.contains(line[9]))
            .count()
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "it does not come to hold");
        sleep(Duration::from_millis(10)).await;
    }
}

fn registration(id: &str) -> Registration {
    let instance = Instance::new("web", "10.0.0.1:80").id(id).build().unwrap();
    Registration::from(instance).ttl(Duration::from_secs(60))
}

fn service() -> ServiceName {
    "web".try_into().unwrap()
}

fn record(id: &str) -> String {
    registry_go_micro::encode(&registration(id).instance)
}

async fn register(client: &Etcd, registration: Registration) -> Held {
    let registered = client.register(&registration).await.unwrap();
    Held::new(Arc::new(registration), registered)
}

async fn renew(client: &Etcd, held: &Held) -> Renewal {
    let mut answers = client.renew(std::slice::from_ref(held)).await;
    answers.remove(0).unwrap()
}

async fn watch(client: &Etcd) -> Box<dyn Watcher> {
    let scope = Scope::from(service());
    client.watch(&scope, &ReadOptions::default()).await.unwrap()
}

async fn next(watch: &mut Box<dyn Watcher>) -> Vec<Change> {
    loop {
        let changes = timeout(SOON, watch.next()).await.unwrap().unwrap();
        if changes != [Change::Current] {
            return changes;
        }
    }
}

fn size(changes: &[Change]) -> usize {
    match changes {
        [Change::Snapshot(instances)] => instances.len(),
        changes => changes.len(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_registrations_and_watches_share_one_connection() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    until(async || server.raw.clone().get("any", None).await.is_ok()).await;
    let others = server.connections();
    let mut held = Vec::new();
    for number in 0..1000 {
        held.push(register(&client, registration(&format!("a{number}"))).await);
    }
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(watch(&client).await);
    }
    for watch in &mut watches {
        assert_eq!(size(&next(watch).await), 1000);
    }
    let renewals = client.renew(&held).await;
    assert!(
        renewals
            .iter()
            .all(|renewal| matches!(renewal, Ok(Renewal::Held(_))))
    );
    assert_eq!(server.connections(), others + 1);
    client.close().await.unwrap();
    let left = GetOptions::new().with_prefix().with_count_only();
    let left = server.raw.clone().get("/micro/", Some(left)).await.unwrap();
    assert_eq!(left.count(), 0, "what a close leaves");
}

#[tokio::test]
async fn what_is_not_ours_any_more_is_unknown_to_a_renewal() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let mut raw = server.raw.clone();
    let key = "/micro/registry/web/a";
    let held = register(&client, registration("a")).await;
    assert_eq!(
        renew(&client, &held).await,
        Renewal::Held(held.registered.clone())
    );

    // The same record, with the lease of somebody else.
    let lease = raw.lease_grant(60, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    raw.put(key, record("a"), Some(options)).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let refused = client.register(&registration("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    client.deregister(&held.registered.key).await.unwrap();
    assert_eq!(
        raw.get(key, None).await.unwrap().kvs().len(),
        1,
        "it was not ours"
    );
    raw.lease_revoke(lease).await.unwrap();

    // Our lease, and what an earlier call wrote.
    let held = register(&client, registration("a")).await;
    let options = PutOptions::new().with_lease(held.registered.token);
    raw.put(key, record("a"), Some(options)).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let held = register(&client, registration("a")).await;

    // A key without its lease cannot be; a lease without its key can.
    raw.delete(key, None).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let held = register(&client, registration("a")).await;
    raw.lease_revoke(held.registered.token).await.unwrap();
    assert_eq!(renew(&client, &held).await, Renewal::Unknown);
    let stale = Registered::new(held.registered.key.clone(), None, 1);
    let stale = Held::new(held.registration.clone(), stale);
    register(&client, registration("a")).await;
    assert_eq!(renew(&client, &stale).await, Renewal::Unknown);
}

#[tokio::test]
async fn a_loss_is_told_at_once_and_once() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let key = "/micro/registry/web/a";
    let quiet = Duration::from_millis(200);
    register(&client, registration("a")).await;
    register(&client, registration("a")).await;
    assert!(
        timeout(quiet, client.lost()).await.is_err(),
        "nothing is lost"
    );
    server.raw.clone().delete(key, None).await.unwrap();
    timeout(Duration::from_secs(1), client.lost())
        .await
        .unwrap();
    assert!(timeout(quiet, client.lost()).await.is_err(), "it was told");
    // Its lease lived on, and the key is watched on.
    let held = register(&client, registration("a")).await;
    server
        .raw
        .clone()
        .lease_revoke(held.registered.token)
        .await
        .unwrap();
    timeout(Duration::from_secs(1), client.lost())
        .await
        .unwrap();

    // What we take back ourselves is not lost.
    register(&client, registration("a")).await;
    client.deregister(&held.registered.key).await.unwrap();
    assert!(
        timeout(quiet, client.lost()).await.is_err(),
        "nothing is lost"
    );
    // A connection that broke may have hidden anything.
    register(&client, registration("a")).await;
    server.process.kill().await.unwrap();
    timeout(Duration::from_secs(1), client.lost())
        .await
        .unwrap();
}

#[tokio::test]
async fn records_of_others_are_skipped_counted_and_hide_nobody() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let client = server.client();
    let mut watch = watch(&client).await;
    assert_eq!(size(&next(&mut watch).await), 0);
    server.put("/micro/registry/web/bad", "{").await;
    server.put("/micro/registry/web/a", &record("a")).await;
    assert_eq!(size(&next(&mut watch).await), 1);
    assert_eq!(client.skipped(), 1);
    for _ in 0..3 {
        let found = client.lookup(&service(), &ReadOptions::default()).await;
        assert_eq!(found.unwrap().len(), 1);
    }
    assert_eq!(client.skipped(), 1, "a record is counted once");
    server.put("/micro/registry/web/bad", &record("bad")).await;
    assert_eq!(size(&next(&mut watch).await), 1);
    // A record that turns bad is no longer an instance.
    server.put("/micro/registry/web/bad", "null").await;
    let key = InstanceKey {
        service: service(),
        id: "bad".try_into().unwrap(),
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
async fn a_full_database_is_an_error_of_its_own_and_renewals_go_on() {
    let Some(server) = Server::start(&["--quota-backend-bytes", "300000"]).await else {
        return;
    };
    let client = server.client();
    let held = register(&client, registration("a")).await;
    let mut raw = server.raw.clone();
    let mut number = 0;
    while raw
        .put(format!("/x/{number}"), "x".repeat(20_000), None)
        .await
        .is_ok()
    {
        number += 1;
        assert!(number < 1000, "the quota does not hold");
    }
    let full = client.register(&registration("b")).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Unavailable);
    assert!(full.to_string().contains("NOSPACE"), "{full}");
    assert_eq!(
        renew(&client, &held).await,
        Renewal::Held(held.registered.clone())
    );
    client.deregister(&held.registered.key).await.unwrap();
}

#[tokio::test]
async fn a_user_is_not_in_the_way_where_none_is_asked_for() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let config = EtcdConfig::default().endpoint(server.address());
    let client = Etcd::new(config.user("root", "secret")).unwrap();
    register(&client, registration("a")).await;
    let found = client.lookup(&service(), &ReadOptions::default()).await;
    assert_eq!(found.unwrap().len(), 1);
}

#[tokio::test]
async fn users_that_change_cost_nobody_his_watch() {
    let Some(server) = Server::start(&["--auth-token-ttl", "2"]).await else {
        return;
    };
    let mut raw = server.raw.clone();
    raw.user_add("root", "secret", None).await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    raw.auth_enable().await.unwrap();
    let config = EtcdConfig::default().endpoint(server.address());
    let client = Etcd::new(config.clone().user("root", "secret")).unwrap();
    let held = register(&client, registration("a")).await;
    let mut first = watch(&client).await;
    next(&mut first).await;
    // A token that nobody uses for 2 s is no longer good, and neither is the stream for new watches.
    sleep(Duration::from_secs(4)).await;
    let mut second = watch(&client).await;
    assert_eq!(size(&next(&mut second).await), 1);
    assert_eq!(
        renew(&client, &held).await,
        Renewal::Held(held.registered.clone())
    );
    register(&client, registration("b")).await;
    for watch in [&mut first, &mut second] {
        assert_eq!(size(&next(watch).await), 1);
    }
    let wrong = Etcd::new(config.user("root", "hunter2")).unwrap();
    let begin = Instant::now();
    let denied = wrong
        .lookup(&service(), &ReadOptions::default())
        .await
        .unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
    assert!(begin.elapsed() < SOON && !format!("{denied:?} {wrong:?}").contains("hunter2"));
    let denied = wrong.register(&registration("c")).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
    let nothing = wrong.deregister(&registration("c").key()).await;
    nothing.expect("what was refused leaves nothing to take back");
}

#[tokio::test]
async fn users_that_are_asked_for_or_no_longer_lock_nobody_out() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut raw = server.raw.clone();
    raw.user_add("root", "secret", None).await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    let config = EtcdConfig::default().endpoint(server.address());
    let client = Etcd::new(config.clone().user("root", "secret")).unwrap();
    let nobody = Etcd::new(config.clone()).unwrap();
    let mut held = vec![register(&client, registration("a")).await];
    let mut watches = vec![watch(&client).await];
    assert_eq!(size(&next(&mut watches[0]).await), 1);
    for round in 0..4 {
        if round % 2 == 0 {
            raw.auth_enable().await.unwrap();
            let denied = nobody.lookup(&service(), &ReadOptions::default()).await;
            assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
        } else {
            let options = etcd_client::ConnectOptions::new().with_user("root", "secret");
            let root = Client::connect([server.address()], Some(options)).await;
            root.unwrap().auth_disable().await.unwrap();
        }
        // A renewal is the first to meet the change, later on a watch.
        if round < 2 {
            let renewal = renew(&client, &held[0]).await;
            assert_eq!(renewal, Renewal::Held(held[0].registered.clone()));
        }
        let mut new = watch(&client).await;
        assert_eq!(size(&next(&mut new).await), held.len());
        watches.push(new);
        held.push(register(&client, registration(&format!("b{round}"))).await);
        for watch in &mut watches {
            assert_eq!(size(&next(watch).await), 1, "round {round}");
        }
        let renewals = client.renew(&held).await;
        let is_held = |renewal: &_| matches!(renewal, Ok(Renewal::Held(_)));
        assert!(renewals.iter().all(is_held), "{renewals:?}");
    }
    let key = &held[0].registered.key;
    client.deregister(key).await.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await, [Change::Remove(key.clone())]);
    }
}

#[tokio::test]
async fn a_grant_that_is_not_answered_leaves_one_lease_and_that_is_revoked() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::start(server.process.address()).await.unwrap();
    let config = EtcdConfig::default().endpoint(proxy.address().to_string());
    let client = Etcd::new(config.timeout(Duration::from_millis(500))).unwrap();
    let leases = async || {
        let leases = server.raw.clone().leases().await.unwrap();
        leases.leases().len()
    };
    let late = async |registration: &Registration| {
        proxy.set(Mode::DropReplies);
        for _ in 0..3 {
            let late = client.register(registration).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::Unavailable, "{late}");
        }
        until(async || leases().await == 1).await;
        proxy.set(Mode::Pass);
    };
    let key = registration("a").key();
    late(&registration("a")).await;
    client.deregister(&key).await.unwrap();
    assert_eq!(leases().await, 0, "a deregister revokes it");

    late(&registration("a")).await;
    let held = register(&client, registration("a")).await;
    assert_eq!(held.registered.ttl, Some(Duration::from_secs(60)));
    let renewal = renew(&client, &held).await;
    assert_eq!(renewal, Renewal::Held(held.registered.clone()));
    assert_eq!(leases().await, 1, "a retry takes it");
    client.deregister(&key).await.unwrap();

    late(&registration("a")).await;
    let other = registration("a").ttl(Duration::from_secs(30));
    let held = register(&client, other).await;
    assert_eq!(held.registered.ttl, Some(Duration::from_secs(30)));
    assert_eq!(leases().await, 1, "another TTL takes another one");
    client.deregister(&key).await.unwrap();

    late(&registration("a")).await;
    client.close().await.unwrap();
    assert_eq!(leases().await, 0, "a close revokes it");
}

#[tokio::test]
async fn an_endpoint_that_is_dead_hangs_or_swallows_costs_one_timeout() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let hung = Server::start(&[]).await.unwrap();
    hung.process.pause().await.unwrap();
    // Of TEST-NET-1 (RFC 5737): where nothing answers.
    for bad in [
        format!("127.0.0.1:{}", free_port()),
        hung.address(),
        "192.0.2.1:2379".into(),
    ] {
        let config = EtcdConfig::default()
            .endpoint(&bad)
            .endpoint(server.address());
        let client = Etcd::new(config.timeout(Duration::from_millis(500))).unwrap();
        let begin = Instant::now();
        client
            .lookup(&service(), &ReadOptions::default())
            .await
            .unwrap();
        let took = begin.elapsed();
        assert!(took < Duration::from_millis(1500), "{bad} took {took:?}");
        client.register(&registration(&bad)).await.unwrap();
        client.close().await.unwrap();
    }
    hung.process.resume().await.unwrap();
}

#[tokio::test]
async fn a_revision_that_went_back_ends_a_watch() {
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
