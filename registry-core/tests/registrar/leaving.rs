//! Deregistering, draining and closing.

use registry_core::{ErrorKind, Registrar, Registration, RegistrationState, Registry, Status};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{Scripted, eventually, lookup};
use crate::{SECOND, greeter};

#[tokio::test(start_paused = true)]
async fn a_deregistration_is_final_even_against_an_attempt_on_its_way() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    // The server takes the record and the answer is lost: the registrar tries again and again.
    registry.lie(Some(ErrorKind::Unavailable));
    handle.update(|instance| instance.weight(2)).await.unwrap();
    handle.deregister().await.unwrap();
    registry.lie(None);
    sleep(60 * SECOND).await;
    assert!(lookup(&*registry, "greeter").await.is_empty());
    assert!(matches!(handle.state(), RegistrationState::Deregistered));
    assert_eq!(
        handle.update(|instance| instance).await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    handle.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_waits_for_an_attempt_on_its_way_and_undoes_it() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    registry.hang(true);
    let update = handle.update(|instance| instance.weight(2));
    let deregister = async {
        sleep(SECOND).await;
        registry.hang(false);
        handle.deregister().await
    };
    let (updated, deregistered) = timeout(8 * SECOND, async { tokio::join!(update, deregister) })
        .await
        .expect("both are answered");
    assert_eq!(updated.unwrap_err().kind(), ErrorKind::Closed);
    deregistered.unwrap();
    sleep(60 * SECOND).await;
    assert!(lookup(&*registry, "greeter").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_during_an_outage_fails_and_is_done_when_it_ends() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar
        .register(Registration::new(greeter("a")).unwrap().ttl(600 * SECOND))
        .await
        .unwrap();
    registry.memory.set_outage(true);
    assert_eq!(
        handle.deregister().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    sleep(20 * SECOND).await;
    registry.memory.set_outage(false);
    eventually(6 * SECOND, "taken back", async || {
        lookup(&*registry, "greeter").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn among_many_that_wait_for_the_registry_a_deregistration_is_answered() {
    let registry = Scripted::new();
    registry.memory.set_outage(true);
    let registrar = Registrar::new(registry.clone());
    let mut handles = Vec::new();
    for i in 0..300 {
        handles.push(registrar.register(greeter(&i.to_string())).await.unwrap());
    }
    sleep(60 * SECOND).await;
    for handle in &handles[..10] {
        let answer = timeout(SECOND, handle.deregister())
            .await
            .expect("answered");
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    registry.memory.set_outage(false);
    eventually(6 * SECOND, "the others are registered", async || {
        (lookup(&*registry, "greeter").await.len() == 290).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_future_or_a_handle_leaves_nothing() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    registry.hang(true);
    assert!(
        timeout(SECOND, registrar.register(greeter("future")))
            .await
            .is_err()
    );
    registry.hang(false);
    let handle = registrar.register(greeter("handle")).await.unwrap();
    drop(handle);
    eventually(15 * SECOND, "both are gone", async || {
        lookup(&*registry, "greeter").await.is_empty().then_some(())
    })
    .await;
    sleep(60 * SECOND).await;
    assert!(lookup(&*registry, "greeter").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn draining_is_published_before_it_returns() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    let start = Instant::now();
    handle.drain().await.unwrap();
    assert_eq!(
        lookup(&*registry, "greeter").await[0].status,
        Status::Draining
    );
    assert!(start.elapsed() >= registry.capability().windows.visible);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_nobody_could_see_is_an_error() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    registry.memory.set_outage(true);
    assert_eq!(
        handle.drain().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[tokio::test(start_paused = true)]
async fn closing_deregisters_all_within_its_deadline_and_twice_is_no_error() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let a = registrar.register(greeter("a")).await.unwrap();
    let _b = registrar.register(greeter("b")).await.unwrap();
    registrar.close(SECOND).await.unwrap();
    assert!(lookup(&*registry, "greeter").await.is_empty());
    registrar.close(SECOND).await.unwrap();
    assert_eq!(
        registrar.register(greeter("c")).await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    a.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_a_hung_registry_ends_at_the_deadline() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let _handle = registrar.register(greeter("a")).await.unwrap();
    registry.hang(true);
    let start = Instant::now();
    assert_eq!(
        registrar.close(2 * SECOND).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert!(start.elapsed() < 3 * SECOND);
}
