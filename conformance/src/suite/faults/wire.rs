//! Faults of the wire between a client and its server.

use std::time::Duration;

use registry_core::{
    Capability, Change, Discovery, ReadOptions, Registrar, RegistrationState, Scope, TtlScope,
};
use tokio::time::{Instant, sleep, timeout};

use super::{SILENCE, fresh, hold, several};
use crate::case::{Case, Failure, Outcome};
use crate::fixture::{Faults, Mode};
use crate::wait::{RECOVERY, SLACK, eventually, within};
use crate::world::{World, built, same};

pub(in crate::suite) const CASES: &[Case] = &[
    case!(what_changed_while_cut_off_arrives_as_a_difference, wire),
    case!(a_short_partition_is_not_noticed, partition),
    case!(a_long_partition_ends_with_everybody_back, partition),
    case!(a_silent_connection_is_noticed, wire),
    case!(a_lost_reply_does_no_harm, wire),
    case!(slow_replies_pile_up_nothing, wire),
    case!(a_cut_within_a_message_is_no_wrong_data, wire),
    case!(reconnecting_is_bounded, wire),
    case!(many_clients_come_back_spread_out, wire),
];

fn wire(_: &Capability, faults: &Faults) -> bool {
    faults.wire
}

fn partition(capability: &Capability, faults: &Faults) -> bool {
    faults.wire && capability.ttl == TtlScope::Registration && capability.windows.crash.is_some()
}

/// A reader that was cut off hears afterwards of what changed, once, and of nothing else.
async fn what_changed_while_cut_off_arrives_as_a_difference(world: World) -> Outcome {
    let writer = world.client().await?;
    let (reader, proxy) = world.wired().await?;
    let before = several(&world, 7);
    world.register_all(&writer, &before).await?;
    let discovery = Discovery::new(reader);
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &before, world.visible()).await?;
    let mut changes = view.subscribe();
    changes.next().await?;
    world.history().fault("cut");
    proxy.set(Mode::Reset);
    let mut after = before[2..].to_vec();
    after[0] = built(after[0].edit().weight(7));
    after.extend((0..3).map(|i| world.instance("web", &format!("new-{i}"))));
    world.register_all(&writer, &after[..1]).await?;
    world.register_all(&writer, &after[5..]).await?;
    world.deregister_all(&writer, &before[..2]).await?;
    eventually(SILENCE, "the cut to be noticed", || async {
        ensure!(!view.snapshot().freshness.is_fresh(), "the view is fresh");
        same(&view.snapshot().instances, &before)
    })
    .await?;
    proxy.set(Mode::Pass);
    fresh(&view, &after, RECOVERY).await?;
    let mut told = Vec::new();
    while let Ok(next) = timeout(Duration::from_millis(200), changes.next()).await {
        told.extend(next?);
    }
    let name = |change: &Change| match change {
        Change::Upsert(instance) => format!("+{}", instance.id),
        Change::Remove(key) => format!("-{}", key.id),
        other => format!("{other:?}"),
    };
    let mut told: Vec<_> = told.iter().map(name).collect();
    told.sort();
    let expected = ["+a2", "+new-0", "+new-1", "+new-2", "-a0", "-a1"];
    ensure_eq!(told, expected, "what was told of the time apart");
    Ok(())
}

/// A registrant that cannot reach the server for less than its TTL stays registered.
async fn a_short_partition_is_not_noticed(world: World) -> Outcome {
    let (reader, (writer, proxy)) = (world.client().await?, world.wired().await?);
    let instance = world.instance("web", "a");
    let registrar = Registrar::new(writer);
    let ttl = Duration::from_secs(6);
    let _handle = registrar
        .register_within(world.registration(&instance).ttl(ttl), RECOVERY)
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    proxy.set(Mode::Blackhole);
    sleep(ttl / 3).await;
    proxy.set(Mode::Pass);
    sleep(ttl).await;
    crate::laws::never_lost(&world.history().events(), &[instance.key()])
}

/// A registrant that cannot reach the server for longer than its TTL is told as gone, and as back soon after.
async fn a_long_partition_ends_with_everybody_back(world: World) -> Outcome {
    let (reader, (writer, proxy)) = (world.client().await?, world.wired().await?);
    let instance = world.instance("web", "a");
    let registrar = Registrar::new(writer);
    let ttl = Duration::from_secs(2);
    let handle = registrar
        .register_within(world.registration(&instance).ttl(ttl), RECOVERY)
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    world.history().fault("partition");
    proxy.set(Mode::Blackhole);
    world
        .shows_nobody(world.crash(Some(ttl)), &observer)
        .await?;
    eventually(RECOVERY, "the handle to be degraded", || async {
        let state = handle.state();
        ensure!(
            matches!(state, RegistrationState::Degraded { .. }),
            "it is {state:?}"
        );
        Ok(())
    })
    .await?;
    proxy.set(Mode::Pass);
    world.shows_within(RECOVERY, &observer, &[instance]).await
}

/// A connection on which nothing comes any more, without an end, is taken for dead in time.
async fn a_silent_connection_is_noticed(world: World) -> Outcome {
    let (writer, (reader, proxy)) = (world.client().await?, world.wired().await?);
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, std::slice::from_ref(&instance), world.visible()).await?;
    let scope = Scope::from(world.service("web"));
    let mut watch = reader.watch(&scope, &ReadOptions::default()).await?;
    watch.next().await?;
    world.history().fault("silence");
    proxy.set(Mode::Freeze);
    let late = world.instance("web", "late");
    world.register(&writer, &late).await?;
    let end = within(SILENCE, "the end of a silent watch", async {
        while watch.next().await.is_ok() {}
    });
    end.await?;
    eventually(SILENCE, "the view to be stale", || async {
        ensure!(!view.snapshot().freshness.is_fresh(), "the view is fresh");
        Ok(())
    })
    .await?;
    proxy.set(Mode::Pass);
    fresh(&view, &[instance, late], RECOVERY).await
}

/// A request whose reply is lost may have been done; repeating it is one registration still.
async fn a_lost_reply_does_no_harm(world: World) -> Outcome {
    let (reader, (writer, proxy)) = (world.client().await?, world.wired().await?);
    let instance = world.instance("web", "a");
    let registration = world.registration(&instance);
    let observer = world.observe(&reader, "web").await?;
    proxy.set(Mode::DropReplies);
    let lost = timeout(Duration::from_secs(1), writer.register(&registration)).await;
    let answered = matches!(lost, Ok(Ok(_)));
    ensure!(!answered, "an answer came through a wire that passes none");
    proxy.set(Mode::Pass);
    let again = within(RECOVERY, "registering again", async {
        loop {
            // The first attempt may find the connection that was spoilt.
            match writer.register(&registration).await {
                Ok(_) => return,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    again.await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    let told = observer.seen().changes.len();
    ensure!(told <= 2, "one registration was told as {told} changes");
    writer.deregister(&instance.key()).await?;
    world.shows(&observer, &[]).await
}

/// Callers' deadlines hold while the server is slow; renewals do not queue up, and nobody is registered twice.
async fn slow_replies_pile_up_nothing(world: World) -> Outcome {
    let (reader, (writer, proxy)) = (world.client().await?, world.wired().await?);
    let instance = world.instance("web", "a");
    let registrar = Registrar::new(writer.clone());
    let registration = world.registration(&instance).ttl(Duration::from_secs(3));
    let handle = registrar.register_within(registration, RECOVERY).await?;
    let before = proxy.connections();
    proxy.set(Mode::Delay(Duration::from_secs(5)));
    let limit = Duration::from_secs(1);
    let hasty = world.instance("web", "hasty");
    let call = registrar.register_within(world.registration(&hasty), limit);
    let hasty = within(limit + SLACK, "a call with a deadline", call).await?;
    ensure!(hasty.is_err(), "a reply came earlier than it can");
    sleep(Duration::from_secs(6)).await;
    let opened = proxy.connections() - before;
    ensure!(
        opened <= 20,
        "{opened} connections were opened in 7 s of slow replies"
    );
    proxy.set(Mode::Pass);
    eventually(RECOVERY, "the registration", || async {
        let state = handle.state();
        ensure!(
            matches!(state, RegistrationState::Registered),
            "it is {state:?}"
        );
        same(
            &reader
                .lookup(&instance.service, &ReadOptions::default())
                .await?,
            std::slice::from_ref(&instance),
        )
    })
    .await
}

/// However far into a reply the connection is cut: the answer is an error or the truth.
async fn a_cut_within_a_message_is_no_wrong_data(world: World) -> Outcome {
    const LONGEST: usize = 1200;
    let (writer, (reader, proxy)) = (world.client().await?, world.wired().await?);
    let instances = several(&world, 3);
    world.register_all(&writer, &instances).await?;
    let service = world.service("web");
    let scope = Scope::from(service.clone());
    let options = ReadOptions::default();
    // A prime step: however many there is time for, they lie everywhere.
    let cuts = (0..LONGEST).map(|number| 1 + number * 7919 % LONGEST);
    let end = Instant::now() + Duration::from_secs(8);
    for mode in cuts.flat_map(|bytes| [Mode::CutAfter(bytes), Mode::EndAfter(bytes)]) {
        if Instant::now() > end {
            break;
        }
        proxy.set(mode);
        let limit = Duration::from_secs(5);
        if let Ok(found) = within(limit, "a lookup", reader.lookup(&service, &options)).await? {
            same(&found, &instances).map_err(|failure| cut(mode, &failure))?;
        }
        let watch = async { reader.watch(&scope, &options).await?.next().await };
        if let Ok(first) = within(limit, "a snapshot", watch).await? {
            let Some(Change::Snapshot(all)) = first.first() else {
                return Err(cut(
                    mode,
                    &Failure::new(format!("the first item is {first:?}")),
                ));
            };
            same(all, &instances).map_err(|failure| cut(mode, &failure))?;
        }
    }
    proxy.set(Mode::Pass);
    eventually(RECOVERY, "a lookup after the cuts", || async {
        same(&reader.lookup(&service, &options).await?, &instances)
    })
    .await
}

fn cut(mode: Mode, failure: &Failure) -> Failure {
    Failure::new(format!("{mode:?}: {}", failure.message()))
}

/// While the server is away a client does not hammer it, however much it follows; afterwards all is well again.
async fn reconnecting_is_bounded(world: World) -> Outcome {
    const SERVICES: usize = 20;
    const TIME: Duration = Duration::from_secs(6);
    let (client, proxy) = world.wired().await?;
    let discovery = Discovery::new(client.clone());
    let instances = several(&world, 10);
    let handles = hold(client, &instances).await?;
    let mut views = Vec::new();
    for number in 0..SERVICES {
        views.push(
            discovery
                .service(world.service(&format!("other-{number}")))
                .await?,
        );
    }
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    let before = proxy.connections();
    world.history().fault("cut");
    proxy.set(Mode::Reset);
    sleep(TIME).await;
    let opened = proxy.connections() - before;
    // One per second and watch would be 120 alone.
    let bound = SERVICES + 5 * TIME.as_secs() as usize * 2;
    ensure!(
        opened <= bound,
        "{opened} connections were opened in {TIME:?} without a server"
    );
    proxy.set(Mode::Pass);
    let begin = Instant::now();
    fresh(&view, &instances, RECOVERY).await?;
    for view in views {
        fresh(&view, &[], RECOVERY.saturating_sub(begin.elapsed()) + SLACK).await?;
    }
    drop(handles);
    Ok(())
}

/// When a server that many clients follow is back, they do not all come at once again and again.
async fn many_clients_come_back_spread_out(world: World) -> Outcome {
    const CLIENTS: usize = 100;
    const AWAY: Duration = Duration::from_secs(6);
    let (writer, (_, proxy)) = (world.client().await?, world.wired().await?);
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    let url = world.site().url(Some(proxy.address()));
    let mut views = Vec::new();
    for _ in 0..CLIENTS {
        let discovery = Discovery::new(world.backend().connect(&url).await?);
        views.push(discovery.service(world.service("web")).await?);
    }
    let known = std::slice::from_ref(&instance);
    for view in &views {
        fresh(view, known, world.visible()).await?;
    }
    let before = proxy.connections();
    world.history().fault("cut");
    proxy.set(Mode::Reset);
    sleep(AWAY).await;
    let opened = proxy.connections() - before;
    // Doubling from 0.2 to 5 s is at most six tries in this time; some clients speak over two connections.
    let bound = CLIENTS * 6 * 2;
    ensure!(
        opened <= bound,
        "{opened} connections of {CLIENTS} clients in {AWAY:?} without a server"
    );
    proxy.set(Mode::Pass);
    let begin = Instant::now();
    for view in &views {
        fresh(
            view,
            known,
            RECOVERY.saturating_sub(begin.elapsed()) + SLACK,
        )
        .await?;
    }
    Ok(())
}
