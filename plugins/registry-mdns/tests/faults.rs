//! Records of others, garbage, and links that cannot be heard.

mod common;

use std::net::UdpSocket;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{Bus, ids, instance, key, lookup, ms, next, quiet, registration, until, watch};
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo, TxtProperty};
use registry_core::{Change, ErrorKind, Instance, Registry};
use registry_mdns::{Interface, Mdns};
use tokio::time::Instant;

const SERVICE_TYPE: &str = "_micro._tcp.local.";

#[tokio::test]
async fn records_of_others_are_read_and_bad_ones_hide_nothing() {
    let bus = Bus::new();
    let client = bus.client();
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    let other = Other::new(bus);
    let found = |id: &str, port: u16| {
        Arc::new(
            Instance::new("web", ("127.0.0.1", port))
                .id(id)
                .build()
                .unwrap(),
        )
    };

    other.announce("no service", 1, &["color=blue"]);
    other.announce("bad weight", 2, &["service=web", "weight=heavy"]);
    other.announce("next version", 3, &["txtvers=2", "service=web"]);
    other.announce("a/slash is no id", 4, &["service=web"]);
    other.announce("My Printer", 5, &["service=web"]);
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Upsert(found("My Printer", 5))]
    );
    until("the bad ones are counted", ms(2000), || async {
        client.skipped() >= 4
    })
    .await;

    // What is mended appears, what breaks goes.
    other.announce("bad weight", 2, &["service=web", "weight=1"]);
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Upsert(found("bad weight", 2))]
    );
    other.announce("My Printer", 5, &["service=web", "rev=x"]);
    assert_eq!(
        next(&mut watcher, ms(2000)).await,
        [Change::Remove(key("web", "My Printer"))]
    );
    quiet(&mut watcher, ms(1500)).await;
    assert_eq!(ids(&client, "web").await, ["bad weight"]);
}

#[tokio::test]
async fn of_two_records_of_one_instance_the_one_with_our_name_counts() {
    let bus = Bus::new();
    let (server, client, other) = (bus.client(), bus.client(), Other::new(bus));
    let mut watcher = watch(&client, "web").await;
    next(&mut watcher, ms(2000)).await;
    other.announce("a@web (2)", 7, &["service=web", "id=a"]);
    quiet(&mut watcher, ms(1000)).await;
    other.announce("some name", 8, &["service=web", "id=a"]);
    let changes = next(&mut watcher, ms(2000)).await;
    assert!(
        matches!(&changes[..], [Change::Upsert(found)] if found.address.port() == 8),
        "{changes:?}"
    );
    let ours = registration(instance("web", "a"));
    server.register(&ours).await.unwrap();
    assert_eq!(
        next(&mut watcher, ms(1000)).await,
        [Change::Upsert(ours.instance.clone())]
    );
    other.announce("some name", 9, &["service=web", "id=a"]);
    quiet(&mut watcher, ms(1000)).await;
    server.deregister(&ours.key()).await.unwrap();
    let changes = next(&mut watcher, ms(2000)).await;
    assert!(
        matches!(&changes[..], [Change::Upsert(found)] if found.address.port() == 9),
        "{changes:?}"
    );
}

#[tokio::test]
async fn a_txt_record_that_was_lost_is_asked_for() {
    let bus = Bus::new();
    let other = Other::new(bus);
    other.announce("x0001", 9, &["service=web"]);
    let browser = bus.client();
    until("announced", ms(2000), || async {
        ids(&browser, "web").await == ["x0001"]
    })
    .await;
    drop(browser);
    tokio::time::sleep(ms(1200)).await;

    let client = bus.client();
    let _watcher = watch(&client, "web").await;
    // Before it asks, the client hears of the instance, and so nobody tells it again.
    let senders: Vec<_> = (0..8)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let bare = packet(b"\x05x0001", &["PTR", "SRV", "A"]);
    for _ in 0..60 {
        for sender in &senders {
            sender.send_to(&bare, ("127.0.0.1", bus.0)).unwrap();
        }
        tokio::time::sleep(ms(1)).await;
    }
    until("the whole instance is found", ms(3000), || async {
        ids(&client, "web").await == ["x0001"]
    })
    .await;

    other.announce("empty", 10, &[]);
    until("it is counted", ms(8000), || async {
        client.skipped() == 1
    })
    .await;
}

#[tokio::test]
async fn garbage_does_no_harm() {
    let bus = Bus::new();
    let (server, client) = (bus.client(), bus.client());
    server
        .register(&registration(instance("web", "a")))
        .await
        .unwrap();
    assert_eq!(ids(&client, "web").await, ["a"]);
    let memory = resident();

    let mut random = fastrand::Rng::with_seed(0x6d64_6e73);
    // The kernel gives each sender's packets to one of the daemons that share the port.
    let senders: Vec<_> = (0..16)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    for i in 0..10_000 {
        let packet = mutated(&mut random);
        let sent = senders[i % senders.len()].send_to(&packet, ("127.0.0.1", bus.0));
        assert!(sent.is_ok() || packet.len() > 9000, "{sent:?}");
        if i % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }

    server
        .register(&registration(instance("web", "b")))
        .await
        .unwrap();
    for client in [client, bus.client()] {
        until("both are found", ms(5000), || async {
            let found = ids(&client, "web").await;
            found.contains(&"a".to_owned()) && found.contains(&"b".to_owned())
        })
        .await;
    }
    let grown = resident().saturating_sub(memory);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}

#[tokio::test]
async fn a_reader_that_lags_behind_begins_anew() {
    const MANY: usize = 1000;
    let bus = Bus::new();
    let (ready, announced) = mpsc::channel();
    let (done, finished) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _server = runtime.block_on(async {
            let server = Arc::new(Mdns::new(bus.config().probe(false)).unwrap());
            let mut running = tokio::task::JoinSet::new();
            for i in 0..MANY {
                let server = server.clone();
                let wanted = registration(instance("web", &format!("i{i:03}")));
                running.spawn(async move { server.register(&wanted).await.map(drop) });
            }
            while let Some(registered) = running.join_next().await {
                registered.unwrap().unwrap();
            }
            ready.send(()).unwrap();
            server
        });
        finished.recv().unwrap();
    });
    announced.recv().unwrap();

    let client = bus.client();
    let mut watcher = watch(&client, "web").await;
    // One turn of the runtime starts the browse; then it stands still while more than 1000 events come.
    tokio::task::yield_now().await;
    let blocked = Instant::now();
    while blocked.elapsed() < ms(3500) {
        std::thread::park_timeout(ms(100));
    }
    let end = next_error(&mut watcher).await;
    assert_eq!(end.kind(), ErrorKind::Lost, "{end}");
    until("all are found", Duration::from_secs(15), || async {
        lookup(&client, "web")
            .await
            .is_ok_and(|found| found.len() == MANY)
    })
    .await;
    done.send(()).unwrap();
    server.join().unwrap();
}

#[tokio::test]
async fn where_nobody_can_be_heard_a_read_fails() {
    let nowhere = Mdns::new(
        Bus::new()
            .config()
            .loopback(false)
            .interface(Interface::Name("nope0".into())),
    )
    .unwrap();
    let error = lookup(&nowhere, "web").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("up are: none"), "{error}");
    let error = nowhere
        .register(&registration(instance("web", "a")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("in none of: none"), "{error}");

    let bus = Bus::new();
    let held = UdpSocket::bind(("0.0.0.0", bus.0)).unwrap();
    let client = bus.client();
    let error = lookup(&client, "web").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains(&format!("UDP port {}", bus.0)),
        "{error}"
    );
    drop(held);
    let server = bus.client();
    server
        .register(&registration(instance("web", "a")))
        .await
        .unwrap();
    assert_eq!(ids(&client, "web").await, ["a"]);
}

async fn next_error(watcher: &mut Box<dyn registry_core::Watcher>) -> registry_core::Error {
    loop {
        match tokio::time::timeout(ms(5000), watcher.next())
            .await
            .expect("nothing came")
        {
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

/// A publisher that knows nothing of this crate.
struct Other(ServiceDaemon);

impl Other {
    fn new(bus: Bus) -> Self {
        let daemon = ServiceDaemon::new_with_port(bus.0).unwrap();
        daemon.disable_interface(IfKind::All).unwrap();
        daemon.enable_interface(IfKind::LoopbackV4).unwrap();
        Self(daemon)
    }

    fn announce(&self, label: &str, port: u16, txt: &[&str]) {
        let txt: Vec<TxtProperty> = txt
            .iter()
            .map(|pair| pair.split_once('=').unwrap().into())
            .collect();
        let host = format!("host{port}.local.");
        let mut info =
            ServiceInfo::new(SERVICE_TYPE, label, &host, "127.0.0.1", port, txt).unwrap();
        info.set_requires_probe(false);
        self.0.register(info).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

/// A response with these records of an instance, whose label is given with its length.
fn packet(label: &[u8], records: &[&str]) -> Vec<u8> {
    let service_type = b"\x06_micro\x04_tcp\x05local\0";
    let host = b"\x05host9\x05local\0";
    let name = [label, service_type].concat();
    let count = u8::try_from(records.len()).unwrap();
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, count, 0, 0, 0, 0];
    for record in records {
        let (name, kind, class, data): (&[u8], u8, u8, Vec<u8>) = match *record {
            "PTR" => (service_type, 12, 0, name.clone()),
            "SRV" => (
                &name,
                33,
                0x80,
                [b"\0\0\0\0\0\x09".as_slice(), host].concat(),
            ),
            "TXT" => (
                &name,
                16,
                0x80,
                b"\x0bservice=web\x04id=x\x08weight=1".to_vec(),
            ),
            _ => (host, 1, 0x80, vec![127, 0, 0, 1]),
        };
        packet.extend(name);
        packet.extend([0, kind, class, 1, 0, 0, 0x11, 0x94]);
        packet.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        packet.extend(data);
    }
    packet
}

/// A response that announces an instance, or half of the time a query that knows it, with something wrong.
fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    let label = format!("\x05x{:04}", random.u16(..10_000));
    let mut packet = packet(label.as_bytes(), &["PTR", "SRV", "TXT", "A"]);
    if random.bool() {
        packet[2] = 0;
    }
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..packet.len());
        match random.u8(..6) {
            0 => packet[at] = random.u8(..),
            1 => packet[at] ^= 1 << random.u8(..8),
            2 => packet.truncate(at.max(1)),
            // A pointer to anywhere, itself included.
            3 => packet[at] = 0xc0,
            4 => packet[random.usize(4..12).min(at)] = random.u8(..),
            _ => packet.extend_from_within(at..),
        }
    }
    packet
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
