//! What a watch tells.

pub(super) mod consumers;
pub(super) mod others;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_core::{Change, Held, Instance, ReadOptions, Registrar, Scope, Status};
use tokio::time::{Instant, sleep};

use crate::case::{Case, Failure, Outcome};
use crate::fixture::Fault;
use crate::observer::Observer;
use crate::wait::{RECOVERY, SLACK, within};
use crate::world::{World, built};

pub(super) const CASES: &[Case] = &[
    case!(first_event_is_a_snapshot),
    case!(nothing_is_missed_while_a_watch_starts),
    case!(the_fold_equals_a_fresh_lookup),
    case!(an_instance_never_goes_back),
    case!(nothing_is_told_without_a_change),
    case!(an_unhealthy_instance_is_not_removed),
    case!(a_watch_that_failed_is_finished, |_, faults| faults.outage
        || faults.wipe),
    case!(a_service_may_come_and_go),
];

/// How long a case makes changes, on a backend that is slow to take them.
const BUSY: Duration = Duration::from_secs(5);

/// The first item is everything there is, also when that is nothing.
async fn first_event_is_a_snapshot(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = [world.instance("web", "a"), world.instance("web", "b")];
    world.register_all(&writer, &instances).await?;
    world.finds(&reader, "web", &instances).await?;
    // A server may keep what a lookup and what a watch is told for a while each.
    let third = Observer::following(world.client().await?, world.service("web").into());
    world.shows(&third, &instances).await?;
    // A client that looked already, and one that asks for the first time.
    for client in [reader, world.client().await?] {
        for (service, expected) in [("web", &instances[..]), ("nobody", &[])] {
            let scope = Scope::from(world.service(service));
            let mut watch = client.watch(&scope, &ReadOptions::default()).await?;
            let first = within(world.settle(), "the first snapshot", watch.next()).await??;
            let [Change::Snapshot(all), ..] = &first[..] else {
                ensure!(false, "the first item is {first:?}");
                continue;
            };
            if first.len() == 1 {
                crate::world::same(all, expected)?;
            }
        }
    }
    Ok(())
}

/// A change that happens while a watch is opened is in its snapshot or comes after it.
async fn nothing_is_missed_while_a_watch_starts(world: World) -> Outcome {
    const ROUNDS: usize = 100;
    const WRITES: usize = 20;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let end = Instant::now() + BUSY;
    let mut before: Vec<Arc<Instance>> = Vec::new();
    for round in 0..ROUNDS {
        let opened = AtomicBool::new(false);
        let write = async {
            let mut now = Vec::new();
            // New ones come and old ones go for as long as the watch is being opened.
            while now.len() < WRITES && !(opened.load(Ordering::Relaxed) && before.is_empty()) {
                let instance = world.instance("web", &format!("{round}-{}", now.len()));
                world.register(&writer, &instance).await?;
                now.push(instance);
                if let Some(old) = before.pop() {
                    writer.deregister(&old.key()).await?;
                }
                sleep(Duration::from_micros(100)).await;
            }
            Ok::<_, Failure>(now)
        };
        let watch = async {
            let observer = world.observe(&reader, "web").await;
            opened.store(true, Ordering::Relaxed);
            observer
        };
        let (now, observer) = tokio::join!(write, watch);
        before = now?;
        world.shows(&observer?, &before).await?;
        if round >= 2 && Instant::now() > end {
            break;
        }
    }
    Ok(())
}

/// Four writers register, change and deregister at random; what a watch told, folded, is then what a lookup finds.
async fn the_fold_equals_a_fresh_lookup(world: World) -> Outcome {
    const OPERATIONS: u32 = 500;
    let reader = world.client().await?;
    let early = world.observe(&reader, "web").await?;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (world, client) = (world.clone(), world.client().await?);
        writers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            let mut mine: Vec<Option<Arc<Instance>>> = vec![None; 5];
            let end = Instant::now() + BUSY;
            for _ in 0..OPERATIONS {
                if Instant::now() > end {
                    break;
                }
                let slot = random.usize(..mine.len());
                match mine[slot].take() {
                    Some(old) if random.u8(..3) == 0 => client.deregister(&old.key()).await?,
                    _ => {
                        let id = format!("{number}-{slot}");
                        let new = world.build("web", &id).weight(random.u16(..));
                        let new = built(new.meta("k", random.u32(..).to_string()));
                        world.register(&client, &new).await?;
                        mine[slot] = Some(new);
                    }
                }
            }
            // The client is given back, for its registrations may live as long as it does.
            Ok::<_, Failure>((client, mine))
        });
    }
    let late = world.observe(&reader, "web").await?;
    let (mut expected, mut clients) = (Vec::new(), Vec::new());
    while let Some(done) = writers.join_next().await {
        let (client, mine) = done??;
        clients.push(client);
        expected.extend(mine.into_iter().flatten());
    }
    world.shows(&early, &expected).await?;
    world.shows(&late, &expected).await?;
    world.finds(&reader, "web", &expected).await
}

/// A writer counts; whoever watches sees the count rise, states in between may be left out.
async fn an_instance_never_goes_back(world: World) -> Outcome {
    const STATES: u16 = 1000;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let first = world.instance("web", "a");
    let observers = [
        world.observe(&reader, "web").await?,
        world.observe(&writer, "web").await?,
    ];
    let end = Instant::now() + BUSY;
    let mut last = first.clone();
    for state in 1..=STATES {
        last = built(first.edit().weight(state));
        world.register(&writer, &last).await?;
        if Instant::now() > end {
            break;
        }
    }
    for observer in observers {
        world.shows(&observer, std::slice::from_ref(&last)).await?;
        let mut before = 0;
        for change in observer.seen().changes {
            let Change::Upsert(instance) = change else {
                continue;
            };
            let now = instance.weight;
            ensure!(now > before, "state {now} came after state {before}");
            before = now;
        }
    }
    Ok(())
}

/// Renewals, repeated registrations and rechecks are no news.
async fn nothing_is_told_without_a_change(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let registration = world.registration(&instance);
    let registered = world.register(&writer, &instance).await?;
    let held = [Held::new(registration.into(), registered)];
    // A second one is kept alive by a registrar, as often as the TTL needs.
    let short = Duration::from_millis(1500);
    let kept = world.instance("web", "kept");
    let registrar = Registrar::new(writer.clone());
    let wish = registry_core::Registration::from(Instance::clone(&kept)).ttl(short);
    let handle = registrar.register_within(wish, RECOVERY).await?;
    world
        .finds(&reader, "web", &[instance.clone(), kept.clone()])
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, &[instance.clone(), kept]).await?;
    let before = observer.seen().changes.len();
    for _ in 0..10 {
        for answer in writer.renew(&held).await {
            answer?;
        }
        world.register(&writer, &instance).await?;
        sleep(Duration::from_millis(200)).await;
    }
    for client in [&writer, &reader] {
        client.recheck(&instance.key()).await?;
    }
    sleep(short).await;
    let told = observer.seen().changes.split_off(before);
    ensure!(
        told.is_empty(),
        "nothing changed and the watch told {told:?}"
    );
    handle.deregister().await?;
    Ok(())
}

/// Whatever its status is: an instance that is registered is told as present.
async fn an_unhealthy_instance_is_not_removed(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let first = world.instance("web", "a");
    world.register(&writer, &first).await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, std::slice::from_ref(&first)).await?;
    for status in [
        Status::Down,
        Status::Maintenance,
        Status::Draining,
        Status::Up,
    ] {
        let now = built(first.edit().status(status));
        world.register(&writer, &now).await?;
        world.shows(&observer, std::slice::from_ref(&now)).await?;
    }
    crate::laws::never_removed(&world.history().events(), &[first.key()])
}

/// A watch that can no longer promise to miss nothing ends with an error, and nothing follows it.
async fn a_watch_that_failed_is_finished(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    let scope = Scope::from(instance.service.clone());
    let mut watch = reader.watch(&scope, &ReadOptions::default()).await?;
    within(world.settle(), "the first snapshot", watch.next()).await??;
    let outage = world.backend().faults().outage;
    world
        .inject(if outage { Fault::Stop } else { Fault::Wipe })
        .await?;
    let end = within(RECOVERY, "the end of the watch", async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    })
    .await?;
    ensure!(end.is_temporary(), "the watch ended as if for ever: {end}");
    if outage {
        world.inject(Fault::Start).await?;
    }
    for _ in 0..3 {
        let again = within(SLACK, "the end again", watch.next()).await?;
        ensure!(again.is_err(), "after its error the watch yields {again:?}");
    }
    Ok(())
}

/// A watch may be there before its service; it sees the first instance come, the last one go, and both again.
async fn a_service_may_come_and_go(world: World) -> Outcome {
    const TIMES: u16 = 30;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let observer = world.observe(&reader, "web").await?;
    let end = Instant::now() + BUSY;
    for time in 0..TIMES {
        let instance = built(world.build("web", "a").weight(time));
        world.register(&writer, &instance).await?;
        world
            .shows(&observer, std::slice::from_ref(&instance))
            .await?;
        writer.deregister(&instance.key()).await?;
        world.shows(&observer, &[]).await?;
        if time > 0 && Instant::now() > end {
            break;
        }
    }
    Ok(())
}
