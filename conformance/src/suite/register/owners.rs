//! To whom an id belongs.

use std::time::Duration;

use registry_core::{Capability, ErrorKind, Registrar, RegistrationState};
use tokio::time::sleep;

use crate::case::{Case, Outcome};
use crate::fixture::Faults;
use crate::history::What;
use crate::laws;
use crate::wait::RECOVERY;
use crate::world::{World, built};

pub(in crate::suite) const CASES: &[Case] = &[
    case!(two_live_owners_of_an_id_conflict, conflicts),
    case!(owners_of_one_id_do_not_fight, conflicts),
    case!(the_last_writer_has_the_id, no_conflicts),
];

fn conflicts(capability: &Capability, _: &Faults) -> bool {
    capability.conflicts
}

fn no_conflicts(capability: &Capability, _: &Faults) -> bool {
    !capability.conflicts
}

/// A second live owner of an id is told so, and the first one keeps it until it lets go.
async fn two_live_owners_of_an_id_conflict(world: World) -> Outcome {
    let (first, second) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    world.register(&first, &instance).await?;
    world
        .finds(&second, "web", std::slice::from_ref(&instance))
        .await?;
    let other = built(instance.edit().address("127.0.0.8:8080"));
    let refused = second.register(&world.registration(&other)).await;
    let kind = refused.err().map(|error| error.kind());
    ensure_eq!(
        kind,
        Some(ErrorKind::Conflict),
        "what the second owner is told"
    );
    world
        .finds(&second, "web", std::slice::from_ref(&instance))
        .await?;
    // What is not its own a client cannot take away either.
    second.deregister(&instance.key()).await?;
    let mine = built(instance.edit().weight(2));
    world.register(&first, &mine).await?;
    world.finds(&second, "web", &[mine]).await?;
    first.deregister(&instance.key()).await?;
    world.finds(&first, "web", &[]).await?;
    world.register(&second, &other).await?;
    world.finds(&first, "web", &[other]).await
}

/// Two programs that both keep one id registered: one has it, the other is told, and neither writes again and again.
async fn owners_of_one_id_do_not_fight(world: World) -> Outcome {
    const TIME: Duration = Duration::from_secs(10);
    let clients = [world.client().await?, world.client().await?];
    let reader = world.client().await?;
    let instance = world.instance("web", "a");
    let other = built(instance.edit().address("127.0.0.8:8080"));
    let [first, second] = clients.map(Registrar::new);
    let handle = first
        .register_within(world.registration(&instance), RECOVERY)
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    let refused = second
        .register_within(world.registration(&other), RECOVERY)
        .await;
    let kind = refused.err().map(|error| error.kind());
    ensure_eq!(kind, Some(ErrorKind::Conflict), "what the second is told");
    sleep(TIME).await;
    let state = handle.state();
    ensure!(
        matches!(state, RegistrationState::Registered),
        "the handle of the first is {state:?}"
    );
    let events = world.history().events();
    let writes = events
        .iter()
        .filter(|event| matches!(event.what, What::Wrote(_)))
        .count();
    ensure_eq!(writes, 1, "writes that the registry took in {TIME:?}");
    laws::never_lost(&events, &[instance.key()])
}

/// Where owners are not told apart, the last one who registers an id has it, and it is one instance.
async fn the_last_writer_has_the_id(world: World) -> Outcome {
    let (first, second) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    world.register(&first, &instance).await?;
    let other = built(instance.edit().address("127.0.0.8:8080"));
    world.register(&second, &other).await?;
    world
        .finds(&first, "web", std::slice::from_ref(&other))
        .await?;
    world.finds(&second, "web", &[other]).await
}
