//! What a watch tells.

pub(super) mod others;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_core::{
    Capability, Change, ErrorKind, Held, Instance, ReadOptions, Registrar, Scope, Status,
};
use tokio::time::{Instant, sleep, timeout};

use crate::case::{Case, Failure, Outcome};
use crate::fixture::{Fault, Faults};
use crate::observer::{Observer, Seen};
use crate::wait::{RECOVERY, SLACK, eventually, within};
use crate::world::{World, built, side_by_side};

pub(super) const CASES: &[Case] = &[
    case!(first_event_is_a_snapshot),
    case!(nothing_is_missed_while_a_watch_starts),
    case!(the_fold_equals_a_fresh_lookup),
    case!(an_instance_never_goes_back),
    case!(nothing_is_told_without_a_change),
    case!(an_unhealthy_instance_is_not_removed),
    case!(a_watch_that_failed_is_finished, |_, faults| faults.outage
        || faults.wipe),
    case!(a_dropped_next_loses_nothing),
    case!(a_slow_consumer_is_coalesced_and_hurts_nobody),
    case!(two_watches_each_get_everything),
    case!(dropped_watches_are_forgotten),
    case!(a_service_may_come_and_go),
    case!(every_service_can_be_watched, watch_all),
    case!(watching_every_service_is_refused, no_watch_all),
];

/// How long a case makes changes, on a backend that is slow to take them.
const BUSY: Duration = Duration::from_secs(5);

fn watch_all(capability: &Capability, _: &Faults) -> bool {
    capability.watch_all
}

fn no_watch_all(capability: &Capability, _: &Faults) -> bool {
    !capability.watch_all
}

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
