//! The plugin behind `tiny://`, against the public interface of `registry-core` alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use registry_core::{
    Capability, Change, Driver, Endpoint, Error, ErrorKind, Held, Instance, InstanceKey, Metadata,
    ReadOptions, Registered, Registration, Registry, RegistryUrl, Renewal, Result, Scope,
    ServiceName, Status, Watcher, async_trait,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Backend, TinyBackend};

/// How long the server may be silent: for an answer, and on a watch, where it says something twice a second.
const SILENCE: Duration = Duration::from_secs(3);

pub(crate) const DRIVER: Driver = Driver::new(&["tiny"], |url| {
    Box::pin(async move { Ok(Arc::new(Tiny::new(&url)?) as _) })
});

#[derive(Debug)]
struct Tiny {
    server: String,
    /// Tells this client from others, and its writes from each other.
    owner: i64,
    writes: AtomicI64,
    closed: watch::Sender<bool>,
}

impl Tiny {
    fn new(url: &RegistryUrl) -> Result<Self> {
        url.options().finish()?;
        let wrong = |what| Error::new(ErrorKind::Config, what);
        if url.user().is_some() {
            return Err(wrong(
                "tiny:// knows no users; leave out the user and the password",
            ));
        }
        let Some((host, Some(port))) = url.hosts().next() else {
            return Err(wrong("tiny:// needs a host and a port"));
        };
        Ok(Self {
            server: format!("{host}:{port}"),
            owner: fastrand::i64(1..),
            writes: AtomicI64::new(1),
            closed: watch::Sender::new(false),
        })
    }

    fn open(&self) -> Result<()> {
        match *self.closed.borrow() {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    async fn list(&self, service: Option<&ServiceName>) -> Result<Vec<Arc<Instance>>> {
        self.open()?;
        let service = service.map(ServiceName::as_str);
        let list = json!({"op": "list", "service": service});
        // What cannot be read hides nothing else.
        Ok(ask(&self.server, &list)
            .await?
            .iter()
            .filter_map(decode)
            .collect())
    }
}

#[async_trait]
impl Registry for Tiny {
    fn capability(&self) -> Capability {
        TinyBackend.capability()
    }

    async fn register(&self, registration: &Registration) -> Result<Registered> {
        self.capability().admit(registration)?;
        self.open()?;
        let (key, number) = (
            registration.key(),
            self.writes.fetch_add(1, Ordering::Relaxed),
        );
        let ttl = registration
            .ttl
            .or(self.capability().default_ttl)
            .unwrap_or_default();
        let put = json!({
            "op": "put", "owner": self.owner, "number": number, "ttl": ttl.as_millis() as u64,
            "service": key.service.as_str(), "id": key.id.as_str(), "record": encode(&registration.instance),
        });
        let answer = ask(&self.server, &put).await?;
        if answer.iter().any(|answer| answer == "conflict") {
            return Err(Error::new(ErrorKind::Conflict, "the id is taken").with("instance", key));
        }
        Ok(Registered::new(key, Some(ttl), number))
    }

    async fn renew(&self, held: &[Held]) -> Vec<Result<Renewal>> {
        let mut answers = Vec::with_capacity(held.len());
        for Held { registered, .. } in held {
            let key = &registered.key;
            let renew = json!({
                "op": "renew", "owner": self.owner, "number": registered.token,
                "service": key.service.as_str(), "id": key.id.as_str(),
            });
            let answer = match self.open() {
                Ok(()) => ask(&self.server, &renew).await,
                Err(error) => Err(error),
            };
            answers.push(answer.map(|answer| match answer[..] {
                [Value::Bool(true)] => Renewal::Held(registered.clone()),
                _ => Renewal::Unknown,
            }));
        }
        answers
    }

    async fn lost(&self) {
        std::future::pending().await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.open()?;
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let delete = json!({
            "op": "delete", "owner": self.owner, "number": number,
            "service": key.service.as_str(), "id": key.id.as_str(),
        });
        ask(&self.server, &delete).await.map(drop)
    }

    async fn lookup(
        &self,
        service: &ServiceName,
        options: &ReadOptions,
    ) -> Result<Vec<Arc<Instance>>> {
        self.capability().admit_read(options)?;
        self.list(Some(service)).await
    }

    async fn services(&self, options: &ReadOptions) -> Result<Vec<ServiceName>> {
        self.capability().admit_read(options)?;
        let all = self.list(None).await?;
        let mut services: Vec<_> = all
            .iter()
            .map(|instance| instance.service.clone())
            .collect();
        services.sort();
        services.dedup();
        Ok(services)
    }

    async fn watch(&self, scope: &Scope, options: &ReadOptions) -> Result<Box<dyn Watcher>> {
        self.capability().admit_read(options)?;
        self.open()?;
        let service = match scope {
            Scope::Service(service) => Some(service.as_str()),
            _ => None,
        };
        let watch = json!({"op": "watch", "service": service});
        let (lines, writer) = send(&self.server, &watch).await?;
        Ok(Box::new(TinyWatcher {
            lines,
            _writer: writer,
            heard: Instant::now(),
            block: Vec::new(),
            view: None,
            ended: None,
            closed: self.closed.subscribe(),
        }))
    }

    async fn recheck(&self, _key: &InstanceKey) -> Result<()> {
        self.open()
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        Ok(())
    }
}

struct TinyWatcher {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Dropping it would end the watch.
    _writer: OwnedWriteHalf,
    heard: Instant,
    /// The records of a state that has not come whole yet.
    block: Vec<Arc<Instance>>,
    view: Option<BTreeMap<InstanceKey, Arc<Instance>>>,
    ended: Option<Error>,
    closed: watch::Receiver<bool>,
}

impl TinyWatcher {
    async fn line(&mut self) -> Result<Value> {
        tokio::select! {
            biased;
            _ = self.closed.wait_for(|closed| *closed) => Err(closed()),
            line = timeout_at(self.heard + SILENCE, self.lines.next_line()) => {
                let line = line.map_err(|_| lost("the server fell silent"))?;
                let line = line.map_err(|error| lost("the watch was cut").because(error))?;
                self.heard = Instant::now();
                parse(&line.ok_or_else(|| lost("the server ended the watch"))?)
            }
        }
    }

    /// The difference between a state that has come whole and the one before it.
    fn step(&mut self) -> Vec<Change> {
        let block = std::mem::take(&mut self.block);
        let now = block
            .iter()
            .map(|instance| (instance.key(), instance.clone()));
        let Some(before) = self.view.replace(now.collect()) else {
            return vec![Change::Snapshot(block)];
        };
        let mut changes: Vec<_> = block
            .into_iter()
            .filter(|instance| before.get(&instance.key()) != Some(instance))
            .map(Change::Upsert)
            .collect();
        let now = self.view.iter().flatten().collect::<BTreeMap<_, _>>();
        let gone = before.into_keys().filter(|key| !now.contains_key(key));
        changes.extend(gone.map(Change::Remove));
        changes
    }
}

#[async_trait]
impl Watcher for TinyWatcher {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            match self.line().await {
                Ok(line) if line == "ping" => {}
                Ok(line) if line == "end" => {
                    let changes = self.step();
                    if !changes.is_empty() {
                        return Ok(changes);
                    }
                }
                Ok(record) => self.block.extend(decode(&record)),
                // Before the first state there was nothing to miss: the server is away.
                Err(error) if error.kind() == ErrorKind::Lost && self.view.is_none() => {
                    self.ended = Some(away(error));
                }
                Err(error) => self.ended = Some(error),
            }
        }
    }
}

/// One request and its whole answer.
pub(crate) async fn ask(server: &str, request: &Value) -> Result<Vec<Value>> {
    let exchange = async {
        let (mut lines, _writer) = send(server, request).await?;
        let mut answer = Vec::new();
        loop {
            let line = lines.next_line().await.map_err(away)?;
            let line =
                line.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the answer was cut"))?;
            match parse(&line)? {
                Value::String(end) if end == "end" => return Ok(answer),
                value => answer.push(value),
            }
        }
    };
    let late = |_| {
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("no answer within {SILENCE:?}"),
        ))
    };
    timeout(SILENCE, exchange).await.unwrap_or_else(late)
}

async fn send(
    server: &str,
    request: &Value,
) -> Result<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf)> {
    let stream = TcpStream::connect(server).await.map_err(away)?;
    let (reader, mut writer) = stream.into_split();
    writer
        .write_all(format!("{request}\n").as_bytes())
        .await
        .map_err(away)?;
    Ok((BufReader::new(reader).lines(), writer))
}

fn parse(line: &str) -> Result<Value> {
    let bad = |error| Error::new(ErrorKind::Protocol, "a line is no JSON").because(error);
    serde_json::from_str(line).map_err(bad)
}

fn away(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "the server does not answer").because(error)
}

fn lost(what: &str) -> Error {
    Error::new(ErrorKind::Lost, what)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the registry was closed")
}

fn encode(instance: &Instance) -> Value {
    let pairs = |metadata: &Metadata| {
        metadata
            .iter()
            .map(|(k, v)| json!([k, v]))
            .collect::<Vec<_>>()
    };
    let endpoints = instance.endpoints.iter();
    let endpoints: Vec<_> = endpoints
        .map(|e| json!([e.name.as_str(), pairs(&e.metadata)]))
        .collect();
    let alternates: Vec<_> = instance
        .alternates
        .iter()
        .map(|address| address.as_str())
        .collect();
    json!({
        "service": instance.service.as_str(), "id": instance.id.as_str(),
        "address": instance.address.as_str(), "alternates": alternates,
        "version": instance.version.as_ref().map(|version| version.as_str()),
        "zone": instance.zone.as_ref().map(|zone| zone.as_str()),
        "status": instance.status.as_str(), "weight": instance.weight,
        "metadata": pairs(&instance.metadata), "endpoints": endpoints,
    })
}

fn decode(record: &Value) -> Option<Arc<Instance>> {
    let text = |name: &str| record[name].as_str();
    let metadata = |pairs: &Value| {
        let mut metadata = Metadata::new();
        for pair in pairs.as_array()? {
            metadata.insert(pair[0].as_str()?, pair[1].as_str()?).ok()?;
        }
        Some(metadata)
    };
    let mut builder = Instance::new(text("service")?, text("address")?)
        .id(text("id")?)
        .status(Status::from_word(text("status")?))
        .weight(record["weight"].as_u64()?.try_into().ok()?)
        .metadata(metadata(&record["metadata"])?);
    if let Some(version) = text("version") {
        builder = builder.version(version);
    }
    if let Some(zone) = text("zone") {
        builder = builder.zone(zone);
    }
    for alternate in record["alternates"].as_array()? {
        builder = builder.alternate(alternate.as_str()?);
    }
    for endpoint in record["endpoints"].as_array()? {
        let name = endpoint[0].as_str()?.try_into().ok()?;
        builder = builder.endpoint(Endpoint::new(name).with_metadata(metadata(&endpoint[1])?));
    }
    builder.build().ok().map(Arc::new)
}
