//! What is told of records that other programs write.

use std::sync::Arc;

use registry_core::{Capability, Instance};

use crate::case::{Case, Outcome};
use crate::fixture::{Fault, Faults};
use crate::history::What;
use crate::world::World;

pub(in crate::suite) const CASES: &[Case] = &[
    case!(what_another_program_wrote_is_read, publish),
    case!(what_is_written_at_once_arrives_at_once, batch),
];

fn publish(_: &Capability, faults: &Faults) -> bool {
    faults.publish
}

fn batch(capability: &Capability, faults: &Faults) -> bool {
    faults.publish && capability.atomic_batches
}

/// What a program without this library wrote is found by lookups and watches, beside what is ours, and goes when it goes.
async fn what_another_program_wrote_is_read(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let ours = world.instance("web", "ours");
    world.register(&writer, &ours).await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, std::slice::from_ref(&ours)).await?;
    let theirs = published(&world, 1).await?;
    let all = [&theirs[..], std::slice::from_ref(&ours)].concat();
    world.shows(&observer, &all).await?;
    world.finds(&reader, "web", &all).await
}

/// Changes that the server makes as one arrive as one.
async fn what_is_written_at_once_arrives_at_once(world: World) -> Outcome {
    const TOGETHER: usize = 50;
    let reader = world.client().await?;
    let observer = world.observe(&reader, "web").await?;
    let before = observer.seen().batches;
    let theirs = published(&world, TOGETHER).await?;
    world.shows(&observer, &theirs).await?;
    let batches = observer.seen().batches - before;
    ensure_eq!(batches, 1, "batches of {TOGETHER} changes that were one");
    Ok(())
}

/// So many instances that another program writes.
async fn published(world: &World, count: usize) -> Outcome<Vec<Arc<Instance>>> {
    let instances: Vec<_> = (0..count)
        .map(|number| world.instance("web", &format!("theirs-{number}")))
        .collect();
    for instance in &instances {
        world
            .history()
            .note(&"program".into(), What::Writes(instance.clone()));
    }
    world.inject(Fault::Publish(instances.clone())).await?;
    Ok(instances)
}
