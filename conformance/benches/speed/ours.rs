//! What is measured of every plugin, by its contract alone.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Change, Discovery, Instance, ReadOptions, Registrar, Registration, Registry, Scope, Watcher,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Failure;

/// An instance of a service; its address is one of the loopback.
pub(crate) fn instance(service: &str, id: &str) -> Result<Instance, Failure> {
    let builder = Instance::new(service, "127.0.0.7:8080").id(id);
    Ok(builder.version("1.2").meta("transport", "grpc").build()?)
}

/// One who registers and one who watches, each with a connection of its own.
pub(crate) struct Pair {
    writer: Arc<dyn Registry>,
    watch: Box<dyn Watcher>,
    /// The watch ends with it.
    _reader: Arc<dyn Registry>,
    service: String,
}

impl Pair {
    pub(crate) async fn open(
        writer: Arc<dyn Registry>,
        reader: Arc<dyn Registry>,
        service: &str,
    ) -> Result<Self, Failure> {
        let scope = Scope::Service(service.try_into()?);
        let mut watch = reader.watch(&scope, &ReadOptions::default()).await?;
        watch.next().await?;
        Ok(Self {
            writer,
            watch,
            _reader: reader,
            service: service.to_owned(),
        })
    }

    /// From the call of `register` to the change at the other one. Afterwards it is taken back, so that the service
    /// stays small.
    pub(crate) async fn round(&mut self, number: usize) -> Result<Duration, Failure> {
        let instance = instance(&self.service, &format!("i{number}"))?;
        let key = instance.key();
        let wish = Registration::from(instance.clone()).ttl(Duration::from_secs(600));
        let writer = self.writer.clone();
        let begin = Instant::now();
        let call = tokio::spawn(async move { writer.register(&wish).await });
        self.until(|change| matches!(change, Change::Upsert(other) if **other == instance))
            .await?;
        let time = begin.elapsed();
        call.await??;
        self.writer.deregister(&key).await?;
        self.until(|change| matches!(change, Change::Remove(gone) if *gone == key))
            .await?;
        Ok(time)
    }

    async fn until(&mut self, told: impl Fn(&Change) -> bool + Send) -> Result<(), Failure> {
        while !self.watch.next().await?.iter().any(&told) {}
        Ok(())
    }
}

/// Registers this many instances of a service.
pub(crate) async fn fill(
    registry: &Arc<dyn Registry>,
    service: &str,
    count: usize,
) -> Result<(), Failure> {
    const ABREAST: usize = 64;
    let mut calls = JoinSet::new();
    for number in 0..count {
        if calls.len() == ABREAST
            && let Some(done) = calls.join_next().await
        {
            done??;
        }
        let instance = instance(service, &format!("{service}-{number}"))?;
        let wish = Registration::from(instance).ttl(Duration::from_secs(600));
        let registry = registry.clone();
        calls.spawn(async move { registry.register(&wish).await });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(())
}

/// The time of a lookup that has to find this many.
pub(crate) async fn read(
    registry: &Arc<dyn Registry>,
    service: &str,
    count: usize,
) -> Result<Duration, Failure> {
    let service = service.try_into()?;
    let begin = Instant::now();
    let found = registry.lookup(&service, &ReadOptions::default()).await?;
    let time = begin.elapsed();
    match found.len() == count {
        true => Ok(time),
        false => Err(format!("a lookup finds {} of {count}", found.len()).into()),
    }
}

/// A program at rest: registrations that are kept and services that are followed.
pub(crate) struct Idle {
    _handles: Vec<registry_core::RegistrationHandle>,
    _views: Vec<registry_core::View>,
}

impl Idle {
    /// Keeps this many registered, with the TTL that is granted without a wish, and follows this many services.
    pub(crate) async fn start(
        registry: Arc<dyn Registry>,
        registrations: usize,
        watches: usize,
    ) -> Result<Self, Failure> {
        let registrar = Registrar::new(registry.clone());
        let discovery = Discovery::new(registry);
        let mut calls = JoinSet::new();
        for number in 0..registrations {
            let service = format!("idle-{}", number % watches.max(1));
            let instance = instance(&service, &format!("i{number}"))?;
            let registrar = registrar.clone();
            calls.spawn(async move {
                let limit = Duration::from_secs(30);
                registrar.register_within(instance, limit).await
            });
        }
        let mut handles = Vec::new();
        while let Some(handle) = calls.join_next().await {
            handles.push(handle??);
        }
        let mut views = Vec::new();
        for number in 0..watches {
            views.push(discovery.service(format!("idle-{number}").as_str()).await?);
        }
        Ok(Self {
            _handles: handles,
            _views: views,
        })
    }
}
