//! Who is alive stays, who is dead goes.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Capability, Held, Instance, ReadOptions, Registered, Registrar, Registration,
    RegistrationState, Renewal, Status, TtlScope,
};
use tokio::time::{Instant, sleep};

use crate::case::{Case, Failure, Outcome};
use crate::fixture::{Fault, Faults};
use crate::laws;
use crate::wait::{RECOVERY, SLACK, eventually, throughout};
use crate::world::{World, built};

pub(super) const CASES: &[Case] = &[
    case!(
        a_silent_registration_lapses_and_not_before_its_ttl,
        silent_ones_lapse
    ),
    case!(a_renewed_registration_outlives_its_ttl, ttl_of_its_own),
    case!(
        a_registrar_keeps_its_registrations_while_the_process_is_busy,
        ttl_of_its_own
    ),
    case!(a_renewal_creates_nothing),
    case!(renewals_are_answered_one_by_one),
    case!(
        a_forgotten_registration_is_unknown_to_a_renewal,
        |_, faults| faults.forget
    ),
    case!(
        a_forgotten_registration_comes_back_as_last_published,
        |_, faults| faults.forget
    ),
    case!(draining_is_told_before_leaving),
    case!(
        what_an_operator_took_out_stays_out_until_he_is_done,
        |_, faults| faults.maintain
    ),
    case!(a_recheck_of_the_living_changes_nothing),
    case!(a_recheck_finds_the_dead, recheck_shows),
    case!(
        a_killed_registrant_is_gone_within_the_crash_window,
        kill_shows
    ),
    case!(a_killed_registrant_is_removed_in_the_end, removal_shows),
    case!(a_killed_registrant_may_come_back_at_once, |_, faults| {
        faults.processes
    }),
    case!(a_stopped_registrant_comes_back_when_it_goes_on, stop_shows),
];

/// The shortest TTL that is asked for.
const SHORT: Duration = Duration::from_secs(2);

fn ttl_of_its_own(capability: &Capability, _: &Faults) -> bool {
    capability.ttl == TtlScope::Registration
}

fn silent_ones_lapse(capability: &Capability, faults: &Faults) -> bool {
    ttl_of_its_own(capability, faults) && crash_is_short(capability)
}

fn kill_shows(capability: &Capability, faults: &Faults) -> bool {
    faults.processes && crash_is_short(capability)
}

/// Where the dead are shown for a while.
fn removal_shows(capability: &Capability, faults: &Faults) -> bool {
    let windows = capability.windows;
    faults.processes && windows.removed.is_some() && windows.removed != windows.crash
}

fn recheck_shows(capability: &Capability, faults: &Faults) -> bool {
    faults.processes && capability.recheck && capability.windows.crash.is_some()
}

fn stop_shows(capability: &Capability, faults: &Faults) -> bool {
    kill_shows(capability, faults) && capability.can_forget
}

/// Whether a death can be waited for.
fn crash_is_short(capability: &Capability) -> bool {
    let window = capability
        .windows
        .crash
        .map(|window| window.at(Some(SHORT)));
    window.is_some_and(|window| window <= Duration::from_secs(20))
}

/// Nobody who is silent for less than the granted TTL is taken for dead; whoever is silent for longer goes.
async fn a_silent_registration_lapses_and_not_before_its_ttl(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let observer = world.observe(&reader, "web").await?;
    let begin = Instant::now();
    let wish = Registration::from(Instance::clone(&instance)).ttl(SHORT);
    let granted = writer.register(&wish).await?.ttl.unwrap_or(SHORT);
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    // Its end is expected by the watch alone: nobody asks the server meanwhile.
    world
        .shows_nobody(world.crash(Some(granted)), &observer)
        .await?;
    let lived = begin.elapsed();
    ensure!(
        lived >= granted,
        "it was told as gone after {lived:?} of a TTL of {granted:?}"
    );
    let service = instance.service.clone();
    let found = reader.lookup(&service, &ReadOptions::default()).await?;
    ensure!(
        !found.iter().any(|found| laws::lives(found)),
        "a lookup finds {found:?}"
    );
    Ok(())
}

/// Renewed in time, a registration stays for several times its TTL.
async fn a_renewed_registration_outlives_its_ttl(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let wish = Arc::new(Registration::from(Instance::clone(&instance)).ttl(SHORT));
    let registered = writer.register(&wish).await?;
    let granted = registered.ttl.unwrap_or(SHORT);
    let observer = world.observe(&reader, "web").await?;
    // The first look may take longer than the TTL, so that renewals begin before it.
    let mut held = Held::new(wish, registered);
    let renewals = async {
        loop {
            sleep(granted / 4).await;
            match writer.renew(std::slice::from_ref(&held)).await.pop() {
                Some(Ok(Renewal::Held(registered))) => held.registered = registered,
                other => return Failure::new(format!("a renewal in time says {other:?}")),
            }
        }
    };
    let only = std::slice::from_ref(&instance);
    let stays = async {
        world.shows(&observer, only).await?;
        sleep(granted * 2 + SLACK).await;
        world.finds(&reader, "web", only).await
    };
    tokio::select! {
        failure = renewals => return Err(failure),
        stays = stays => stays?,
    }
    laws::never_lost(&world.history().events(), &[instance.key()])
}

/// Heartbeats get their turn beside tasks that leave no thread idle.
async fn a_registrar_keeps_its_registrations_while_the_process_is_busy(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let registrar = Registrar::new(writer);
    let wish = Registration::from(Instance::clone(&instance)).ttl(SHORT);
    let handle = registrar.register_within(wish, RECOVERY).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    let end = Instant::now() + SHORT * 4;
    let mut burners = tokio::task::JoinSet::new();
    for _ in 0..4 {
        burners.spawn(async move {
            while Instant::now() < end {
                let turn = Instant::now() + Duration::from_millis(5);
                while Instant::now() < turn {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(done) = burners.join_next().await {
        done?;
    }
    ensure!(
        matches!(handle.state(), RegistrationState::Registered),
        "the handle is {:?}",
        handle.state()
    );
    laws::never_lost(&world.history().events(), &[instance.key()])
}

/// A renewal of what is not registered says so and registers nothing.
async fn a_renewal_creates_nothing(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let registration = Arc::new(world.registration(&instance));
    let registered = world.register(&writer, &instance).await?;
    writer.deregister(&instance.key()).await?;
    let never = world.instance("web", "never");
    let held = [
        Held::new(registration, registered),
        Held::new(
            Arc::new(world.registration(&never)),
            Registered::new(never.key(), Some(SHORT), 1),
        ),
    ];
    let answers = writer.renew(&held).await;
    let unknown = matches!(answers[..], [Ok(Renewal::Unknown), Ok(Renewal::Unknown)]);
    ensure!(
        unknown,
        "renewals of what is not registered say {answers:?}"
    );
    world.finds(&reader, "web", &[]).await
}

/// One renewal asks for many: each gets its own answer, in the order asked.
async fn renewals_are_answered_one_by_one(world: World) -> Outcome {
    let client = world.client().await?;
    let mut held = Vec::new();
    for number in 0..6 {
        let instance = world.instance("web", &format!("a{number}"));
        let registration = Arc::new(world.registration(&instance));
        held.push(Held::new(
            registration,
            world.register(&client, &instance).await?,
        ));
    }
    for number in [1, 4] {
        client.deregister(&held[number].registered.key).await?;
    }
    let answers = client.renew(&held).await;
    ensure_eq!(answers.len(), held.len(), "answers");
    for (number, (held, answer)) in held.iter().zip(answers).enumerate() {
        let right = match &answer {
            Ok(Renewal::Held(registered)) => {
                ![1, 4].contains(&number) && registered.key == held.registered.key
            }
            Ok(Renewal::Unknown) => [1, 4].contains(&number),
            Err(_) => false,
        };
        ensure!(right, "the answer for number {number} is {answer:?}");
    }
    ensure!(client.renew(&[]).await.is_empty(), "answers to no question");
    Ok(())
}

/// What the server lost is `Unknown` to the renewal, and absent from lookups.
async fn a_forgotten_registration_is_unknown_to_a_renewal(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let mut held = Vec::new();
    let instances = [world.instance("web", "a"), world.instance("web", "b")];
    for instance in &instances {
        let registration = Arc::new(world.registration(instance));
        held.push(Held::new(
            registration,
            world.register(&writer, instance).await?,
        ));
    }
    world.finds(&reader, "web", &instances).await?;
    world.inject(Fault::Forget(instances[0].key())).await?;
    let answers = writer.renew(&held).await;
    let right = matches!(answers[..], [Ok(Renewal::Unknown), Ok(Renewal::Held(_))]);
    ensure!(
        right,
        "of two, one of which was lost, a renewal says {answers:?}"
    );
    world.finds(&reader, "web", &instances[1..]).await
}

/// A live registrant that the server forgot is registered again within the window, once, with what it last published.
async fn a_forgotten_registration_comes_back_as_last_published(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(writer);
    let first = world.instance("web", "a");
    let wish = Registration::from(Instance::clone(&first)).ttl(SHORT);
    let handle = registrar.register_within(wish, RECOVERY).await?;
    handle
        .update(|instance| instance.weight(5).meta("k", "new"))
        .await?;
    let latest = built(first.edit().weight(5).meta("k", "new"));
    world
        .finds(&reader, "web", std::slice::from_ref(&latest))
        .await?;
    for _ in 0..2 {
        world.inject(Fault::Forget(first.key())).await?;
        let window = world.reregister(Some(SHORT));
        let service = first.service.clone();
        eventually(window, "the registration to come back", || async {
            let found = reader.lookup(&service, &ReadOptions::default()).await?;
            crate::world::same(&found, std::slice::from_ref(&latest))
        })
        .await?;
    }
    eventually(SLACK, "the handle to be registered", || async {
        let state = handle.state();
        ensure!(
            matches!(state, RegistrationState::Registered),
            "it is {state:?}"
        );
        Ok(())
    })
    .await
}

/// A program that drains is told as draining before `drain` returns, and only then goes.
async fn draining_is_told_before_leaving(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(writer);
    let instance = world.instance("web", "a");
    let handle = registrar
        .register_within(world.registration(&instance), RECOVERY)
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    handle.drain().await?;
    let draining = built(instance.edit().status(Status::Draining));
    world.shows_within(SLACK, &observer, &[draining]).await?;
    laws::never_lost(&world.history().events(), &[instance.key()])?;
    handle.deregister().await?;
    world.shows(&observer, &[]).await
}

/// What an operator took out of service is not brought back by its registrant, whatever that publishes.
async fn what_an_operator_took_out_stays_out_until_he_is_done(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(writer.clone());
    let instance = world.instance("web", "a");
    let wish = Registration::from(Instance::clone(&instance)).ttl(SHORT);
    let handle = registrar.register_within(wish, RECOVERY).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    world.inject(Fault::Maintain(instance.key())).await?;
    let out = built(instance.edit().status(Status::Maintenance));
    world.shows(&observer, std::slice::from_ref(&out)).await?;
    handle.update(|instance| instance.weight(7)).await?;
    let out = built(out.edit().weight(7));
    world.shows(&observer, std::slice::from_ref(&out)).await?;
    // Renewals and registering the same again are no way back either.
    writer
        .register(&world.registration(&built(instance.edit().weight(7))))
        .await?;
    throughout(SHORT * 2, "out of service", || async {
        let service = &instance.service;
        let found = reader.lookup(service, &ReadOptions::default()).await?;
        crate::world::same(&found, std::slice::from_ref(&out))
    })
    .await?;
    world.inject(Fault::Release(instance.key())).await?;
    let back = built(instance.edit().weight(7));
    world.shows(&observer, &[back]).await
}

/// Looking again at an instance that lives is harmless, and so is looking for one that never was.
async fn a_recheck_of_the_living_changes_nothing(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    reader.recheck(&instance.key()).await?;
    reader
        .recheck(&world.instance("web", "never").key())
        .await?;
    throughout(Duration::from_secs(2), "the living stay", || async {
        ensure!(observer.view().len() == 1, "{:?} is there", observer.view());
        Ok(())
    })
    .await
}

/// A process that was killed says no goodbye; a recheck finds out before the crash window ends.
async fn a_recheck_finds_the_dead(world: World) -> Outcome {
    const NEWS: Duration = Duration::from_secs(15);
    let reader = world.client().await?;
    let instance = world.instance("web", "a");
    let process = world.registrant(&instance, SHORT).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    process.kill().await?;
    reader.recheck(&instance.key()).await?;
    world.shows_within(NEWS, &observer, &[]).await
}

/// The crash window, counted from the SIGKILL of a process.
async fn a_killed_registrant_is_gone_within_the_crash_window(world: World) -> Outcome {
    let reader = world.client().await?;
    let instance = world.instance("web", "a");
    let process = world.registrant(&instance, SHORT).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    process.kill().await?;
    world
        .shows_nobody(world.crash(Some(SHORT)), &observer)
        .await
}

/// A registry that keeps the dead removes them within the window that it says.
async fn a_killed_registrant_is_removed_in_the_end(world: World) -> Outcome {
    let reader = world.client().await?;
    let instance = world.instance("web", "a");
    let process = world.registrant(&instance, SHORT).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    process.kill().await?;
    let removed = world.capability().windows.removed;
    let window = removed.map(|window| window.at(Some(SHORT)));
    world
        .shows_within(window.unwrap_or_default() + SLACK, &observer, &[])
        .await
}

/// A process that is killed and started again gets its old id, and the end of its old registration does not take the
/// new one away.
async fn a_killed_registrant_may_come_back_at_once(world: World) -> Outcome {
    let reader = world.client().await?;
    let instance = world.instance("web", "a");
    world.registrant(&instance, SHORT).await?.kill().await?;
    let _process = world.registrant(&instance, SHORT).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    let time = match crash_is_short(&world.capability()) {
        true => world.crash(Some(SHORT)),
        false => SLACK,
    };
    let service = instance.service.clone();
    throughout(time, "the second life", || async {
        let found = reader.lookup(&service, &ReadOptions::default()).await?;
        crate::world::same(&found, std::slice::from_ref(&instance))
    })
    .await
}

/// A process that was suspended for longer than its TTL is gone, and back soon after it goes on.
async fn a_stopped_registrant_comes_back_when_it_goes_on(world: World) -> Outcome {
    let reader = world.client().await?;
    let instance = world.instance("web", "a");
    let process = world.registrant(&instance, SHORT).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    process.stop()?;
    world
        .shows_nobody(world.crash(Some(SHORT)), &observer)
        .await?;
    process.go_on()?;
    let window = world.reregister(Some(SHORT)).max(SHORT / 3 + SLACK);
    world.shows_within(window, &observer, &[instance]).await
}
