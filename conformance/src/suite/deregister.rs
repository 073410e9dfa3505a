//! What is taken back is gone, and stays gone.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Capability, ErrorKind, Held, ReadOptions, Registrar, Registry, Renewal, ServiceName,
};
use tokio::time::timeout;

use crate::case::{Case, Outcome};
use crate::fixture::{Fault, Faults};
use crate::wait::{RECOVERY, SLACK, eventually, throughout, within};
use crate::world::{World, keys, side_by_side};

pub(super) const CASES: &[Case] = &[
    case!(what_was_deregistered_is_gone_for_everybody),
    case!(deregistering_again_is_ok),
    case!(no_renewal_brings_it_back),
    case!(
        nothing_brings_a_deregistered_registration_back,
        |_, faults| faults.forget
    ),
    case!(a_deregistration_during_an_outage_is_done_after_it, outage),
    case!(a_dropped_handle_deregisters),
    case!(a_dropped_call_leaves_nothing),
    case!(closing_a_registrar_takes_everything_back),
    case!(
        closing_a_registrar_ends_in_time_while_nobody_answers,
        silence
    ),
];

fn outage(_: &Capability, faults: &Faults) -> bool {
    faults.outage
}

fn silence(_: &Capability, faults: &Faults) -> bool {
    faults.outage || faults.hang
}

/// Within the window neither lookups nor watches of others show it; its neighbours stay.
async fn what_was_deregistered_is_gone_for_everybody(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let [a, b] = [world.instance("web", "a"), world.instance("web", "b")];
    world.register_all(&writer, &[a.clone(), b.clone()]).await?;
    world.finds(&reader, "web", &[a.clone(), b.clone()]).await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, &[a.clone(), b.clone()]).await?;
    writer.deregister(&a.key()).await?;
    world.shows(&observer, std::slice::from_ref(&b)).await?;
    for client in [&reader, &writer] {
        world.finds(client, "web", std::slice::from_ref(&b)).await?;
    }
    Ok(())
}

/// What is not there need not be removed.
async fn deregistering_again_is_ok(world: World) -> Outcome {
    let client = world.client().await?;
    let instance = world.instance("web", "a");
    world.register(&client, &instance).await?;
    for _ in 0..2 {
        client.deregister(&instance.key()).await?;
    }
    client
        .deregister(&world.instance("web", "never").key())
        .await?;
    client
        .deregister(&world.instance("nobody", "never").key())
        .await?;
    world.finds(&client, "web", &[]).await
}

/// Renewals that race with a deregistration, or come after it, create nothing.
async fn no_renewal_brings_it_back(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances: Vec<_> = (0..12)
        .map(|i| world.instance("web", &format!("a{i}")))
        .collect();
    side_by_side(instances.clone(), |instance| {
        let (world, writer) = (world.clone(), writer.clone());
        async move {
            let registration = Arc::new(world.registration(&instance));
            let held = Held::new(registration, world.register(&writer, &instance).await?);
            let (racing, rival) = (writer.clone(), [held.clone()]);
            let renewals = tokio::spawn(async move {
                for _ in 0..20 {
                    racing.renew(&rival).await;
                }
            });
            writer.deregister(&instance.key()).await?;
            renewals.await?;
            let after = writer.renew(&[held]).await;
            let unknown = matches!(after[..], [Ok(Renewal::Unknown)]);
            ensure!(unknown, "a renewal after the deregistration says {after:?}");
            Ok(())
        }
    })
    .await?;
    world.finds(&reader, "web", &[]).await?;
    stays_empty(&reader, &world.service("web"), Duration::from_secs(1)).await
}

/// After `deregister` returns, the instance is never created again: not by a renewal, an update or the answer to a loss
/// that were on their way.
async fn nothing_brings_a_deregistered_registration_back(world: World) -> Outcome {
    let (client, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(client.clone());
    let mut handles = Vec::new();
    for number in 0..20 {
        let instance = world.instance("web", &format!("a{number}"));
        handles.push(registrar.register(world.registration(&instance)).await?);
    }
    side_by_side(handles.into_iter().enumerate(), |(number, handle)| {
        let world = world.clone();
        async move {
            // Each at another moment, to meet each step of the registrar.
            tokio::time::sleep(Duration::from_millis(number as u64)).await;
            let forget = world.inject(Fault::Forget(handle.key().clone()));
            let (forgotten, _, gone) = tokio::join!(
                forget,
                handle.update(|instance| instance.weight(9)),
                handle.deregister()
            );
            forgotten?;
            Ok(gone?)
        }
    })
    .await?;
    world.finds(&reader, "web", &[]).await?;
    let back = world
        .capability()
        .windows
        .reregister
        .map_or(SLACK, |window| window.plus);
    stays_empty(
        &reader,
        &world.service("web"),
        back.min(Duration::from_secs(5)),
    )
    .await
}

/// What is taken back while the server is away goes when it is there again, and nothing registers it anew.
async fn a_deregistration_during_an_outage_is_done_after_it(world: World) -> Outcome {
    let (client, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(client.clone());
    let instance = world.instance("web", "a");
    let handle = registrar.register(world.registration(&instance)).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    world.inject(Fault::Stop).await?;
    let answer = within(
        RECOVERY,
        "the answer to a deregistration",
        handle.deregister(),
    )
    .await?;
    ensure!(
        answer.is_err(),
        "a server that is away was said to have removed it"
    );
    let direct = within(
        RECOVERY,
        "the answer to a deregistration",
        client.deregister(handle.key()),
    );
    ensure!(
        direct.await?.is_err(),
        "a server that is away was said to have removed it"
    );
    world.inject(Fault::Start).await?;
    let service = world.service("web");
    eventually(RECOVERY, "the instance to go", || async {
        let found = reader.lookup(&service, &ReadOptions::default()).await?;
        ensure!(found.is_empty(), "{} instances", found.len());
        Ok(())
    })
    .await?;
    stays_empty(&reader, &service, Duration::from_secs(2)).await
}

/// Dropping the handle is enough, as when a program returns early.
async fn a_dropped_handle_deregisters(world: World) -> Outcome {
    let (client, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(client);
    let instance = world.instance("web", "a");
    let handle = registrar.register(world.registration(&instance)).await?;
    world.finds(&reader, "web", &[instance]).await?;
    drop(handle);
    world.finds(&reader, "web", &[]).await?;
    // The last handle and the registrar may go together as well.
    let instance = world.instance("web", "b");
    let handle = registrar.register(world.registration(&instance)).await?;
    world.finds(&reader, "web", &[instance]).await?;
    drop((registrar, handle));
    world.finds(&reader, "web", &[]).await
}

/// A call to the registrar that is dropped before it ends leaves no record.
async fn a_dropped_call_leaves_nothing(world: World) -> Outcome {
    const MOMENTS: [u64; 6] = [0, 1, 5, 50, 300, 700];
    let (client, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(client);
    side_by_side(MOMENTS, |moment| {
        let (world, registrar) = (world.clone(), registrar.clone());
        async move {
            let instance = world.instance("web", &format!("after-{moment}-ms"));
            let call = registrar.register(world.registration(&instance));
            // A call that ended in time is dropped with its handle.
            drop(timeout(Duration::from_millis(moment), call).await);
            Ok(())
        }
    })
    .await?;
    // What was on its way is registered first, and then taken back.
    let service = world.service("web");
    let window = world.visible() + world.gone();
    tokio::time::sleep(world.capability().windows.visible).await;
    eventually(window, "all of it to go", || async {
        let found = reader.lookup(&service, &ReadOptions::default()).await?;
        ensure!(found.is_empty(), "{:?}", keys(&found));
        Ok(())
    })
    .await
}

/// Closing deregisters all at once, is final, and may be done twice.
async fn closing_a_registrar_takes_everything_back(world: World) -> Outcome {
    let (client, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(client);
    let instances: Vec<_> = (0..20)
        .map(|i| world.instance("web", &format!("a{i}")))
        .collect();
    let handles = hold(&world, &registrar, &instances).await?;
    world.finds(&reader, "web", &instances).await?;
    let limit = Duration::from_secs(5);
    for _ in 0..2 {
        within(limit, "closing", registrar.close(limit)).await??;
    }
    world.finds(&reader, "web", &[]).await?;
    let late = registrar.register(world.registration(&instances[0])).await;
    let kind = late.err().map(|error| error.kind());
    ensure_eq!(
        kind,
        Some(ErrorKind::Closed),
        "what a closed registrar says"
    );
    drop(handles);
    Ok(())
}

/// A server that hangs or is gone delays the end of a program by no more than the program allows.
async fn closing_a_registrar_ends_in_time_while_nobody_answers(world: World) -> Outcome {
    let client = world.client().await?;
    let registrar = Registrar::new(client);
    let instances = [world.instance("web", "a"), world.instance("web", "b")];
    let handles = hold(&world, &registrar, &instances).await?;
    let hangs = world.backend().faults().hang;
    world
        .inject(if hangs { Fault::Pause } else { Fault::Stop })
        .await?;
    let limit = Duration::from_secs(2);
    let closed = within(limit + SLACK, "closing", registrar.close(limit)).await?;
    ensure!(
        closed.is_err(),
        "a server that does not answer was said to have removed all"
    );
    world
        .inject(if hangs { Fault::Resume } else { Fault::Start })
        .await?;
    drop(handles);
    Ok(())
}

async fn hold(
    world: &World,
    registrar: &Registrar,
    instances: &[Arc<registry_core::Instance>],
) -> Outcome<Vec<registry_core::RegistrationHandle>> {
    let mut calls = tokio::task::JoinSet::new();
    for instance in instances {
        let (registrar, registration) = (registrar.clone(), world.registration(instance));
        calls.spawn(async move { registrar.register_within(registration, RECOVERY).await });
    }
    let mut handles = Vec::new();
    while let Some(handle) = calls.join_next().await {
        handles.push(handle??);
    }
    Ok(handles)
}

async fn stays_empty(reader: &Arc<dyn Registry>, service: &ServiceName, time: Duration) -> Outcome {
    throughout(time, "nothing comes back", || async {
        let found = reader.lookup(service, &ReadOptions::default()).await?;
        ensure!(found.is_empty(), "{:?} came back", keys(&found));
        Ok(())
    })
    .await
}
