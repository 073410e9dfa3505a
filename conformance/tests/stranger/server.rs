//! The server behind `tiny://`: records with an owner and a TTL, kept in a journal.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

/// What readers of a watch hear at least this often.
const PING: Duration = Duration::from_millis(500);

type Key = (String, String);

struct Server {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    watches: AtomicUsize,
}

struct State {
    records: BTreeMap<Key, Record>,
    /// The last write of each owner, by its own count: one that was overtaken on its way is not done.
    writes: HashMap<(i64, Key), i64>,
    journal: File,
}

struct Record {
    value: Value,
    owner: i64,
    number: i64,
    ttl: Duration,
    expires: Instant,
}

/// Serves at the address and with the data directory that the arguments name, until it is killed.
pub(crate) fn run(arguments: &str) -> ExitCode {
    let work = || -> io::Result<()> {
        let (address, data) = arguments
            .split_once(' ')
            .ok_or(io::ErrorKind::InvalidInput)?;
        tokio::runtime::Runtime::new()?.block_on(serve(address, Path::new(data)))
    };
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: &str, data: &Path) -> io::Result<()> {
    let file = data.join("journal");
    let journal = File::options().create(true).append(true).open(&file)?;
    let mut state = State {
        records: BTreeMap::new(),
        writes: HashMap::new(),
        journal,
    };
    for line in io::BufReader::new(File::open(file)?).lines() {
        // A line that was cut by a crash was never acknowledged.
        if let Ok(request) = serde_json::from_str(&line?) {
            state.apply(&request);
        }
    }
    let server = Arc::new(Server {
        state: Mutex::new(state),
        changed: watch::Sender::new(()),
        watches: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind(address).await?;
    println!("serving {} records", server.lock().records.len());
    let mut tick = interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            _ = tick.tick() => server.expire(),
            client = listener.accept() => {
                let server = server.clone();
                // An error is the end of one connection.
                tokio::spawn(async move { server.talk(client?.0).await });
            }
        }
    }
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expire(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let before = state.records.len();
        state.records.retain(|_, record| record.expires > now);
        if state.records.len() != before {
            self.changed.send_replace(());
        }
    }

    async fn talk(&self, stream: TcpStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let request: Value = serde_json::from_str(&line)?;
        if request["op"] != "watch" {
            let mut reply = String::new();
            for value in self.answer(&request)? {
                reply.push_str(&format!("{value}\n"));
            }
            reply.push_str("\"end\"\n");
            return writer.write_all(reply.as_bytes()).await;
        }
        self.watches.fetch_add(1, Ordering::Relaxed);
        let end = async {
            // Nothing more is said by a reader: what ends is its connection.
            let _ = reader.read_u8().await;
        };
        let result = tokio::select! {
            result = self.tell(&request, &mut writer) => result,
            () = end => Ok(()),
        };
        self.watches.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Writes all records of a scope, and again whenever they have changed and the reader has read.
    async fn tell(&self, request: &Value, to: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
        let mut changed = self.changed.subscribe();
        let mut last = String::new();
        loop {
            changed.borrow_and_update();
            let values = self.lock().within(&request["service"]);
            let mut now: String = values.iter().map(|value| format!("{value}\n")).collect();
            now.push_str("\"end\"\n");
            if now != last {
                to.write_all(now.as_bytes()).await?;
                last = now;
                // What changes meanwhile is told at once, as one.
                sleep(Duration::from_millis(2)).await;
            }
            while timeout(PING, changed.changed()).await.is_err() {
                to.write_all(b"\"ping\"\n").await?;
            }
        }
    }

    fn answer(&self, request: &Value) -> io::Result<Vec<Value>> {
        let mut state = self.lock();
        let now = Instant::now();
        let (owner, number) = (request["owner"].as_i64(), request["number"].as_i64());
        let known = state
            .records
            .get(&key(request))
            .filter(|record| record.expires > now);
        let (ours, same) = match known {
            Some(record) => (Some(record.owner) == owner, Some(record.number) == number),
            None => (true, false),
        };
        let known = known.is_some();
        match request["op"].as_str() {
            Some("list") => return Ok(state.within(&request["service"])),
            Some("watches") => return Ok(vec![json!(self.watches.load(Ordering::Relaxed))]),
            Some("renew") => {
                let held = known && ours && same;
                if let Some(record) = state.records.get_mut(&key(request)).filter(|_| held) {
                    record.expires = now + record.ttl;
                }
                return Ok(vec![json!(held)]);
            }
            Some("put") if !ours => return Ok(vec![json!("conflict")]),
            Some("delete") if !ours => return Ok(vec![json!("ok")]),
            _ => {}
        }
        writeln!(state.journal, "{request}")?;
        state.apply(request);
        drop(state);
        self.changed.send_replace(());
        Ok(vec![json!("ok")])
    }
}

impl State {
    fn apply(&mut self, request: &Value) {
        let key = key(request);
        let number = request["number"].as_i64().unwrap_or(i64::MAX);
        let owner = request["owner"].as_i64().unwrap_or_default();
        match request["op"].as_str() {
            Some("put" | "delete") => {
                let last = self.writes.entry((owner, key.clone())).or_insert(i64::MIN);
                if number < *last {
                    return;
                }
                *last = number;
            }
            Some("spoil") => {
                for (number, value) in [json!(7), json!({"service": key.0, "weight": 70_000})]
                    .into_iter()
                    .enumerate()
                {
                    let ttl = Duration::from_secs(3600);
                    let key = (key.0.clone(), format!("spoilt-{number}"));
                    self.records.insert(key, Record::new(value, 0, 0, ttl));
                }
                return;
            }
            _ => {}
        }
        if request["op"] == "put" {
            let ttl = Duration::from_millis(request["ttl"].as_u64().unwrap_or_default());
            let record = Record::new(request["record"].clone(), owner, number, ttl);
            self.records.insert(key, record);
        } else {
            self.records.remove(&key);
        }
    }

    /// The records of a service, or of all for `null`.
    fn within(&self, service: &Value) -> Vec<Value> {
        let all = self.records.iter();
        match service.as_str() {
            None => all.map(|(_, record)| record.value.clone()).collect(),
            Some(service) => {
                let from = (service.to_owned(), String::new());
                let records = self.records.range(from..);
                let records = records.take_while(|((name, _), _)| name == service);
                records.map(|(_, record)| record.value.clone()).collect()
            }
        }
    }
}

impl Record {
    fn new(value: Value, owner: i64, number: i64, ttl: Duration) -> Self {
        let expires = Instant::now() + ttl;
        Self {
            value,
            owner,
            number,
            ttl,
            expires,
        }
    }
}

fn key(request: &Value) -> Key {
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    (text("service"), text("id"))
}
