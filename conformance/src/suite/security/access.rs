//! A registry that lets in only whom it knows.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Discovery, ErrorKind, ReadOptions, Registrar, RegistrationState, Registry, Scope, TtlScope,
};
use tokio::time::sleep;

use crate::case::{Case, Outcome};
use crate::fixture::{Access, Fault, Faults};
use crate::laws;
use crate::suite::faults::{SILENCE, fresh};
use crate::wait::{RECOVERY, SLACK, eventually, within};
use crate::world::{World, same};

pub(in crate::suite) const CASES: &[Case] = &[
    case!(credentials_that_expire_are_renewed_unseen, access),
    case!(wrong_credentials_are_denied_at_once, access),
    case!(without_credentials_nothing_is_empty, access),
    case!(a_right_for_one_service_is_no_more_than_that, rights),
    case!(a_server_of_an_untrusted_authority_is_refused, access),
    case!(a_client_without_its_certificate_is_refused, access),
    case!(withdrawn_credentials_are_denied_until_they_are_back, rights),
];

/// Whoever is refused knows it within this.
const DENIAL: Duration = Duration::from_secs(5);

fn access(_: &registry_core::Capability, faults: &Faults) -> bool {
    faults.access
}

fn rights(_: &registry_core::Capability, faults: &Faults) -> bool {
    faults.access && faults.rights
}

/// Registrations and watches outlive what the credentials were exchanged for, also when nothing is asked meanwhile.
async fn credentials_that_expire_are_renewed_unseen(world: World) -> Outcome {
    let writer = world.client_with(&Access::Full).await?;
    let reader = world.client_with(&Access::Full).await?;
    let [a, b] = [world.instance("web", "a"), world.instance("web", "b")];
    let registrar = Registrar::new(writer);
    let mut wish = world.registration(&a);
    if world.capability().ttl == TtlScope::Registration {
        wish = wish.ttl(Duration::from_secs(4));
    }
    let handle = registrar.register_within(wish, RECOVERY).await?;
    let discovery = Discovery::new(reader.clone());
    let view = discovery.service(a.service.clone()).await?;
    fresh(&view, std::slice::from_ref(&a), world.visible()).await?;
    sleep(Duration::from_secs(10)).await;
    let state = handle.state();
    ensure!(
        matches!(state, RegistrationState::Registered),
        "the handle is {state:?}"
    );
    let _other = registrar
        .register_within(world.registration(&b), RECOVERY)
        .await?;
    fresh(&view, &[a.clone(), b.clone()], world.visible()).await?;
    world.finds(&reader, "web", &[a.clone(), b]).await?;
    laws::never_lost(&world.history().events(), &[a.key()])
}

/// Credentials that are wrong are denied on every call, soon, and without being said again in the error.
async fn wrong_credentials_are_denied_at_once(world: World) -> Outcome {
    // Some registries protect what is there, and tell strangers that there is nothing else.
    let owner = world.client_with(&Access::Full).await?;
    world
        .register(&owner, &world.instance("web", "owned"))
        .await?;
    let url = world.site().admit(&Access::Wrong).await?;
    let stranger = world.client_with(&Access::Wrong).await?;
    let told = refused(&world, &stranger, &[ErrorKind::Denied]).await?;
    for secret in secrets(&url) {
        ensure!(!told.contains(secret), "a secret shows in: {told}");
    }
    let registrar = Registrar::new(stranger);
    let registration = world.registration(&world.instance("web", "a"));
    let call = registrar.register_within(registration, DENIAL);
    let kind = within(DENIAL + SLACK, "registering", call).await?;
    ensure_eq!(
        kind.err().map(|error| error.kind()),
        Some(ErrorKind::Denied),
        "what the registrar says"
    );
    Ok(())
}

/// Whoever shows no credentials is denied; a service is never said to be empty in place of that.
async fn without_credentials_nothing_is_empty(world: World) -> Outcome {
    let writer = world.client_with(&Access::Full).await?;
    let instance = world.instance("web", "a");
    world.register(&writer, &instance).await?;
    world.finds(&writer, "web", &[instance]).await?;
    let nobody = world.client_with(&Access::None).await?;
    refused(&world, &nobody, &[ErrorKind::Denied])
        .await
        .map(drop)
}

/// A right for one service serves that one, and every other service is denied and not empty.
async fn a_right_for_one_service_is_no_more_than_that(world: World) -> Outcome {
    let owner = world.client_with(&Access::Full).await?;
    let [mine, theirs] = [world.instance("web", "a"), world.instance("other", "b")];
    world.register(&owner, &theirs).await?;
    let only = Access::Only(mine.service.clone());
    let client = world.client_with(&only).await?;
    let registrar = Registrar::new(client.clone());
    let handle = registrar
        .register_within(world.registration(&mine), RECOVERY)
        .await?;
    let observer = world.observe(&client, "web").await?;
    world.shows(&observer, std::slice::from_ref(&mine)).await?;
    let foreign = world.registration(&world.instance("other", "c"));
    let options = ReadOptions::default();
    let calls = [
        client.register(&foreign).await.map(drop),
        client.lookup(&theirs.service, &options).await.map(drop),
        first(&client, &theirs.service.clone().into()).await,
    ];
    for (call, result) in ["register", "lookup", "watch"].iter().zip(calls) {
        let kind = result.err().map(|error| error.kind());
        ensure_eq!(kind, Some(ErrorKind::Denied), "what {call} says");
    }
    world.finds(&owner, "other", &[theirs]).await?;
    world.finds(&client, "web", &[mine]).await?;
    let state = handle.state();
    ensure!(
        matches!(state, RegistrationState::Registered),
        "the handle is {state:?}"
    );
    Ok(())
}

/// A certificate that the client's authorities did not sign ends the connection, and the error says why, where the
/// client can know it.
async fn a_server_of_an_untrusted_authority_is_refused(world: World) -> Outcome {
    let client = world.client_with(&Access::Distrustful).await?;
    if !world.backend().faults().distrust {
        let ways = [ErrorKind::Denied, ErrorKind::Unavailable];
        return refused(&world, &client, &ways).await.map(drop);
    }
    let told = refused(&world, &client, &[ErrorKind::Denied]).await?;
    ensure!(
        told.to_lowercase().contains("certificate"),
        "the certificate is not named by: {told}"
    );
    Ok(())
}

/// A client that shows no certificate, or one of another authority, is not served. To some clients it looks as if the
/// connection broke.
async fn a_client_without_its_certificate_is_refused(world: World) -> Outcome {
    for access in [Access::Bare, Access::Foreign] {
        let client = world.client_with(&access).await?;
        refused(
            &world,
            &client,
            &[ErrorKind::Denied, ErrorKind::Unavailable],
        )
        .await?;
    }
    Ok(())
}

/// When credentials are withdrawn, their owner is denied and views keep the last good set; when they are valid again,
/// so is everything else. Others notice nothing.
async fn withdrawn_credentials_are_denied_until_they_are_back(world: World) -> Outcome {
    let owner = world.client_with(&Access::Full).await?;
    let instance = world.instance("web", "a");
    let others = Registrar::new(owner.clone());
    let held = others
        .register_within(world.registration(&instance), RECOVERY)
        .await?;
    let service = instance.service.clone();
    let client = world.client_with(&Access::Only(service.clone())).await?;
    let discovery = Discovery::new(client.clone());
    let view = discovery.service(service.clone()).await?;
    let known = std::slice::from_ref(&instance);
    fresh(&view, known, world.visible()).await?;
    world.inject(Fault::Revoke(service.clone())).await?;
    eventually(SILENCE, "a lookup to be denied", || async {
        let lookup = client.lookup(&service, &ReadOptions::default()).await;
        let kind = lookup.err().map(|error| error.kind());
        ensure_eq!(kind, Some(ErrorKind::Denied), "what a lookup says");
        Ok(())
    })
    .await?;
    same(&view.snapshot().instances, known)?;
    world.finds(&owner, "web", known).await?;
    let state = held.state();
    ensure!(
        matches!(state, RegistrationState::Registered),
        "the handle of another one is {state:?}"
    );
    world.inject(Fault::Grant(service)).await?;
    world.finds_within(RECOVERY, &client, "web", known).await?;
    fresh(&view, known, SILENCE * 2).await
}

/// Every call is refused in one of these ways, in time; all that the errors say.
async fn refused(world: &World, client: &Arc<dyn Registry>, ways: &[ErrorKind]) -> Outcome<String> {
    let instance = world.instance("web", "refused");
    let options = ReadOptions::default();
    let registration = world.registration(&instance);
    let register = async { client.register(&registration).await.map(drop) };
    let lookup = async { client.lookup(&instance.service, &options).await.map(drop) };
    let scope = Scope::from(instance.service.clone());
    let calls = [
        ("register", within(DENIAL, "register", register).await?),
        ("lookup", within(DENIAL, "lookup", lookup).await?),
        (
            "watch",
            within(DENIAL, "watch", first(client, &scope)).await?,
        ),
    ];
    let mut told = format!("{client:?}");
    for (call, result) in calls {
        match result {
            Err(error) if ways.contains(&error.kind()) => told.push_str(&format!("\n{error:?}")),
            other => ensure!(false, "{call} says {other:?}, expected one of {ways:?}"),
        }
    }
    Ok(told)
}

async fn first(client: &Arc<dyn Registry>, scope: &Scope) -> registry_core::Result<()> {
    let mut watch = client.watch(scope, &ReadOptions::default()).await?;
    watch.next().await.map(drop)
}

/// What in this URL nobody may see: the password, and the values of options that name a token.
fn secrets(url: &str) -> Vec<&str> {
    let login = url.split_once("://").map_or("", |(_, rest)| rest);
    let login = login.rsplit_once('@').map_or("", |(login, _)| login);
    let password = login.split_once(':').map(|(_, password)| password);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let token = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("token="));
    token
        .chain(password)
        .filter(|secret| !secret.is_empty())
        .collect()
}
