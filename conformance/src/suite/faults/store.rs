//! Faults of what the server keeps: its history is cut, or it goes back in time.

use std::time::Duration;

use registry_core::{Capability, Discovery, ReadOptions, Registrar};

use super::{fresh, hold, reregister, several};
use crate::case::{Case, Outcome};
use crate::fixture::{Fault, Faults, Mode};
use crate::observer::Observer;
use crate::wait::{RECOVERY, eventually};
use crate::world::{World, built, same};

pub(in crate::suite) const CASES: &[Case] = &[
    case!(a_compacted_history_is_read_anew, compact),
    case!(an_old_state_restored_loses_nobody, restore),
    case!(
        what_left_before_a_restored_state_was_over_goes_again,
        restore
    ),
];

fn compact(_: &Capability, faults: &Faults) -> bool {
    faults.compact && faults.wire
}

fn restore(capability: &Capability, faults: &Faults) -> bool {
    faults.restore && capability.windows.removed.is_some()
}

/// A watch that was cut off while the history that it would go on from was dropped comes to the truth all the same.
async fn a_compacted_history_is_read_anew(world: World) -> Outcome {
    let (writer, (reader, proxy)) = (world.client().await?, world.wired().await?);
    let mut instances = several(&world, 10);
    world.register_all(&writer, &instances).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    let follower = Observer::following(reader, world.service("web").into());
    world.shows(&follower, &instances).await?;
    for mode in [Mode::Reset, Mode::Freeze] {
        world.history().fault("cut");
        proxy.set(mode);
        for round in 0..20 {
            for instance in &mut instances {
                *instance = built(instance.edit().meta("round", round.to_string()));
            }
            world.register_all(&writer, &instances).await?;
        }
        let gone = instances.pop().expect("there are enough");
        writer.deregister(&gone.key()).await?;
        world.inject(Fault::Compact).await?;
        proxy.set(Mode::Pass);
        fresh(&view, &instances, RECOVERY).await?;
        world.shows_within(RECOVERY, &follower, &instances).await?;
    }
    Ok(())
}

/// A server that is set back to an old state gets from its registrants what they say now: who came since is back, and
/// so is each change since.
async fn an_old_state_restored_loses_nobody(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let before = several(&world, 5);
    let handles = hold(writer.clone(), &before).await?;
    world.finds(&reader, "web", &before).await?;
    world.inject(Fault::Save).await?;
    let late = [
        world.instance("web", "late-0"),
        world.instance("web", "late-1"),
    ];
    let _late = hold(writer, &late).await?;
    handles[0].update(|instance| instance.weight(9)).await?;
    let mut now = before.clone();
    now[0] = built(now[0].edit().weight(9));
    now.extend(late);
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &now, world.visible()).await?;
    let follower = Observer::following(reader.clone(), world.service("web").into());
    world.shows(&follower, &now).await?;
    world.inject(Fault::Restore).await?;
    let window = reregister(&world);
    world.finds_within(window, &reader, "web", &now).await?;
    world.shows_within(RECOVERY, &follower, &now).await?;
    fresh(&view, &now, RECOVERY).await
}

/// A registration that was taken back after the state was saved is in the restored state, and nobody renews it: it goes
/// as the dead do.
async fn what_left_before_a_restored_state_was_over_goes_again(world: World) -> Outcome {
    const SHORT: Duration = Duration::from_secs(2);
    let (writer, reader) = (world.client().await?, world.client().await?);
    let registrar = Registrar::new(writer);
    let [stays, leaves] = [
        world.instance("web", "stays"),
        world.instance("web", "leaves"),
    ];
    let wish = |instance| world.registration(instance).ttl(SHORT);
    let _stays = registrar.register_within(wish(&stays), RECOVERY).await?;
    let handle = registrar.register_within(wish(&leaves), RECOVERY).await?;
    world
        .finds(&reader, "web", &[stays.clone(), leaves])
        .await?;
    world.inject(Fault::Save).await?;
    handle.deregister().await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&stays))
        .await?;
    world.inject(Fault::Restore).await?;
    let window = world.crash(Some(SHORT)).max(reregister(&world));
    eventually(window, "only the living to be left", || async {
        let mut found = reader
            .lookup(&stays.service, &ReadOptions::default())
            .await?;
        found.retain(|instance| crate::laws::lives(instance));
        same(&found, std::slice::from_ref(&stays))
    })
    .await
}
