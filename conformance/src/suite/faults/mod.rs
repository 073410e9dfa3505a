//! What registrants and readers notice of a fault, and that it is over when it is over.

pub(super) mod store;
pub(super) mod stranger;
pub(super) mod wire;

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Capability, Discovery, DiscoveryConfig, Freshness, GuardPolicy, Instance, ReadOptions,
    Registrar, RegistrationHandle, RegistrationState, Registry, RoundRobin, View,
};
use tokio::time::{sleep, timeout};

use crate::case::{Case, Failure, Outcome};
use crate::fixture::{Fault, Faults};
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
    case!(a_hung_server_is_an_error_in_time, |_, faults| faults.hang),
];

/// A connection that is silently dead is noticed within this.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

fn outage(_: &Capability, faults: &Faults) -> bool {
    faults.outage
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
    // Nobody would register this one again.
    let silent = world.instance("silent", "a");
    let owner = world.client().await?;
    world.register(&owner, &silent).await?;
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
    world.finds(&reader, "silent", &[silent]).await?;
    let keys = crate::world::keys(&instances);
    crate::laws::never_lost(&world.history().events(), &keys)
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
        world
            .finds_within(window, &reader, "web", &instances)
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
    let doubted = || async {
        let snapshot = view.snapshot();
        ensure!(
            snapshot.held == instances.len(),
            "{} are held",
            snapshot.held
        );
        ensure!(!snapshot.freshness.is_fresh(), "doubt is not said");
        same(&snapshot.instances, &instances)
    };
    eventually(RECOVERY, "the loss to be doubted", doubted).await?;
    // The registrants of a registry that was away may pause for longer than this before they try again.
    throughout(Duration::from_secs(3), "the loss is doubted", doubted).await?;
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

pub(super) fn several(world: &World, count: usize) -> Vec<Arc<Instance>> {
    (0..count)
        .map(|i| world.instance("web", &format!("a{i}")))
        .collect()
}

/// Registers these with a registrar of their own, for the TTL that is granted without a wish, and keeps them registered.
pub(super) async fn hold(
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
pub(super) async fn fresh(view: &View, expected: &[Arc<Instance>], window: Duration) -> Outcome {
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
pub(super) fn reregister(world: &World) -> Duration {
    world.reregister(world.capability().default_ttl) + RECOVERY
}
