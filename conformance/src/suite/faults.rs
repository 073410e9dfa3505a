//! What registrants and readers notice of a fault, and that it is over when it is over.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Capability, Change, Discovery, DiscoveryConfig, Freshness, GuardPolicy, Instance, ReadOptions,
    Registrar, RegistrationHandle, RegistrationState, Registry, RoundRobin, Scope, TtlScope, View,
};
use tokio::time::{Instant, sleep, timeout};

use crate::case::{Case, Failure, Outcome};
use crate::fixture::{Fault, Faults, Mode};
use crate::observer::Observer;
use crate::wait::{RECOVERY, SLACK, eventually, throughout, within};
use crate::world::{World, built, same};

pub(super) const CASES: &[Case] = &[
    case!(a_server_that_starts_late_is_waited_for, outage),
    case!(an_outage_keeps_the_last_good_set, outage),
    case!(a_restart_removes_nobody, outage),
    case!(a_wiped_registry_gets_everybody_back, |_, faults| faults
        .wipe),
    case!(a_mass_loss_is_doubted_and_then_believed, |_, faults| faults
        .wipe),
    case!(a_single_removal_is_not_doubted, |_, faults| faults.outage
        || faults.wipe),
    case!(what_changed_while_cut_off_arrives_as_a_difference, wire),
    case!(a_short_partition_is_not_noticed, partition),
    case!(a_long_partition_ends_with_everybody_back, partition),
    case!(a_silent_connection_is_noticed, wire),
    case!(a_hung_server_is_an_error_in_time, |_, faults| faults.hang),
    case!(a_lost_reply_does_no_harm, wire),
    case!(slow_replies_pile_up_nothing, wire),
    case!(a_cut_within_a_message_is_no_wrong_data, wire),
    case!(reconnecting_is_bounded, wire),
];

/// A connection that is silently dead is noticed within this.
const SILENCE: Duration = Duration::from_secs(30);

fn outage(_: &Capability, faults: &Faults) -> bool {
    faults.outage
}

fn wire(_: &Capability, faults: &Faults) -> bool {
    faults.wire
}

fn partition(capability: &Capability, faults: &Faults) -> bool {
    faults.wire && capability.ttl == TtlScope::Registration && capability.windows.crash.is_some()
}

/// Registrations made and services asked for while the server is not there yet become true when it is.
async fn a_server_that_starts_late_is_waited_for(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    world.inject(Fault::Stop).await?;
    let registrar = Registrar::new(writer);
    let instance = world.instance("web", "a");
    let call = registrar.register(world.registration(&instance));
    let handle = within(RECOVERY, "registering with nobody", call).await??;
    let degraded = matches!(handle.state(), RegistrationState::Degraded { .. });
    ensure!(degraded, "with nobody the handle is {:?}", handle.state());
    let limit = Duration::from_secs(1);
    let hasty = world.instance("web", "hasty");
    let call = registrar.register_within(world.registration(&hasty), limit);
    let hasty = within(limit + SLACK, "giving up", call).await?;
    ensure!(hasty.is_err(), "nobody was said to have registered it");
    let discovery = Discovery::new(reader);
    let call = discovery.service(instance.service.clone());
    let view = within(RECOVERY, "a view of nobody's service", call).await??;
    ensure!(
        !view.snapshot().freshness.is_fresh(),
        "nobody stands behind the view"
    );
    world.inject(Fault::Start).await?;
    eventually(RECOVERY, "the registration", || async {
        let state = handle.state();
        ensure!(
            matches!(state, RegistrationState::Registered),
            "the handle is {state:?}"
        );
        Ok(())
    })
    .await?;
    fresh(&view, &[instance], RECOVERY).await
}

/// Errors of the registry remove nobody: the last good set is served and picked from, flagged stale with its age.
async fn an_outage_keeps_the_last_good_set(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = several(&world, 3);
    let _handles = hold(writer, &instances).await?;
    let discovery = Discovery::new(reader);
    let balancer = discovery
        .balancer(world.service("web"), RoundRobin::default())
        .await?;
    let view = balancer.view().clone();
    fresh(&view, &instances, world.visible()).await?;
    let mut changes = view.subscribe();
    changes.next().await?;
    world.inject(Fault::Stop).await?;
    let age = |view: &View| match view.snapshot().freshness {
        Freshness::Stale { since, .. } => Ok(since.elapsed()),
        _ => Err(Failure::new("the view is fresh")),
    };
    eventually(RECOVERY, "the view to be stale", || async {
        age(&view).map(drop)
    })
    .await?;
    let first = age(&view)?;
    throughout(Duration::from_secs(3), "during the outage", || async {
        same(&view.snapshot().instances, &instances)?;
        let pick = balancer.pick()?;
        ensure!(
            instances.contains(pick.instance()),
            "picked {:?}",
            pick.instance()
        );
        Ok(())
    })
    .await?;
    let second = age(&view)?;
    ensure!(
        second >= first + Duration::from_secs(2),
        "the age went from {first:?} to {second:?}"
    );
    world.inject(Fault::Start).await?;
    fresh(&view, &instances, RECOVERY).await?;
    let told = timeout(Duration::ZERO, changes.next()).await;
    ensure!(
        told.is_err(),
        "an outage without a change was told as {told:?}"
    );
    Ok(())
}

/// A server that restarts with its data costs nobody its registration, and readers see no one go.
async fn a_restart_removes_nobody(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = several(&world, 5);
    let _handles = hold(writer, &instances).await?;
    world.finds(&reader, "web", &instances).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    let follower = Observer::following(reader.clone(), world.service("web").into());
    world.shows(&follower, &instances).await?;
    for _ in 0..2 {
        world.inject(Fault::Stop).await?;
        sleep(Duration::from_millis(500)).await;
        world.inject(Fault::Start).await?;
        let kept = || async { same(&view.snapshot().instances, &instances) };
        throughout(
            Duration::from_secs(1),
            "what readers see after a restart",
            kept,
        )
        .await?;
        fresh(&view, &instances, RECOVERY).await?;
        world.shows_within(RECOVERY, &follower, &instances).await?;
    }
    world.finds(&reader, "web", &instances).await?;
    let keys: Vec<_> = crate::world::keys(&instances);
    crate::laws::never_removed(&world.history().events(), &keys)
}

/// After a loss of all data every live registrant is back within the window, as last published, and readers never saw
/// fewer than half of them.
async fn a_wiped_registry_gets_everybody_back(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let mut instances = several(&world, 20);
    let handles = hold(writer, &instances).await?;
    for (handle, instance) in handles.iter().zip(&mut instances).take(5) {
        handle.update(|instance| instance.weight(9)).await?;
        *instance = built(instance.edit().weight(9));
    }
    world.finds(&reader, "web", &instances).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    let follower = Observer::following(reader.clone(), world.service("web").into());
    world.shows(&follower, &instances).await?;
    world.inject(Fault::Wipe).await?;
    let window = reregister(&world);
    let half = async {
        loop {
            let seen = view.snapshot().instances.len();
            if seen * 2 < instances.len() {
                return seen;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let back = async {
        let service = world.service("web");
        eventually(window, "everybody to be back", || async {
            same(
                &reader.lookup(&service, &ReadOptions::default()).await?,
                &instances,
            )
        })
        .await?;
        world.shows_within(RECOVERY, &follower, &instances).await?;
        fresh(&view, &instances, RECOVERY).await
    };
    tokio::select! {
        seen = half => ensure!(false, "readers saw {seen} of {}", instances.len()),
        back = back => back?,
    }
    ensure_eq!(
        view.snapshot().held,
        0,
        "instances that are doubted after all are back"
    );
    Ok(())
}

/// When most of a service is gone after a fault, that is believed only once it has stayed so for the time that
/// registrants need to come back. Who does not want that believes at once.
async fn a_mass_loss_is_doubted_and_then_believed(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = several(&world, 10);
    // Nobody renews these, and nobody registers them again.
    world.register_all(&writer, &instances).await?;
    world.finds(&reader, "web", &instances).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    let config = DiscoveryConfig::default().guard(GuardPolicy::off());
    let credulous = Discovery::with_config(reader, config);
    let credulous = credulous.service(world.service("web")).await?;
    world.inject(Fault::Wipe).await?;
    fresh(&credulous, &[], RECOVERY).await?;
    eventually(RECOVERY, "the loss to be doubted", || async {
        let snapshot = view.snapshot();
        ensure!(
            snapshot.held == instances.len(),
            "{} are held",
            snapshot.held
        );
        ensure!(!snapshot.freshness.is_fresh(), "doubt is not said");
        same(&snapshot.instances, &instances)
    })
    .await?;
    fresh(&view, &[], reregister(&world)).await
}

/// One instance that leaves is gone at once, also right after a fault.
async fn a_single_removal_is_not_doubted(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = several(&world, 5);
    let handles = hold(writer, &instances).await?;
    let discovery = Discovery::new(reader);
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    if world.backend().faults().outage {
        world.inject(Fault::Stop).await?;
        world.inject(Fault::Start).await?;
    } else {
        world.inject(Fault::Wipe).await?;
    }
    fresh(&view, &instances, reregister(&world)).await?;
    handles[0].deregister().await?;
    fresh(&view, &instances[1..], world.gone()).await
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
    crate::laws::never_removed(&world.history().events(), &[instance.key()])
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
    let crash = world
        .capability()
        .windows
        .crash
        .map(|window| window.at(Some(ttl)));
    let window = crash.unwrap_or_default() + SLACK;
    world.shows_within(window, &observer, &[]).await?;
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

/// A server that hangs is told apart from one that is slow, and used again when it goes on.
async fn a_hung_server_is_an_error_in_time(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let _handles = hold(writer, std::slice::from_ref(&instance)).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, std::slice::from_ref(&instance), world.visible()).await?;
    world.inject(Fault::Pause).await?;
    let service = world.service("web");
    let options = ReadOptions::default();
    let lookup = within(RECOVERY, "a lookup", reader.lookup(&service, &options)).await?;
    let temporary = lookup
        .as_ref()
        .is_err_and(registry_core::Error::is_temporary);
    ensure!(temporary, "a hung server was said to know {lookup:?}");
    eventually(SILENCE, "the view to be stale", || async {
        ensure!(!view.snapshot().freshness.is_fresh(), "the view is fresh");
        same(&view.snapshot().instances, std::slice::from_ref(&instance))
    })
    .await?;
    world.inject(Fault::Resume).await?;
    fresh(&view, &[instance], reregister(&world).max(RECOVERY)).await
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
    let (writer, (reader, proxy)) = (world.client().await?, world.wired().await?);
    let instances = several(&world, 3);
    world.register_all(&writer, &instances).await?;
    let service = world.service("web");
    let scope = Scope::from(service.clone());
    let options = ReadOptions::default();
    let cuts = (1..40)
        .chain((40..400).step_by(24))
        .chain((400..4000).step_by(300));
    for bytes in cuts {
        proxy.set(Mode::CutAfter(bytes));
        let limit = Duration::from_secs(5);
        if let Ok(found) = within(limit, "a lookup", reader.lookup(&service, &options)).await? {
            same(&found, &instances).map_err(|failure| cut(bytes, &failure))?;
        }
        let watch = async { reader.watch(&scope, &options).await?.next().await };
        if let Ok(first) = within(limit, "a snapshot", watch).await? {
            let Some(Change::Snapshot(all)) = first.first() else {
                return Err(cut(
                    bytes,
                    &Failure::new(format!("the first item is {first:?}")),
                ));
            };
            same(all, &instances).map_err(|failure| cut(bytes, &failure))?;
        }
    }
    proxy.set(Mode::Pass);
    eventually(RECOVERY, "a lookup after the cuts", || async {
        same(&reader.lookup(&service, &options).await?, &instances)
    })
    .await
}

fn cut(bytes: usize, failure: &Failure) -> Failure {
    let message = failure.message();
    Failure::new(format!("cut after {bytes} bytes of replies: {message}"))
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

fn several(world: &World, count: usize) -> Vec<Arc<Instance>> {
    (0..count)
        .map(|i| world.instance("web", &format!("a{i}")))
        .collect()
}

/// Registers these with a registrar of their own, for the TTL that is granted without a wish, and keeps them registered.
async fn hold(
    client: Arc<dyn Registry>,
    instances: &[Arc<Instance>],
) -> Outcome<Vec<RegistrationHandle>> {
    let registrar = Registrar::new(client);
    let mut calls = tokio::task::JoinSet::new();
    for (number, instance) in instances.iter().enumerate() {
        let (registrar, registration) = (registrar.clone(), Instance::clone(instance));
        calls.spawn(async move {
            let handle = registrar.register_within(registration, RECOVERY).await;
            (number, handle)
        });
    }
    let mut handles = Vec::new();
    while let Some(done) = calls.join_next().await {
        let (number, handle) = done?;
        handles.push((number, handle?));
    }
    handles.sort_by_key(|(number, _)| *number);
    Ok(handles.into_iter().map(|(_, handle)| handle).collect())
}

/// Waits until the view is fresh and shows exactly these.
async fn fresh(view: &View, expected: &[Arc<Instance>], window: Duration) -> Outcome {
    let what = format!("a fresh view of {} instances", expected.len());
    eventually(window, &what, || async {
        let snapshot = view.snapshot();
        same(&snapshot.instances, expected)?;
        ensure!(
            snapshot.freshness.is_fresh(),
            "the view is {:?}",
            snapshot.freshness
        );
        Ok(())
    })
    .await
}

/// How long until everybody is back after a loss: the window, and the wait of the machines before they try again.
fn reregister(world: &World) -> Duration {
    let capability = world.capability();
    let ttl = capability.default_ttl;
    let window = capability.windows.reregister.map(|window| window.at(ttl));
    window.unwrap_or_default() + RECOVERY
}
