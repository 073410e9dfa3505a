//! What `register` publishes.

pub(super) mod owners;

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Change, Check, CheckKind, Endpoint, ErrorKind, HealthCheck, Instance, Metadata, ReadOptions,
    Registration, Registry, Status, TtlScope,
};
use tokio::time::timeout;

use crate::case::{Case, Failure, Outcome};
use crate::wait::{throughout, within};
use crate::world::{World, built, same, side_by_side};

pub(super) const CASES: &[Case] = &[
    case!(a_record_reads_back_field_by_field),
    case!(addresses_read_back_or_are_refused),
    case!(every_status_reads_back),
    case!(text_reads_back_or_is_refused),
    case!(the_same_record_again_is_no_change),
    case!(a_changed_record_is_one_upsert),
    case!(two_ids_at_one_address_are_two_instances),
    case!(one_id_in_two_services_is_two_instances),
    case!(a_dropped_register_can_be_repeated),
    case!(writes_of_one_instance_take_effect_in_order),
    case!(a_ttl_is_a_wish_and_the_grant_is_told),
    case!(a_ttl_of_zero_is_refused),
    case!(a_check_that_the_registry_cannot_run_is_refused),
];

/// What a registration says is what another client reads, field by field.
async fn a_record_reads_back_field_by_field(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let mut random = fastrand::Rng::with_seed(1);
    let mut instances: Vec<_> = (0..12)
        .map(|number| generated(&world, &mut random, &format!("generated-{number}")))
        .collect();
    instances.push(world.instance("web", "plain"));
    world.register_all(&writer, &instances).await?;
    world.finds(&reader, "web", &instances).await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, &instances).await
}

/// A record with something in every field, small enough for every backend.
fn generated(world: &World, random: &mut fastrand::Rng, id: &str) -> Arc<Instance> {
    let mut word = |length| -> String { (0..length).map(|_| random.lowercase()).collect() };
    let mut methods = Metadata::new();
    let pairs = [(word(3), word(6)), (word(4), String::new())];
    for (key, value) in &pairs {
        methods.insert(key, value).expect("short");
    }
    let endpoint = |name: &str| Endpoint::new(name.try_into().expect("short"));
    let builder = world
        .build("web", id)
        .version(format!("1.{}", word(2)))
        .zone(word(5))
        .meta(word(5), word(20))
        .meta(word(6), "")
        .meta("text", "ä = \"1\", {2}; 日本")
        .endpoint(endpoint("Greeter.Hello").with_metadata(methods))
        .endpoint(endpoint("Greeter.Bye"));
    let port = random.u16(1..);
    let address = format!("127.{}.{}.1:{port}", random.u8(..), random.u8(..));
    built(builder.address(address).weight(random.u16(..)))
}

/// IPv4, IPv6, link-local with its interface, host names, several at once in their order: what a backend cannot carry
/// is refused as invalid, the rest reads back. Loopback addresses are always taken.
async fn addresses_read_back_or_are_refused(world: World) -> Outcome {
    const ADDRESSES: [&str; 7] = [
        "127.0.0.1:1",
        "127.255.0.1:65535",
        "10.0.0.7:8080",
        "[2001:db8::7]:8080",
        "[fe80::1%1]:8080",
        "greeter.internal:8080",
        "A_b-c.example:443",
    ];
    const ALTERNATES: [&[&str]; 3] = [
        &["127.0.0.1:8080", "127.0.0.5:8080"],
        &["127.0.0.5:8080", "127.0.0.1:8080"],
        &["127.0.0.1:81", "[2001:db8::8]:82", "10.1.0.2:81"],
    ];
    let (writer, reader) = (world.client().await?, world.client().await?);
    let single = ADDRESSES.map(|address| world.build("web", address).address(address));
    let several = ALTERNATES.iter().enumerate().map(|(number, alternates)| {
        let start = world.build("web", &format!("several-{number}"));
        alternates
            .iter()
            .fold(start, |builder, address| builder.alternate(*address))
    });
    let instances: Vec<_> = single.into_iter().chain(several).map(built).collect();
    let accepted = accepted(&world, &writer, instances).await?;
    let local = |instance: &&Arc<Instance>| instance.address.as_str().starts_with("127.");
    let local = accepted.iter().filter(local).count();
    ensure!(
        local >= 4,
        "only {local} instances at addresses of the loopback were taken"
    );
    world.finds(&reader, "web", &accepted).await
}

/// Registers these side by side and gives those that were taken. The others must be refused as invalid.
async fn accepted(
    world: &World,
    writer: &Arc<dyn Registry>,
    instances: Vec<Arc<Instance>>,
) -> Outcome<Vec<Arc<Instance>>> {
    let mut attempts = tokio::task::JoinSet::new();
    for instance in instances {
        let (registration, writer) = (world.registration(&instance), writer.clone());
        attempts.spawn(async move { (writer.register(&registration).await, instance) });
    }
    let mut accepted = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            (Ok(_), instance) => accepted.push(instance),
            (Err(error), instance) => {
                let key = instance.key();
                ensure_eq!(
                    error.kind(),
                    ErrorKind::Invalid,
                    "how {key} is refused: {error}"
                );
            }
        }
    }
    Ok(accepted)
}

/// An instance is returned whatever its status is; who may be called is decided elsewhere.
async fn every_status_reads_back(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances: Vec<_> = Status::ALL
        .iter()
        .map(|status| built(world.build("web", status.as_str()).status(*status)))
        .collect();
    world.register_all(&writer, &instances).await?;
    world.finds(&reader, "web", &instances).await
}

/// Names, ids, versions and metadata with what separates things elsewhere come back as they were, or are refused as
/// invalid at once.
async fn text_reads_back_or_is_refused(world: World) -> Outcome {
    const TEXTS: [&str; 40] = [
        "a", "A", "aB", "0", "-", "_", "a.b", "a..b", "...", "a-b_c", "a b", "a  b", "a:b:1",
        "a\\b", "\\", "a\\.b", "50%", "%2F", "%", "a+b", "a&b=c", "a=b", "a;b", "a,b", "a#b",
        "a?b", "a@b", "[a]", "{a}", "\"a\"", "'a'", "<a>", "a|b", "$a", "~a", "ä", "Ω日本",
        "e\u{301}", "🦀", "a\u{a0}b",
    ];
    let (writer, reader) = (world.client().await?, world.client().await?);
    let long = "x".repeat(128);
    let texts = TEXTS.into_iter().chain([long.as_str()]);
    let instances = texts.enumerate().flat_map(|(number, text)| {
        let as_id = world
            .build("web", text)
            .meta("text", text)
            .version(text)
            .zone(text);
        // Only names have an alphabet.
        let name = text.replace(
            |c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c),
            "x",
        );
        [
            built(as_id),
            built(world.build(&format!("{number}{name:.60}z"), "a")),
        ]
    });
    let instances: Vec<_> = instances.collect();
    let accepted = accepted(&world, &writer, instances.clone()).await?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    for instance in &instances {
        let id = instance.id.as_str();
        let taken = accepted.contains(instance) || id.len() > 64 || !id.chars().all(plain);
        ensure!(taken, "{} was refused", instance.key());
    }
    let (web, others): (Vec<_>, Vec<_>) = accepted
        .into_iter()
        .partition(|instance| instance.service == world.service("web"));
    world.finds(&reader, "web", &web).await?;
    side_by_side(others, |instance| {
        let (world, reader) = (world.clone(), reader.clone());
        async move {
            let prefix = world.service("x").as_str().len() - 1;
            let name = &instance.service.as_str()[prefix..];
            world
                .finds(&reader, name, std::slice::from_ref(&instance))
                .await
        }
    })
    .await
}

/// Registering the same again leaves one instance, and no watch hears of it.
async fn the_same_record_again_is_no_change(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instance = built(world.build("web", "a").meta("k", "v"));
    world.register(&writer, &instance).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&instance))
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world
        .shows(&observer, std::slice::from_ref(&instance))
        .await?;
    for _ in 0..9 {
        world.register(&writer, &instance).await?;
    }
    let last = world.instance("web", "last");
    world.register(&writer, &last).await?;
    world.shows(&observer, &[instance.clone(), last]).await?;
    let about = |change: &Change| match change {
        Change::Snapshot(_) | Change::Current => false,
        Change::Upsert(upsert) => upsert.is(&instance.key()),
        Change::Remove(key) => *key == instance.key(),
    };
    let heard = observer
        .seen()
        .changes
        .iter()
        .filter(|change| about(change))
        .count();
    // A watch that opened before the first registration could be seen may have heard of that one.
    ensure!(
        heard <= 1,
        "{heard} changes were told of a record that did not change"
    );
    Ok(())
}

/// A record that changes is told as one change of the same instance: it is not removed first.
async fn a_changed_record_is_one_upsert(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let first = built(world.build("web", "a").meta("k", "v"));
    world.register(&writer, &first).await?;
    world
        .finds(&reader, "web", std::slice::from_ref(&first))
        .await?;
    let observer = world.observe(&reader, "web").await?;
    world.shows(&observer, std::slice::from_ref(&first)).await?;
    let edits = [
        first.edit().address("127.0.0.8:8081"),
        first.edit().meta("k", "w"),
        first.edit().metadata(Metadata::new()),
        first.edit().weight(7),
        first.edit().status(Status::Down),
        first.edit().status(Status::Draining).version("2").zone("z"),
        first.edit(),
    ];
    for edit in edits {
        let before = observer.seen().changes.len();
        let instance = built(edit);
        world.register(&writer, &instance).await?;
        world
            .shows(&observer, std::slice::from_ref(&instance))
            .await?;
        let told = observer.seen().changes.split_off(before);
        ensure_eq!(
            told,
            [Change::Upsert(instance)],
            "what was told of one change"
        );
    }
    Ok(())
}

/// What an instance is does not depend on where it is called.
async fn two_ids_at_one_address_are_two_instances(world: World) -> Outcome {
    independent(
        &world,
        [world.instance("web", "a"), world.instance("web", "b")],
    )
    .await
}

/// An id is unique within its service only.
async fn one_id_in_two_services_is_two_instances(world: World) -> Outcome {
    independent(
        &world,
        [world.instance("web", "a"), world.instance("api", "a")],
    )
    .await
}

async fn independent(world: &World, instances: [Arc<Instance>; 2]) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    world.register_all(&writer, &instances).await?;
    let [first, second] = instances;
    let changed = built(second.edit().meta("k", "v"));
    world.register(&writer, &changed).await?;
    writer.deregister(&first.key()).await?;
    let left = |service: &registry_core::ServiceName| match changed.service == *service {
        true => vec![changed.clone()],
        false => vec![],
    };
    for service in ["web", "api"] {
        world
            .finds(&reader, service, &left(&world.service(service)))
            .await?;
    }
    Ok(())
}

/// However early a `register` is dropped: it can be repeated, and nothing keeps alive what was deregistered since.
async fn a_dropped_register_can_be_repeated(world: World) -> Outcome {
    const MOMENTS: [u64; 7] = [0, 1, 5, 20, 100, 300, 700];
    let (writer, reader) = (world.client().await?, world.client().await?);
    let mut tasks = tokio::task::JoinSet::new();
    for moment in MOMENTS {
        let (world, writer) = (world.clone(), writer.clone());
        tasks.spawn(async move {
            let instance = world.instance("web", &format!("after-{moment}-ms"));
            let registration = world.registration(&instance);
            let first = writer.register(&registration);
            let dropped = timeout(Duration::from_millis(moment), first).await;
            drop(dropped);
            let again = built(instance.edit().meta("again", "yes"));
            world.register(&writer, &again).await?;
            Ok::<_, Failure>(again)
        });
    }
    let mut instances = Vec::new();
    while let Some(done) = tasks.join_next().await {
        instances.push(done??);
    }
    world.finds(&reader, "web", &instances).await?;
    world.deregister_all(&writer, &instances).await?;
    stays(&world, &reader, &[]).await
}

/// Of two writes of one instance the later call wins, also when the earlier one was given up.
async fn writes_of_one_instance_take_effect_in_order(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let first = world.instance("web", "a");
    let given_up = |instance: Arc<Instance>| {
        let (registration, writer) = (world.registration(&instance), writer.clone());
        // Dropped after it was polled: the request may be on its way.
        async move { drop(timeout(Duration::from_millis(2), writer.register(&registration)).await) }
    };
    let mut last = first.clone();
    for number in 1..=10 {
        given_up(built(first.edit().weight(1000 + number))).await;
        last = built(first.edit().weight(number));
        world.register(&writer, &last).await?;
    }
    stays(&world, &reader, &[last]).await?;
    given_up(first.clone()).await;
    writer.deregister(&first.key()).await?;
    stays(&world, &reader, &[]).await
}

/// A lookup comes to find exactly these, and goes on finding them.
async fn stays(world: &World, reader: &Arc<dyn Registry>, expected: &[Arc<Instance>]) -> Outcome {
    world.finds(reader, "web", expected).await?;
    let service = world.service("web");
    throughout(
        world.capability().windows.visible,
        "nothing changes any more",
        || async {
            same(
                &reader.lookup(&service, &ReadOptions::default()).await?,
                expected,
            )
        },
    )
    .await
}

/// `Registered` says what was granted: at least the wish where each registration has its own TTL, the same for every
/// wish elsewhere.
async fn a_ttl_is_a_wish_and_the_grant_is_told(world: World) -> Outcome {
    let client = world.client().await?;
    let wishes = [1500, 10_000, 90_000].map(Duration::from_millis);
    let mut grants = Vec::new();
    for (number, wish) in wishes.into_iter().enumerate() {
        let instance = world.instance("web", &format!("a{number}"));
        let registration = Registration::from(Instance::clone(&instance)).ttl(wish);
        let registered = client.register(&registration).await?;
        ensure_eq!(registered.key, instance.key(), "who was registered");
        grants.push(registered.ttl);
    }
    let plain = world.instance("web", "plain");
    let plain = client
        .register(&Registration::from(Instance::clone(&plain)))
        .await?;
    ensure_eq!(
        plain.ttl,
        world.capability().default_ttl,
        "what is granted without a wish"
    );
    match world.capability().ttl {
        TtlScope::Registration => {
            for (wish, grant) in wishes.into_iter().zip(grants) {
                ensure!(grant >= Some(wish), "{grant:?} was granted for {wish:?}");
            }
        }
        _ => {
            ensure!(
                grants.windows(2).all(|pair| pair[0] == pair[1]),
                "grants differ: {grants:?}"
            );
        }
    }
    Ok(())
}

/// No TTL is shorter than a moment.
async fn a_ttl_of_zero_is_refused(world: World) -> Outcome {
    let client = world.client().await?;
    let instance = world.instance("web", "a");
    let registration = Registration::from(Instance::clone(&instance)).ttl(Duration::ZERO);
    let refused = client.register(&registration).await;
    let kind = refused.err().map(|error| error.kind());
    ensure_eq!(kind, Some(ErrorKind::Invalid), "what is said to a TTL of 0");
    world.finds(&client, "web", &[]).await
}

/// A registration that asks for what the registry cannot do is refused before anything is written.
async fn a_check_that_the_registry_cannot_run_is_refused(world: World) -> Outcome {
    let client = world.client().await?;
    let instance = world.instance("web", "a");
    let kinds = [
        CheckKind::Http("http://127.0.0.7:8080/health".to_owned()),
        CheckKind::Tcp(instance.address.clone()),
        CheckKind::Grpc(instance.address.clone(), String::new()),
        CheckKind::Command(vec!["true".to_owned()]),
        CheckKind::Ttl,
    ];
    for kind in kinds {
        let check = Check::from(&kind);
        if world.capability().checks.contains(&check) {
            continue;
        }
        let registration = world.registration(&instance).check(HealthCheck::new(kind));
        let refused = within(
            Duration::from_secs(1),
            "a refusal",
            client.register(&registration),
        );
        let kind = refused.await?.err().map(|error| error.kind());
        ensure_eq!(
            kind,
            Some(ErrorKind::Unsupported),
            "what is said to a {check:?} check"
        );
    }
    world.finds(&client, "web", &[]).await
}
