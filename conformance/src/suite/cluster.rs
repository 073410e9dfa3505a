//! What a cluster of servers survives.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{Capability, Discovery, Instance, ReadOptions, Registry};
use tokio::time::Instant;

use super::faults::{SILENCE, fresh, hold, reregister, several};
use crate::case::{Case, Failure, Outcome};
use crate::fixture::{Fault, Faults};
use crate::laws;
use crate::observer::Observer;
use crate::wait::{RECOVERY, SLACK, eventually, throughout, within};
use crate::world::{World, keys, same};

pub(super) const CASES: &[Case] = &[
    case!(a_killed_leader_costs_nobody_his_registration, members),
    case!(a_killed_follower_costs_nobody_his_registration, members),
    case!(a_hung_leader_costs_nobody_his_registration, members),
    case!(a_hung_member_is_left_for_another, |_, faults| faults
        .endpoints),
    case!(a_dead_member_delays_nobody_for_long, members),
    case!(a_lost_quorum_is_said_and_survived, members),
    case!(wiped_members_get_everybody_back, members),
];

/// An election, and the time until a client has left the dead for another member.
const ELECTION: Duration = Duration::from_secs(5);

/// So many that each member has one of them, where their URLs name the members.
const CLIENTS: usize = 6;

fn members(_: &Capability, faults: &Faults) -> bool {
    faults.members
}

async fn a_killed_leader_costs_nobody_his_registration(world: World) -> Outcome {
    costs_nobody_his_registration(world, &[Fault::StopLeader]).await
}

/// Whichever of them a client is connected to.
async fn a_killed_follower_costs_nobody_his_registration(world: World) -> Outcome {
    let each = [Fault::StopFollower(0), Fault::StopFollower(1)];
    costs_nobody_his_registration(world, &each).await
}

/// When members die, one at a time, writes are taken again soon, nobody is reported as gone, and watches miss nothing.
async fn costs_nobody_his_registration(world: World, deaths: &[Fault]) -> Outcome {
    let writer = world.client().await?;
    let mut instances = several(&world, 20);
    let _handles = hold(writer.clone(), &instances).await?;
    let readers = clients(&world, &instances).await?;
    let reader = &readers[0];
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    let follower = Observer::following(reader.clone(), world.service("web").into());
    world.shows(&follower, &instances).await?;
    for (number, death) in deaths.iter().enumerate() {
        world.inject(death.clone()).await?;
        let late = world.instance("web", &format!("late-{number}"));
        eventually(ELECTION + SLACK, "a write to be taken", || async {
            let registration = world.registration(&late);
            Ok(writer.register(&registration).await.map(drop)?)
        })
        .await?;
        instances.push(late);
        world.shows_within(RECOVERY, &follower, &instances).await?;
        fresh(&view, &instances, RECOVERY).await?;
        for reader in &readers {
            world
                .finds_within(RECOVERY, reader, "web", &instances)
                .await?;
        }
        world.inject(Fault::Heal).await?;
        world.finds(reader, "web", &instances).await?;
    }
    laws::never_lost(&world.history().events(), &keys(&instances))
}

/// When the leader accepts and does not answer, reads are answered again in time, and nobody who is renewed goes.
async fn a_hung_leader_costs_nobody_his_registration(world: World) -> Outcome {
    let instances = several(&world, 3);
    let _handles = hold(world.client().await?, &instances).await?;
    let readers = clients(&world, &instances).await?;
    let discovery = Discovery::new(readers[0].clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    world.inject(Fault::PauseLeader).await?;
    for reader in &readers {
        let again = RECOVERY + ELECTION;
        world.finds_within(again, reader, "web", &instances).await?;
    }
    fresh(&view, &instances, SILENCE).await?;
    throughout(ELECTION, "without the leader", || async {
        same(&view.snapshot().instances, &instances)
    })
    .await?;
    world.inject(Fault::Heal).await?;
    world
        .finds_within(RECOVERY, &readers[0], "web", &instances)
        .await?;
    laws::never_lost(&world.history().events(), &keys(&instances))
}

/// A client that knows of several members leaves one that accepts and does not answer: it writes again in time.
async fn a_hung_member_is_left_for_another(world: World) -> Outcome {
    let first = world.client().await?;
    let mut instances = vec![world.instance("web", "a")];
    world.register(&first, &instances[0]).await?;
    let writers = clients(&world, &instances).await?;
    world.inject(Fault::PauseLeader).await?;
    for (number, writer) in writers.iter().enumerate() {
        let late = world.instance("web", &format!("late-{number}"));
        eventually(RECOVERY + ELECTION, "a write to be taken", || async {
            let registration = world.registration(&late);
            Ok(writer.register(&registration).await.map(drop)?)
        })
        .await?;
        instances.push(late);
    }
    world
        .finds_within(RECOVERY, &writers[0], "web", &instances)
        .await?;
    world.inject(Fault::Heal).await
}

/// Each new client has its answer in time although one of the members that it is told of is dead.
async fn a_dead_member_delays_nobody_for_long(world: World) -> Outcome {
    let writer = world.client().await?;
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    world.inject(Fault::StopLeader).await?;
    let only = std::slice::from_ref(&instance);
    world
        .finds_within(ELECTION + SLACK, &writer, "web", only)
        .await?;
    for _ in 0..CLIENTS {
        let client = world.client().await?;
        let options = ReadOptions::default();
        let lookup = client.lookup(&instance.service, &options);
        let found = within(Duration::from_secs(3), "a first lookup", lookup).await??;
        same(&found, only)?;
    }
    world.inject(Fault::Heal).await
}

/// Without a quorum nobody is told an empty service, views say that they are stale, and afterwards all is well.
async fn a_lost_quorum_is_said_and_survived(world: World) -> Outcome {
    let instances = several(&world, 5);
    let _handles = hold(world.client().await?, &instances).await?;
    let readers = clients(&world, &instances).await?;
    let discoveries: Vec<_> = readers.iter().cloned().map(Discovery::new).collect();
    let mut views = Vec::new();
    for discovery in &discoveries {
        let view = discovery.service(world.service("web")).await?;
        fresh(&view, &instances, world.visible()).await?;
        views.push(view);
    }
    world.inject(Fault::StopMost).await?;
    eventually(SILENCE, "the views to be stale", || async {
        let are_fresh = views
            .iter()
            .map(|view| view.snapshot().freshness.is_fresh());
        let fresh = are_fresh.filter(|is_fresh| *is_fresh).count();
        ensure!(fresh == 0, "{fresh} views are fresh");
        Ok(())
    })
    .await?;
    let options = ReadOptions::default();
    let begin = Instant::now();
    let lookup = readers[0].lookup(&instances[0].service, &options);
    let lookup = within(RECOVERY, "a lookup without a quorum", lookup).await?;
    match lookup {
        Ok(found) => same(&found, &instances)?,
        Err(error) => ensure!(
            error.is_temporary(),
            "after {:?} a lookup says {error}",
            begin.elapsed()
        ),
    }
    throughout(Duration::from_secs(2), "without a quorum", || async {
        let mut snapshots = views.iter().map(|view| view.snapshot());
        snapshots.try_for_each(|snapshot| same(&snapshot.instances, &instances))
    })
    .await?;
    world.inject(Fault::Heal).await?;
    for view in &views {
        fresh(view, &instances, reregister(&world) + ELECTION).await?;
    }
    Ok(())
}

/// When every member lost its data, all are back within the window, and readers never saw fewer than half of them.
async fn wiped_members_get_everybody_back(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = several(&world, 10);
    let _handles = hold(writer, &instances).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(world.service("web")).await?;
    fresh(&view, &instances, world.visible()).await?;
    world.inject(Fault::WipeMembers).await?;
    let window = reregister(&world) + ELECTION;
    let half = async {
        throughout(window * 2, "what readers see", || async {
            let seen = view.snapshot().instances.len();
            ensure!(seen * 2 >= instances.len(), "{seen} of {}", instances.len());
            Ok(())
        })
        .await
    };
    let back = async {
        world
            .finds_within(window, &reader, "web", &instances)
            .await?;
        fresh(&view, &instances, RECOVERY).await
    };
    tokio::select! {
        half = half => half.and_then(|()| Err(Failure::new("it took too long"))),
        back = back => back,
    }
}

/// Clients that are connected, and find these.
async fn clients(world: &World, instances: &[Arc<Instance>]) -> Outcome<Vec<Arc<dyn Registry>>> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = world.client().await?;
        world.finds(&client, "web", instances).await?;
        clients.push(client);
    }
    Ok(clients)
}
