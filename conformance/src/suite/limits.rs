//! What a backend declares, and what does not fit.

use registry_core::{Capability, Endpoint, ErrorKind, Instance, Metadata, Registration, Result};

use crate::case::{Case, Outcome};
use crate::fixture::{Fault, Faults};
use crate::world::{World, built};

pub(super) const CASES: &[Case] = &[
    case!(capability_is_as_pinned),
    case!(too_many_pairs_of_metadata_are_refused),
    case!(a_pair_of_metadata_that_is_too_long_is_refused),
    case!(a_record_that_is_too_long_is_refused, |capability, _| {
        capability.limits.record.is_some()
    }),
    case!(the_longest_record_reads_back, |capability, _| capability
        .limits
        .record
        .is_none()),
    case!(an_unreadable_record_is_skipped, spoil),
];

fn spoil(_: &Capability, faults: &Faults) -> bool {
    faults.spoil
}

/// Every client claims what the fixture pins.
async fn capability_is_as_pinned(world: World) -> Outcome {
    for _ in 0..2 {
        let claimed = world.client().await?.capability();
        ensure_eq!(claimed, world.capability(), "what the client claims");
    }
    Ok(())
}

/// One pair more than fits is refused, naming the limit; what was registered before stays.
async fn too_many_pairs_of_metadata_are_refused(world: World) -> Outcome {
    let limits = world.capability().limits;
    let pairs = |count: usize| {
        let mut metadata = Metadata::new();
        for number in 0..count {
            metadata.insert(format!("{number:x}"), "")?;
        }
        Ok(metadata)
    };
    // A name of three digits, its length and the separator.
    let fits = limits
        .record
        .is_none_or(|record| limits.metadata_pairs * 5 < record / 2);
    let (inside, limit) = (fits.then_some(limits.metadata_pairs), limits.metadata_pairs);
    boundary(&world, inside, limit, pairs).await
}

/// One byte more than fits is refused, naming the limit; what was registered before stays.
async fn a_pair_of_metadata_that_is_too_long_is_refused(world: World) -> Outcome {
    let limits = world.capability().limits;
    let key = (limits.metadata_pair / 2).min(Metadata::MAX_KEY);
    let pair = |bytes: usize| {
        let mut metadata = Metadata::new();
        metadata.insert("k".repeat(key), "v".repeat(bytes - key))?;
        Ok(metadata)
    };
    let fits = limits
        .record
        .is_none_or(|record| limits.metadata_pair < record / 2);
    boundary(
        &world,
        fits.then_some(limits.metadata_pair),
        limits.metadata_pair,
        pair,
    )
    .await
}

/// Registers with metadata at the limit, and then beyond it.
async fn boundary(
    world: &World,
    inside: Option<usize>,
    limit: usize,
    metadata: impl Fn(usize) -> Result<Metadata> + Send + Sync,
) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let full = world.build("web", "full");
    let full = built(match inside {
        Some(inside) => full.metadata(metadata(inside)?),
        None => full,
    });
    world.register(&writer, &full).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&full))
        .await?;
    let attempt = async {
        let instance = world
            .build("web", "over")
            .metadata(metadata(limit + 1)?)
            .build()?;
        writer.register(&Registration::from(instance)).await
    };
    names_the_limit(attempt.await.map(drop), limit)?;
    // The connection and its registrations survive a refusal.
    let after = world.instance("web", "after");
    world.register(&writer, &after).await?;
    world.finds(&reader, "web", &[full, after]).await
}

fn names_the_limit(answer: Result<()>, limit: usize) -> Outcome {
    match answer {
        Ok(()) => ensure!(false, "what is beyond the limit of {limit} was taken"),
        Err(error) => {
            ensure_eq!(error.kind(), ErrorKind::Invalid, "the kind of {error}");
            // The types' own limits are named for key and value apart.
            let parts = [limit, Metadata::MAX_VALUE].map(|number| number.to_string());
            let named = parts
                .iter()
                .any(|number| error.to_string().contains(number));
            ensure!(named, "the limit of {limit} is not named by: {error}");
        }
    }
    Ok(())
}

/// A record grows until it is refused: what was taken reads back whole, what is too long is refused naming the limit.
async fn a_record_that_is_too_long_is_refused(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let limits = world.capability().limits;
    let record = limits.record.unwrap_or(usize::MAX);
    let neighbour = world.instance("web", "neighbour");
    world.register(&writer, &neighbour).await?;
    let sized = |bytes: usize| {
        // What the instance's own pairs cannot hold is said of its endpoints.
        const PAIRS: usize = 100;
        let longest = limits.metadata_pair.min(Metadata::MAX_VALUE);
        let piece = longest.min(100.max(record / PAIRS));
        let mut parts = vec![Metadata::new()];
        for number in 0..bytes.div_ceil(piece) {
            let key = format!("{number:05}");
            let length = piece.min(bytes - number * piece).saturating_sub(key.len());
            if parts.last().is_none_or(|part| part.len() == PAIRS) {
                parts.push(Metadata::new());
            }
            let part = parts.last_mut().expect("there is one");
            part.insert(key, "v".repeat(length))?;
        }
        let own = world.build("web", "growing").metadata(parts.remove(0));
        let parts = parts.into_iter().enumerate();
        let endpoints = parts.map(|(number, part)| {
            let name = format!("e{number}").try_into().expect("short");
            Endpoint::new(name).with_metadata(part)
        });
        endpoints
            .fold(own, |own, endpoint| own.endpoint(endpoint))
            .build()
    };
    // The payload alone is beyond the limit.
    let over = Registration::from(sized(record + 1)?);
    names_the_limit(writer.register(&over).await.map(drop), record)?;
    // Between a payload that surely fits and one that surely does not lies the longest one.
    let (mut fits, mut refused) = (0, record + 1);
    let mut last: Option<Instance> = None;
    while refused - fits > 1 {
        let middle = fits.midpoint(refused);
        let instance = sized(middle)?;
        match writer
            .register(&world.registration(&instance.clone().into()))
            .await
        {
            Ok(_) => {
                fits = middle;
                last = Some(instance);
            }
            Err(error) => {
                names_the_limit(Err(error), record)?;
                refused = middle;
            }
        }
    }
    ensure!(
        fits * 4 > record,
        "a payload of {fits} is all that fits into {record}"
    );
    let last: Vec<_> = last
        .into_iter()
        .chain([Instance::clone(&neighbour)])
        .map(Into::into)
        .collect();
    world.finds(&reader, "web", &last).await
}

/// Where no limit beyond those of the types is declared, the longest record that they allow is taken and reads back.
async fn the_longest_record_reads_back(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let limits = world.capability().limits;
    let mut metadata = Metadata::new();
    for number in 0..limits.metadata_pairs {
        let key = format!("{number:x}");
        let value = (limits.metadata_pair - key.len()).min(Metadata::MAX_VALUE);
        metadata.insert(key, "v".repeat(value))?;
    }
    let instance = built(world.build("web", "long").metadata(metadata));
    let observer = world.observe(&reader, "web").await?;
    world.register(&writer, &instance).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    world.shows(&observer, &[instance]).await
}

/// A record that nobody can read hides no other, and breaks no watch.
async fn an_unreadable_record_is_skipped(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let first = world.instance("web", "a");
    world.register(&writer, &first).await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, std::slice::from_ref(&first)).await?;
    world.inject(Fault::Spoil(first.service.clone())).await?;
    let second = world.instance("web", "b");
    world.register(&writer, &second).await?;
    let both = [first, second];
    world.shows(&observer, &both).await?;
    world.finds(&reader, "web", &both).await?;
    let late = world.client().await?;
    let observer = world.observe(&late, "web").await?;
    world.shows(&observer, &both).await?;
    ensure!(
        observer.seen().ended.is_none(),
        "the watch ended: {:?}",
        observer.seen().ended
    );
    Ok(())
}
