//! Who gets an id, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    ErrorKind, Instance, Memory, Registrar, Registration, RegistrationState, Registry,
};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{Scripted, eventually, lookup};
use crate::{SECOND, greeter, is_registered};

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_an_error_at_once() {
    let memory = Memory::new();
    let registry = Arc::new(memory.client());
    let registrar = Registrar::new(registry.clone());
    let bad = registrar
        .register(Instance::new("greeter", "0.0.0.0:80"))
        .await
        .unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Invalid);
    let _handle = registrar.register(greeter("a")).await.unwrap();
    assert_eq!(
        registrar.register(greeter("a")).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(lookup(&*registry, "greeter").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_the_dead_is_waited_for_and_one_of_the_living_is_a_conflict() {
    let memory = Memory::new();
    let ttl = Duration::from_secs(15);
    let dead = Arc::new(memory.client());
    let wish = Registration::new(greeter("a")).unwrap().ttl(ttl);
    // Nobody renews it, as after a kill.
    dead.register(&wish).await.unwrap();
    let alive = Registrar::new(Arc::new(memory.client()));
    let begin = Instant::now();
    let handle = alive.register(wish.clone()).await.unwrap();
    let waited = begin.elapsed();
    assert!(
        waited >= ttl && waited <= ttl + Duration::from_secs(2),
        "{waited:?}"
    );
    assert!(matches!(handle.state(), RegistrationState::Registered));

    let other = Registrar::new(Arc::new(memory.client()));
    let begin = Instant::now();
    let error = other.register(wish.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(begin.elapsed() >= ttl, "{:?}", begin.elapsed());
    let begin = Instant::now();
    let error = other.register_within(wish, Duration::from_secs(3)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(
        begin.elapsed() <= Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn one_id_can_be_registered_again_as_soon_as_its_handle_is_dropped() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    for version in 0..20 {
        let handle = registrar
            .register(greeter("a").version(version.to_string()))
            .await
            .unwrap();
        assert_eq!(
            lookup(&*registry, "greeter").await[0]
                .version
                .as_ref()
                .unwrap()
                .as_str(),
            version.to_string()
        );
        drop(handle);
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_free_as_soon_as_its_caller_gave_up() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    registry.hang(true);
    registrar
        .register_within(greeter("a"), SECOND)
        .await
        .unwrap_err();
    registry.hang(false);
    let handle = registrar
        .register_within(greeter("a"), 10 * SECOND)
        .await
        .unwrap();
    registry.memory.set_outage(true);
    drop(handle);
    sleep(SECOND).await;
    let handle = timeout(SECOND, registrar.register(greeter("a")))
        .await
        .expect("answered")
        .unwrap();
    registry.memory.set_outage(false);
    timeout(6 * SECOND, handle.watch().wait_for(is_registered))
        .await
        .expect("registered")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_waiting_for_an_id_leaves_nothing() {
    let memory = Memory::new();
    let owner = Registrar::new(Arc::new(memory.client()));
    let owned = owner.register(greeter("a")).await.unwrap();
    let registry = Scripted::over(memory.client());
    let registrar = Registrar::new(registry.clone());
    let waiting = timeout(2 * SECOND, registrar.register(greeter("a"))).await;
    assert!(waiting.is_err(), "{waiting:?}");
    sleep(5 * SECOND).await;
    let tries = Scripted::count(&registry.registers);
    owned.deregister().await.unwrap();
    sleep(20 * SECOND).await;
    assert_eq!(Scripted::count(&registry.registers), tries);
    assert!(lookup(&memory, "greeter").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_update_that_is_refused_is_undone() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a").weight(1)).await.unwrap();
    assert_eq!(
        handle.update(|i| i.id("b")).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        handle
            .update(|i| i.meta("a=b", ""))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
    registry.lie(Some(ErrorKind::Denied));
    assert_eq!(
        handle.update(|i| i.weight(9)).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    registry.lie(None);
    registry.memory.wipe();
    eventually(5 * SECOND, "the accepted weight is back", async || {
        lookup(&*registry, "greeter")
            .await
            .first()
            .filter(|i| i.weight == 1)
            .map(|_| ())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_update_costs_nothing() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let registration = Registration::new(greeter("a")).unwrap().ttl(2 * SECOND);
    let handle = registrar.register(registration).await.unwrap();
    registry.lie(Some(ErrorKind::Denied));
    handle
        .update(|instance| instance.weight(9))
        .await
        .unwrap_err();
    registry.lie(None);
    for _ in 0..100 {
        sleep(SECOND / 5).await;
        assert_eq!(lookup(&*registry, "greeter").await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_update_is_its_callers_error() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    let error = handle.update(|_| panic!("of the test")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    sleep(60 * SECOND).await;
    assert!(is_registered(&handle.state()));
}
