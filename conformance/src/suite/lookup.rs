//! What `lookup` and `services` answer.

use std::time::Duration;

use registry_core::{Capability, ErrorKind, Held, ReadOptions, Scope, ServiceName};

use crate::case::{Case, Outcome};
use crate::fixture::{Fault, Faults};
use crate::wait::{RECOVERY, eventually, within};
use crate::world::{World, side_by_side};

pub(super) const CASES: &[Case] = &[
    case!(an_unknown_service_is_empty),
    case!(an_outage_is_an_error_and_not_an_empty_list, |_, faults| {
        faults.outage
    }),
    case!(a_service_is_matched_exactly),
    case!(services_are_those_with_an_instance),
    case!(lookups_wait_for_no_watcher),
    case!(a_datacenter_is_refused, no_datacenters),
    case!(a_closed_registry_refuses_every_call),
];

fn no_datacenters(capability: &Capability, _: &Faults) -> bool {
    !capability.datacenters
}

/// A service that nobody registered has no instances; that is no error.
async fn an_unknown_service_is_empty(world: World) -> Outcome {
    let client = world.client().await?;
    let found = client
        .lookup(&world.service("nobody"), &ReadOptions::default())
        .await?;
    ensure!(
        found.is_empty(),
        "found {} instances of an unknown service",
        found.len()
    );
    Ok(())
}

/// While the server is away every call fails in time, and in a way that says to try again later.
async fn an_outage_is_an_error_and_not_an_empty_list(world: World) -> Outcome {
    let client = world.client().await?;
    let instance = world.instance("web", "a");
    let registered = world.register(&client, &instance).await?;
    world
        .finds(&client, "web", std::slice::from_ref(&instance))
        .await?;
    world.inject(Fault::Stop).await?;
    let (service, options) = (&instance.service, ReadOptions::default());
    let registration = world.registration(&instance);
    let held = [Held::new(registration.clone().into(), registered)];
    let scope = Scope::from(service.clone());
    let watch = async {
        // A watch may open and fail when it is asked for its snapshot.
        client.watch(&scope, &options).await?.next().await.map(drop)
    };
    let renew = async { client.renew(&held).await.remove(0).map(drop) };
    let calls = async {
        tokio::join!(
            async { client.lookup(service, &options).await.map(drop) },
            async { client.services(&options).await.map(drop) },
            async { client.register(&registration).await.map(drop) },
            client.deregister(&held[0].registered.key),
            renew,
            watch,
        )
    };
    let answers = within(RECOVERY, "the answers during an outage", calls).await?;
    let answers: [(&str, registry_core::Result<()>); 6] = [
        ("lookup", answers.0),
        ("services", answers.1),
        ("register", answers.2),
        ("deregister", answers.3),
        ("renew", answers.4),
        ("watch", answers.5),
    ];
    for (call, answer) in answers {
        let temporary = answer
            .as_ref()
            .is_err_and(registry_core::Error::is_temporary);
        ensure!(temporary, "during an outage {call} answers {answer:?}");
    }
    world.inject(Fault::Start).await?;
    eventually(RECOVERY, "a lookup after the outage", || async {
        client.lookup(service, &options).await?;
        Ok(())
    })
    .await
}

/// `web` is neither `web2` nor `WEB`, for lookups and for watches.
async fn a_service_is_matched_exactly(world: World) -> Outcome {
    const NAMES: [&str; 8] = ["web", "web2", "we", "web-a", "web.a", "WEB", "w_b", "a.web"];
    let (writer, reader) = (world.client().await?, world.client().await?);
    let watch = world.observe(&reader, "web").await?;
    let instances = NAMES.map(|name| world.instance(name, "a"));
    world.register_all(&writer, &instances).await?;
    for (name, instance) in NAMES.into_iter().zip(&instances) {
        world
            .finds(&reader, name, std::slice::from_ref(instance))
            .await?;
    }
    world.finds(&reader, "w", &[]).await?;
    world.shows(&watch, &instances[..1]).await?;
    world.deregister_all(&writer, &instances[1..]).await?;
    world.finds(&reader, "web2", &[]).await?;
    world.shows(&watch, &instances[..1]).await?;
    let told = watch.seen();
    let foreign = told.changes.iter().find(|change| match change {
        registry_core::Change::Upsert(instance) => instance.service != instances[0].service,
        registry_core::Change::Remove(_) => true,
        _ => false,
    });
    ensure!(foreign.is_none(), "a watch of web told {foreign:?}");
    Ok(())
}

/// The names, sorted, each once; a service without instances is no longer one.
async fn services_are_those_with_an_instance(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = [("web", "a"), ("web", "b"), ("api", "a"), ("Db.main", "a")]
        .map(|(service, id)| world.instance(service, id));
    world.register_all(&writer, &instances).await?;
    let listed = |what: &'static str, expected: Vec<ServiceName>| {
        let (world, reader) = (&world, &reader);
        let expected = std::sync::Arc::new(expected);
        async move {
            eventually(world.visible().max(world.gone()), what, || async {
                let mut found = reader.services(&ReadOptions::default()).await?;
                ensure!(found.is_sorted(), "not sorted: {found:?}");
                found.retain(|service| world.owns(service));
                ensure_eq!(found, *expected, "services");
                Ok(())
            })
            .await
        }
    };
    let mut all = ["web", "api", "Db.main"]
        .map(|name| world.service(name))
        .to_vec();
    all.sort();
    listed("three services", all).await?;
    world.deregister_all(&writer, &instances[1..]).await?;
    listed("the one that is left", vec![world.service("web")]).await
}

/// Watches that nobody reads do not hold up lookups.
async fn lookups_wait_for_no_watcher(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = world.instance("web", "a");
    let scope = Scope::from(instance.service.clone());
    let mut unread = Vec::new();
    for _ in 0..34 {
        unread.push(reader.watch(&scope, &ReadOptions::default()).await?);
    }
    world.register(&writer, &instance).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    let lookups = side_by_side(0..100, |_| {
        let (reader, service) = (reader.clone(), instance.service.clone());
        async move {
            let found = reader.lookup(&service, &ReadOptions::default()).await?;
            ensure_eq!(
                found.len(),
                1,
                "instances found beside watches that nobody reads"
            );
            Ok(())
        }
    });
    within(world.visible(), "100 lookups side by side", lookups).await?
}

/// An option that the backend cannot honour is refused, for every read.
async fn a_datacenter_is_refused(world: World) -> Outcome {
    let client = world.client().await?;
    let service = world.service("web");
    let elsewhere = ReadOptions::default().datacenter("elsewhere".try_into()?);
    let reads = [
        (
            "lookup",
            client.lookup(&service, &elsewhere).await.map(drop),
        ),
        ("services", client.services(&elsewhere).await.map(drop)),
        (
            "watch",
            client.watch(&service.into(), &elsewhere).await.map(drop),
        ),
    ];
    for (read, answer) in reads {
        let kind = answer.err().map(|error| error.kind());
        ensure_eq!(
            kind,
            Some(ErrorKind::Unsupported),
            "what {read} says to a data centre"
        );
    }
    Ok(())
}

/// After `close` every call says `Closed`, open watches end with it, and closing again is no error.
async fn a_closed_registry_refuses_every_call(world: World) -> Outcome {
    let client = world.client().await?;
    let instance = world.instance("web", "a");
    let (service, options) = (instance.service.clone(), ReadOptions::default());
    let registered = world.register(&client, &instance).await?;
    let watch = world.observe(&client, "web").await?;
    let limit = Duration::from_secs(5);
    within(limit, "closing", client.close()).await??;
    let ended = watch
        .until(limit, "the end of the watch", |seen| seen.ended.is_some())
        .await?;
    let kind = ended.ended.map(|error| error.kind());
    ensure_eq!(kind, Some(ErrorKind::Closed), "how an open watch ends");
    let registration = world.registration(&instance);
    let held = Held::new(registration.clone().into(), registered);
    let watch = async {
        client
            .watch(&service.clone().into(), &options)
            .await?
            .next()
            .await
    };
    let answers = [
        ("register", client.register(&registration).await.map(drop)),
        ("renew", client.renew(&[held]).await.remove(0).map(drop)),
        ("deregister", client.deregister(&instance.key()).await),
        ("lookup", client.lookup(&service, &options).await.map(drop)),
        ("services", client.services(&options).await.map(drop)),
        ("watch", watch.await.map(drop)),
        ("recheck", client.recheck(&instance.key()).await),
    ];
    for (call, answer) in answers {
        let kind = answer.err().map(|error| error.kind());
        ensure_eq!(
            kind,
            Some(ErrorKind::Closed),
            "what {call} says after close"
        );
    }
    within(limit, "closing again", client.close()).await??;
    Ok(())
}
