//! Checks that the registrar runs, because the registry does not.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Capability, Change, Check, CheckKind, HealthCheck, Instance, Registrar, Registration,
    RegistrationHandle, Registry, Status,
};
use tokio::net::TcpListener;

use crate::case::{Case, Outcome};
use crate::fixture::Faults;
use crate::observer::Observer;
use crate::wait::RECOVERY;
use crate::world::{World, built};

pub(super) const CASES: &[Case] = &[
    case!(a_failing_check_shows_until_it_passes, runs_no_tcp),
    case!(what_a_program_reports_of_itself_shows),
];

fn runs_no_tcp(capability: &Capability, _: &Faults) -> bool {
    !capability.checks.contains(&Check::Tcp)
}

/// A service that takes no connection is shown as `Down`, and as before when it takes them again; nobody sees it go.
async fn a_failing_check_shows_until_it_passes(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let address = service.local_addr()?;
    let check = HealthCheck::new(CheckKind::Tcp(address.try_into()?));
    let check = check.interval(Duration::from_millis(100));
    let (instance, down) = states(&world);
    let _handle = hold(&world, writer, &instance, check).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    drop(service);
    world.shows(&observer, std::slice::from_ref(&down)).await?;
    let _service = TcpListener::bind(address).await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    never_removed(&observer)
}

/// A program that says that it fails is shown as `Down`, until it says that it does not.
async fn what_a_program_reports_of_itself_shows(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let check = HealthCheck::new(CheckKind::Ttl).interval(Duration::from_secs(600));
    let (instance, down) = states(&world);
    let handle = hold(&world, writer, &instance, check).await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    handle.fail("the disk is full");
    world.shows(&observer, std::slice::from_ref(&down)).await?;
    handle.pass();
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    never_removed(&observer)
}

fn never_removed(observer: &Observer) -> Outcome {
    let told = observer.seen().changes;
    let removed = told
        .iter()
        .find(|change| matches!(change, Change::Remove(_)));
    ensure!(removed.is_none(), "it was removed in between: {told:?}");
    Ok(())
}

/// An instance as it is described, and as it is shown while it fails.
fn states(world: &World) -> (Arc<Instance>, Arc<Instance>) {
    let instance = world.instance("web", "a");
    let down = built(instance.edit().status(Status::Down));
    (instance, down)
}

async fn hold(
    world: &World,
    writer: Arc<dyn Registry>,
    instance: &Arc<Instance>,
    check: HealthCheck,
) -> Outcome<RegistrationHandle> {
    let registration: Registration = world.registration(instance).check(check);
    let registrar = Registrar::new(writer);
    Ok(registrar.register_within(registration, RECOVERY).await?)
}
