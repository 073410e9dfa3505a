//! What a case works with: one registry of its own, clients of it, and the history of what happens.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry_core::{
    Capability, Instance, InstanceBuilder, InstanceKey, ReadOptions, Registered, Registration,
    Registry, Scope, ServiceName, TtlScope,
};
use tokio::task::JoinSet;

use crate::case::{Failure, Outcome};
use crate::fixture::{Access, Backend, Fault, Proxy, Registrant, Site};
use crate::history::{Brief, History, What};
use crate::laws;
use crate::observer::Observer;
use crate::recorded::Recorded;
use crate::wait::{SLACK, eventually};

/// The world of one case. Clones share it.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    site: Box<dyn Site>,
    history: History,
    /// Begins the names of this case's services, so that it has them alone on a server that others use too.
    tag: String,
    clients: AtomicUsize,
}

impl World {
    pub(crate) async fn start(backend: Arc<dyn Backend>) -> Outcome<Self> {
        let site = backend.start().await?;
        Ok(Self(Arc::new(Inner {
            backend,
            site,
            history: History::new(),
            tag: format!("c{:08x}", fastrand::u32(..)),
            clients: AtomicUsize::new(1),
        })))
    }

    pub(crate) fn capability(&self) -> Capability {
        self.0.backend.capability()
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    pub(crate) fn site(&self) -> &dyn Site {
        &*self.0.site
    }

    pub(crate) fn history(&self) -> &History {
        &self.0.history
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> Outcome<Arc<dyn Registry>> {
        self.connect(&self.site().url(None)).await
    }

    /// A client that comes to a secured registry with this.
    pub(crate) async fn client_with(&self, access: &Access) -> Outcome<Arc<dyn Registry>> {
        self.connect(&self.site().admit(access).await?).await
    }

    /// A client whose only way to the server is the proxy.
    pub(crate) async fn wired(&self) -> Outcome<(Arc<dyn Registry>, Proxy)> {
        let server = self.site().server();
        let server = server.ok_or_else(|| Failure::new("the fixture names no server"))?;
        let proxy = Proxy::start(server).await?;
        let client = self
            .connect(&self.site().url(Some(proxy.address())))
            .await?;
        Ok((client, proxy))
    }

    async fn connect(&self, url: &str) -> Outcome<Arc<dyn Registry>> {
        let number = self.0.clients.fetch_add(1, Ordering::Relaxed);
        let inner = self.backend().connect(url).await?;
        let who = format!("client-{number}");
        Ok(Arc::new(Recorded::new(inner, self.history().clone(), &who)))
    }

    /// Another process that registers this instance with this TTL and keeps it registered.
    pub(crate) async fn registrant(
        &self,
        instance: &Arc<Instance>,
        ttl: Duration,
    ) -> Outcome<Registrant> {
        self.history()
            .note(&"process".into(), What::Writes(instance.clone()));
        Registrant::spawn(self.backend(), &self.site().url(None), instance, ttl).await
    }

    /// Makes a fault, and notes it.
    pub(crate) async fn inject(&self, fault: Fault) -> Outcome {
        self.history().fault(format_args!("{fault:?}"));
        self.site().inject(&fault).await?;
        Ok(())
    }

    /// The name of a service that only this case uses.
    pub(crate) fn service(&self, name: &str) -> ServiceName {
        let name = format!("{}-{name}", self.0.tag);
        name.try_into().expect("cases choose valid names")
    }

    /// Whether the service is of this case.
    pub(crate) fn owns(&self, service: &ServiceName) -> bool {
        service.as_str().starts_with(&self.0.tag)
    }

    /// An instance to describe further. Its address is one of the loopback, which every backend takes.
    pub(crate) fn build(&self, service: &str, id: &str) -> InstanceBuilder {
        Instance::new(self.service(service), "127.0.0.7:8080").id(id)
    }

    /// A plain instance.
    pub(crate) fn instance(&self, service: &str, id: &str) -> Arc<Instance> {
        built(self.build(service, id))
    }

    /// Registers an instance for longer than any case takes.
    pub(crate) async fn register(
        &self,
        client: &Arc<dyn Registry>,
        instance: &Arc<Instance>,
    ) -> Outcome<Registered> {
        Ok(client.register(&self.registration(instance)).await?)
    }

    /// Registers many side by side.
    pub(crate) async fn register_all(
        &self,
        client: &Arc<dyn Registry>,
        instances: &[Arc<Instance>],
    ) -> Outcome {
        side_by_side(instances.iter().cloned(), |instance| {
            let (world, client) = (self.clone(), client.clone());
            async move { world.register(&client, &instance).await.map(drop) }
        })
        .await
    }

    /// Deregisters many side by side.
    pub(crate) async fn deregister_all(
        &self,
        client: &Arc<dyn Registry>,
        instances: &[Arc<Instance>],
    ) -> Outcome {
        side_by_side(instances.iter().map(|instance| instance.key()), |key| {
            let client = client.clone();
            async move { Ok(client.deregister(&key).await?) }
        })
        .await
    }

    /// A registration that does not lapse during the case.
    pub(crate) fn registration(&self, instance: &Arc<Instance>) -> Registration {
        let registration = Registration::from(Instance::clone(instance));
        match self.capability().ttl {
            TtlScope::Registration => registration.ttl(Duration::from_secs(120)),
            _ => registration,
        }
    }

    /// Waits until a lookup of the service finds exactly these.
    pub(crate) async fn finds(
        &self,
        client: &Arc<dyn Registry>,
        service: &str,
        expected: &[Arc<Instance>],
    ) -> Outcome {
        let window = self.visible().max(self.gone());
        self.finds_within(window, client, service, expected).await
    }

    /// Waits for this long until a lookup of the service finds exactly these.
    pub(crate) async fn finds_within(
        &self,
        window: Duration,
        client: &Arc<dyn Registry>,
        service: &str,
        expected: &[Arc<Instance>],
    ) -> Outcome {
        let service = self.service(service);
        let what = format!("a lookup of {service} to find {} instances", expected.len());
        eventually(window, &what, || async {
            let found = client.lookup(&service, &ReadOptions::default()).await?;
            same(&found, expected)
        })
        .await
    }

    /// Opens a watch of the service, follows it and waits for its first snapshot.
    pub(crate) async fn observe(
        &self,
        client: &Arc<dyn Registry>,
        service: &str,
    ) -> Outcome<Observer> {
        self.observe_scope(client, &self.service(service).into())
            .await
    }

    /// Opens a watch, follows it and waits for its first snapshot.
    pub(crate) async fn observe_scope(
        &self,
        client: &Arc<dyn Registry>,
        scope: &Scope,
    ) -> Outcome<Observer> {
        let observer = Observer::of(client.watch(scope, &ReadOptions::default()).await?);
        observer
            .until(self.settle(), "the first snapshot", |seen| {
                seen.snapshots > 0
            })
            .await?;
        Ok(observer)
    }

    /// Waits until the watch shows exactly these.
    pub(crate) async fn shows(&self, observer: &Observer, expected: &[Arc<Instance>]) -> Outcome {
        let window = self.visible().max(self.gone());
        self.shows_within(window, observer, expected).await
    }

    /// Waits for this long until the watch shows exactly these.
    pub(crate) async fn shows_within(
        &self,
        window: Duration,
        observer: &Observer,
        expected: &[Arc<Instance>],
    ) -> Outcome {
        let exactly = |seen: &crate::observer::Seen| {
            seen.view.len() == expected.len()
                && expected
                    .iter()
                    .all(|instance| seen.view.get(&instance.key()) == Some(instance))
        };
        let what = format!("the watch to show {} instances", expected.len());
        let waited = observer.until(window, &what, exactly).await;
        waited.map(drop).map_err(|failure| {
            let found: Vec<_> = observer.view().into_values().collect();
            match same(&found, expected) {
                Err(difference) => failure.and(difference.message()),
                Ok(()) => failure,
            }
        })
    }

    /// Waits for this long until the watch shows nobody; where the registry keeps the dead for a while, nobody who lives.
    pub(crate) async fn shows_nobody(&self, window: Duration, observer: &Observer) -> Outcome {
        let windows = self.capability().windows;
        let keeps_the_dead = windows.crash != windows.removed;
        let gone = |instance: &Arc<Instance>| keeps_the_dead && !laws::lives(instance);
        let nobody = |seen: &crate::observer::Seen| seen.view.values().all(gone);
        let what = "the watch to show nobody who lives";
        observer.until(window, what, nobody).await.map(drop)
    }

    /// How long after the death of a registrant nobody may call it any more.
    pub(crate) fn crash(&self, ttl: Option<Duration>) -> Duration {
        let window = self.capability().windows.crash;
        window.map(|window| window.at(ttl)).unwrap_or_default() + SLACK
    }

    /// How long until a registrant whom the registry forgot is back.
    pub(crate) fn reregister(&self, ttl: Option<Duration>) -> Duration {
        let window = self.capability().windows.reregister;
        window.map(|window| window.at(ttl)).unwrap_or_default() + SLACK
    }

    /// How long until others see a registration.
    pub(crate) fn visible(&self) -> Duration {
        self.capability().windows.visible + SLACK
    }

    /// How long until others see a deregistration.
    pub(crate) fn gone(&self) -> Duration {
        self.capability().windows.gone + SLACK
    }

    /// How long until a watch has its first snapshot.
    pub(crate) fn settle(&self) -> Duration {
        self.capability().windows.settle + SLACK
    }

    /// Holds the history against the laws.
    pub(crate) fn judge(&self) -> Outcome {
        let capability = self.capability();
        let judges = capability.windows.crash != capability.windows.removed
            || !capability.checks.is_empty()
            || self.backend().faults().maintain;
        laws::hold(&self.history().events(), &self.0.tag, self.gone(), judges)
    }

    /// What may explain a failure: the end of the history and of the server's log.
    pub(crate) fn report(&self) -> String {
        let mut report = self.history().tail();
        let log = self.site().log();
        if !log.is_empty() {
            report.push_str("\n  the server's log ends with:\n");
            report.push_str(&log);
        }
        report
    }
}

/// Finishes a builder of values that a case knows to be valid.
pub(crate) fn built(builder: InstanceBuilder) -> Arc<Instance> {
    Arc::new(builder.build().expect("cases build valid instances"))
}

/// Does the same with each item, all at once, and waits for all.
pub(crate) async fn side_by_side<T, F>(
    items: impl IntoIterator<Item = T> + Send,
    mut act: impl FnMut(T) -> F + Send,
) -> Outcome
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for item in items {
        tasks.spawn(act(item));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Whether both hold the same instances, in whatever order; the failure names the differences.
pub(crate) fn same(found: &[Arc<Instance>], expected: &[Arc<Instance>]) -> Outcome {
    const SHOWN: usize = 3;
    let mut differences: Vec<String> = Vec::new();
    let mut left: HashMap<InstanceKey, &Arc<Instance>> = HashMap::new();
    for instance in found {
        if left.insert(instance.key(), instance).is_some() {
            differences.push(format!("{} is there twice", instance.key()));
        }
    }
    for instance in expected {
        match left.remove(&instance.key()) {
            None => differences.push(format!("{} is missing", instance.key())),
            Some(other) if other != instance => differences.push(differs(other, instance)),
            Some(_) => {}
        }
    }
    let unexpected = left
        .values()
        .map(|instance| format!("unexpected: {}", Brief(instance)));
    differences.extend(unexpected);
    let more = differences.len().saturating_sub(SHOWN);
    differences.truncate(SHOWN);
    ensure!(
        differences.is_empty(),
        "{}{}",
        differences.join("; "),
        if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        }
    );
    Ok(())
}

fn differs(found: &Instance, expected: &Instance) -> String {
    let mut fields = Vec::new();
    let mut field = |name: &str, found: &dyn fmt::Debug, expected: &dyn fmt::Debug| {
        let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
        if found != expected {
            fields.push(format!("{name} is {found:.200} and not {expected:.200}"));
        }
    };
    field("version", &found.version, &expected.version);
    field("address", &found.address, &expected.address);
    field("alternates", &found.alternates, &expected.alternates);
    field("status", &found.status, &expected.status);
    field("weight", &found.weight, &expected.weight);
    field("zone", &found.zone, &expected.zone);
    field("metadata", &found.metadata, &expected.metadata);
    field("endpoints", &found.endpoints, &expected.endpoints);
    format!("{}: {}", expected.key(), fields.join(", "))
}

/// The keys of these instances.
pub(crate) fn keys(instances: &[Arc<Instance>]) -> Vec<InstanceKey> {
    instances.iter().map(|instance| instance.key()).collect()
}
