//! Those who watch: slow, many, gone, or for every service.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{Capability, ErrorKind, Instance, ReadOptions, Scope};
use tokio::time::{Instant, sleep, timeout};

use super::BUSY;
use crate::case::{Case, Failure, Outcome};
use crate::fixture::Faults;
use crate::observer::{Observer, Seen};
use crate::wait::{SLACK, eventually, within};
use crate::world::{World, built, side_by_side};

pub(in crate::suite) const CASES: &[Case] = &[
    case!(a_dropped_next_loses_nothing),
    case!(a_slow_consumer_is_coalesced_and_hurts_nobody),
    case!(two_watches_each_get_everything),
    case!(dropped_watches_are_forgotten),
    case!(every_service_can_be_watched, watch_all),
    case!(watching_every_service_is_refused, no_watch_all),
];

fn watch_all(capability: &Capability, _: &Faults) -> bool {
    capability.watch_all
}

fn no_watch_all(capability: &Capability, _: &Faults) -> bool {
    !capability.watch_all
}

/// `next` may be dropped at any time, as `select!` does.
async fn a_dropped_next_loses_nothing(world: World) -> Outcome {
    const STATES: u16 = 100;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let first = world.instance("web", "a");
    let scope = Scope::from(first.service.clone());
    let mut watch = reader.watch(&scope, &ReadOptions::default()).await?;
    let writing = {
        let (world, first) = (world.clone(), first.clone());
        tokio::spawn(async move {
            let end = Instant::now() + BUSY;
            let mut last = first.clone();
            for state in 1..=STATES {
                last = built(first.edit().weight(state));
                world.register(&writer, &last).await?;
                if Instant::now() > end {
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, Failure>((writer, last))
        })
    };
    let mut view = Seen::default();
    let mut drain = async |view: &mut Seen| {
        // The shortest waits drop the future after one poll.
        for micros in [0, 50, 200, 1000, 20_000] {
            match timeout(Duration::from_micros(micros), watch.next()).await {
                Ok(changes) => view.fold(changes?),
                Err(_) => continue,
            }
        }
        Ok::<_, Failure>(())
    };
    while !writing.is_finished() {
        drain(&mut view).await?;
    }
    let (_writer, last) = writing.await??;
    let deadline = Instant::now() + world.settle() + world.visible();
    while view.view.get(&last.key()) != Some(&last) {
        let now = view.view.get(&last.key()).map(|instance| instance.weight);
        ensure!(
            Instant::now() < deadline,
            "the watch is at state {now:?} of {}",
            last.weight
        );
        drain(&mut view).await?;
    }
    Ok(())
}

/// A watch that nobody reads holds up nobody, and hears in the end of what is, not of all that was.
async fn a_slow_consumer_is_coalesced_and_hurts_nobody(world: World) -> Outcome {
    const CHANGES: u32 = 10_000;
    const IDS: usize = 5;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let scope = Scope::from(world.service("web"));
    let mut slow = reader.watch(&scope, &ReadOptions::default()).await?;
    within(world.settle(), "the first snapshot", slow.next()).await??;
    let quick = world.observe(&reader, "web").await?;
    // Long records, so that what the network holds for the reader is soon full.
    let limits = world.capability().limits;
    let length = (limits.metadata_pair - "pad".len()).min(4000);
    let pad = "x".repeat(length.min(limits.record.unwrap_or(usize::MAX) / 4));
    let mut last: Vec<_> = (0..IDS)
        .map(|i| built(world.build("web", &format!("a{i}")).meta("pad", &pad)))
        .collect();
    world.register_all(&writer, &last).await?;
    let end = Instant::now() + BUSY;
    let mut changes = 0;
    while changes < CHANGES && Instant::now() < end {
        changes += 1;
        let slot = changes as usize % IDS;
        last[slot] = built(last[slot].edit().meta("n", changes.to_string()));
        world.register(&writer, &last[slot]).await?;
        // Whoever would keep each change gets the chance to.
        tokio::task::yield_now().await;
    }
    world.shows(&quick, &last).await?;
    world.finds(&reader, "web", &last).await?;
    let slow = Observer::of(slow);
    // It has no snapshot to come: it was read before.
    world.shows(&slow, &last).await?;
    let told = slow.seen().changes.len();
    let bound = 1000.max(changes as usize / 2);
    ensure!(
        told <= bound,
        "{told} changes were kept for a watch that nobody read, of {changes}"
    );
    Ok(())
}

/// Two watches of one service do not share what they hear, and one may go without the other.
async fn two_watches_each_get_everything(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let mut present = Vec::new();
    let (first, second) = (
        world.observe(&reader, "web").await?,
        world.observe(&reader, "web").await?,
    );
    for id in ["a", "b"] {
        let instance = world.instance("web", id);
        world.register(&writer, &instance).await?;
        present.push(instance);
        for observer in [&first, &second] {
            world.shows(observer, &present).await?;
        }
    }
    drop(first);
    for _ in 0..20 {
        // Watches that come and go, some before their first snapshot.
        let scope = Scope::from(world.service("web"));
        drop(reader.watch(&scope, &ReadOptions::default()).await?);
    }
    let third = world.observe(&reader, "web").await?;
    writer.deregister(&present.remove(0).key()).await?;
    for observer in [&second, &third] {
        world.shows(observer, &present).await?;
    }
    Ok(())
}

/// Watches that were dropped cost nothing: a thousand of them leave room for one more, and the server forgets them.
async fn dropped_watches_are_forgotten(world: World) -> Outcome {
    const WATCHES: usize = 1000;
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    let before = world.site().open_watches().await;
    let scope = Scope::from(instance.service.clone());
    let opened = side_by_side(0..20, |_| {
        let (reader, scope, settle) = (reader.clone(), scope.clone(), world.settle());
        async move {
            let end = Instant::now() + BUSY;
            for number in 0..WATCHES / 20 {
                let mut watch = reader.watch(&scope, &ReadOptions::default()).await?;
                if number % 2 == 0 {
                    within(settle, "the first snapshot", watch.next()).await??;
                }
                if Instant::now() > end {
                    break;
                }
            }
            Ok(())
        }
    });
    within(
        Duration::from_secs(20),
        "opening and dropping watches",
        opened,
    )
    .await??;
    if before.is_some() {
        eventually(SLACK, "the server to forget the watches", || async {
            ensure_eq!(
                world.site().open_watches().await,
                before,
                "watches at the server"
            );
            Ok(())
        })
        .await?;
    }
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, &[instance]).await
}

/// One watch tells of every service, new ones included.
async fn every_service_can_be_watched(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let early = world.instance("early", "a");
    world.register(&writer, &early).await?;
    world
        .finds(&reader, "early", std::slice::from_ref(&early))
        .await?;
    let observer = world.observe_scope(&reader, &Scope::All).await?;
    let shows = |expected: Vec<Arc<Instance>>| {
        let (observer, world) = (&observer, &world);
        let window = world.visible().max(world.gone());
        let exactly = move |seen: &Seen| {
            let ours = seen
                .view
                .values()
                .filter(|instance| world.owns(&instance.service));
            ours.eq(expected.iter())
        };
        async move {
            observer
                .until(window, "all services of this case", exactly)
                .await
        }
    };
    shows(vec![early.clone()]).await?;
    let late = [world.instance("late", "a"), world.instance("late", "b")];
    world.register_all(&writer, &late).await?;
    shows([std::slice::from_ref(&early), &late].concat()).await?;
    writer.deregister(&early.key()).await?;
    world.deregister_all(&writer, &late[..1]).await?;
    shows(late[1..].to_vec()).await?;
    Ok(())
}

/// Where every service cannot be watched, asking for it says so.
async fn watching_every_service_is_refused(world: World) -> Outcome {
    let client = world.client().await?;
    let refused = client.watch(&Scope::All, &ReadOptions::default()).await;
    let kind = refused.err().map(|error| error.kind());
    ensure_eq!(
        kind,
        Some(ErrorKind::Unsupported),
        "what is said to a watch of every service"
    );
    Ok(())
}
