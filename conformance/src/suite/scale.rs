//! Many of everything. These run one at a time, with nothing beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry_core::{Discovery, Instance, ReadOptions, Registrar, Registry};
use tokio::time::{Instant, sleep};

use crate::case::{Case, Failure, Outcome};
use crate::wait::{SLACK, eventually, within};
use crate::world::{World, built, same, side_by_side};

pub(super) const CASES: &[Case] = &[
    case!(a_large_service_is_read_whole),
    case!(many_watches_and_registrations_live_in_one_process),
    case!(a_churn_is_followed_to_its_end),
];

/// How long a case fills a registry, on a backend that is slow to take it.
const FILLING: Duration = Duration::from_secs(6);

/// How many calls are on their way at once.
const ABREAST: usize = 64;

/// A service of many instances is read whole by lookups and watches, and one change of it is told soon.
async fn a_large_service_is_read_whole(world: World) -> Outcome {
    const INSTANCES: usize = 10_000;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let mut instances = fill(&world, &writer, INSTANCES).await?;
    ensure!(
        instances.len() >= ABREAST,
        "only {} were taken in {FILLING:?}",
        instances.len()
    );
    let service = world.service("web");
    let (limit, options) = (Duration::from_secs(2), ReadOptions::default());
    eventually(world.visible(), "all to be visible", || async {
        let lookup = reader.lookup(&service, &options);
        let found = within(limit, "a lookup of all", lookup).await??;
        same(&found, &instances)
    })
    .await?;
    let begin = Instant::now();
    let late = world.client().await?;
    let observer = world.observe(&late, "web").await?;
    let opened = begin.elapsed();
    let settle = world.capability().windows.settle;
    ensure!(
        opened <= limit + settle,
        "the snapshot of {} took {opened:?}",
        instances.len()
    );
    world.shows(&observer, &instances).await?;
    let changed = built(instances[7].edit().weight(7));
    world.register(&writer, &changed).await?;
    instances[7] = changed;
    world.shows(&observer, &instances).await
}

/// Hundreds of services followed and a thousand registrations held by one process; it ends in time.
async fn many_watches_and_registrations_live_in_one_process(world: World) -> Outcome {
    const WATCHES: usize = 300;
    const REGISTRATIONS: usize = 1000;
    let client = world.client().await?;
    let discovery = Discovery::new(client.clone());
    let registrar = Registrar::new(client.clone());
    let name = |number: usize| format!("service-{}", number % WATCHES);
    let mut views = Vec::new();
    let opening = within(FILLING * 2, "opening the watches", async {
        let mut opens = tokio::task::JoinSet::new();
        for number in 0..WATCHES {
            let (discovery, service) = (discovery.clone(), world.service(&name(number)));
            opens.spawn(async move { discovery.service(service).await });
        }
        while let Some(view) = opens.join_next().await {
            views.push(view??);
        }
        Ok::<_, Failure>(())
    });
    opening.await??;
    let end = Instant::now() + FILLING;
    let next = AtomicUsize::new(0);
    let next = Arc::new(next);
    let mut holders = tokio::task::JoinSet::new();
    for _ in 0..ABREAST {
        let (world, registrar, next) = (world.clone(), registrar.clone(), next.clone());
        holders.spawn(async move {
            let mut handles = Vec::new();
            while Instant::now() < end {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= REGISTRATIONS {
                    break;
                }
                let instance = world.instance(
                    &format!("service-{}", number % WATCHES),
                    &format!("a{number}"),
                );
                let registration = world.registration(&instance);
                handles.push(registrar.register_within(registration, FILLING).await?);
            }
            Ok::<_, Failure>(handles)
        });
    }
    let mut handles = Vec::new();
    while let Some(held) = holders.join_next().await {
        handles.extend(held??);
    }
    ensure!(
        handles.len() >= ABREAST,
        "only {} were taken in {FILLING:?}",
        handles.len()
    );
    eventually(world.visible(), "every registration to be seen", || async {
        let seen: usize = views
            .iter()
            .map(|view| view.snapshot().instances.len())
            .sum();
        ensure_eq!(seen, handles.len(), "instances seen by all views");
        Ok(())
    })
    .await?;
    let limit = Duration::from_secs(5);
    within(limit + SLACK, "taking all back", registrar.close(limit)).await??;
    within(limit, "closing the client", client.close()).await??;
    Ok(())
}

/// A thousand changes a second, or as many as the backend takes: a watch follows, coalesces and ends at the truth.
async fn a_churn_is_followed_to_its_end(world: World) -> Outcome {
    const WRITERS: usize = 10;
    let reader = world.client().await?;
    let observer = world.observe(&reader, "web").await?;
    let changes = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + FILLING;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let (world, client, changes) = (world.clone(), world.client().await?, changes.clone());
        writers.spawn(async move {
            let mut last = world.instance("web", &format!("a{number}"));
            while Instant::now() < end {
                let turn = Instant::now() + Duration::from_millis(10);
                last = built(last.edit().meta("n", fastrand::u64(..).to_string()));
                world.register(&client, &last).await?;
                changes.fetch_add(1, Ordering::Relaxed);
                sleep(turn.saturating_duration_since(Instant::now())).await;
            }
            Ok::<_, Failure>((client, last))
        });
    }
    let (mut clients, mut last) = (Vec::new(), Vec::new());
    while let Some(done) = writers.join_next().await {
        let (client, instance) = done??;
        clients.push(client);
        last.push(instance);
    }
    let window = world.visible().max(Duration::from_secs(5));
    world.shows_within(window, &observer, &last).await?;
    let (told, made) = (
        observer.seen().changes.len(),
        changes.load(Ordering::Relaxed),
    );
    ensure!(told <= made + 1, "{made} changes were told as {told}");
    world.finds(&reader, "web", &last).await
}

/// Registers up to this many, for as long as filling may take, and gives those that were taken.
async fn fill(
    world: &World,
    writer: &Arc<dyn Registry>,
    count: usize,
) -> Outcome<Vec<Arc<Instance>>> {
    let end = Instant::now() + FILLING;
    let next = Arc::new(AtomicUsize::new(0));
    side_by_side(0..ABREAST, |_| {
        let (world, writer, next) = (world.clone(), writer.clone(), next.clone());
        async move {
            while Instant::now() < end {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                world.register(&writer, &numbered(&world, number)).await?;
            }
            Ok(())
        }
    })
    .await?;
    let taken = next.load(Ordering::Relaxed).min(count);
    Ok((0..taken).map(|number| numbered(world, number)).collect())
}

fn numbered(world: &World, number: usize) -> Arc<Instance> {
    world.instance("web", &format!("a{number:05}"))
}
