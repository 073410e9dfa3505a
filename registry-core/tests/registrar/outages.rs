//! A registry that is away, or hangs.

use std::sync::Arc;

use registry_core::{
    ErrorKind, Memory, Registrar, RegistrarConfig, Registration, RegistrationState,
};
use tokio::time::{sleep, timeout};

use crate::common::{Scripted, eventually, lookup};
use crate::{SECOND, greeter, is_registered};

#[tokio::test(start_paused = true)]
async fn while_the_registry_is_away_the_handle_is_degraded_and_recovers() {
    let memory = Memory::new();
    memory.set_outage(true);
    let registry = Scripted::over(memory);
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    let RegistrationState::Degraded { reason, .. } = handle.state() else {
        panic!("{:?}", handle.state())
    };
    assert_eq!(reason.kind(), ErrorKind::Unavailable);
    sleep(60 * SECOND).await;
    let tries = Scripted::count(&registry.registers);
    assert!(
        (10..=40).contains(&tries),
        "{tries} tries in a minute of outage"
    );
    registry.memory.set_outage(false);
    let mut state = handle.watch();
    timeout(6 * SECOND, state.wait_for(is_registered))
        .await
        .expect("recovered")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_not_told_and_a_long_one_is_once_the_ttl_is_over() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    registry.memory.set_outage(true);
    sleep(8 * SECOND).await;
    assert!(
        is_registered(&handle.state()),
        "the granted 15 s are not over"
    );
    sleep(14 * SECOND).await;
    let RegistrationState::Degraded { since, .. } = handle.state() else {
        panic!("still registered")
    };
    assert!(
        since.elapsed() >= 15 * SECOND,
        "degraded since the last confirmation"
    );
    registry.memory.set_outage(false);
    timeout(6 * SECOND, handle.watch().wait_for(is_registered))
        .await
        .expect("recovered")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_program_is_ready_from_its_first_registration_on_until_it_leaves() {
    let registry = Scripted::new();
    registry.memory.set_outage(true);
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a")).await.unwrap();
    let readiness = handle.readiness();
    assert!(!readiness.is_ready(), "nobody has taken it yet");
    let waiting = tokio::spawn({
        let readiness = readiness.clone();
        async move { readiness.ready().await }
    });
    registry.memory.set_outage(false);
    let ready = timeout(6 * SECOND, waiting).await.expect("ready in time");
    ready.unwrap().unwrap();
    registry.memory.set_outage(true);
    sleep(60 * SECOND).await;
    assert!(!is_registered(&handle.state()));
    assert!(readiness.is_ready(), "clients know it still");
    registry.memory.set_outage(false);
    handle.watch().wait_for(is_registered).await.unwrap();
    handle.deregister().await.unwrap();
    assert!(!readiness.is_ready());
    let error = readiness.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_outage_slows_no_renewal_down() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let registration = Registration::new(greeter("a")).unwrap().ttl(3 * SECOND);
    let _handle = registrar.register(registration).await.unwrap();
    registry.memory.set_outage(true);
    sleep(60 * SECOND).await;
    // A server that is back may count the TTL of what it kept from its own start.
    let mut before = Scripted::count(&registry.renews);
    for _ in 0..20 {
        sleep(SECOND).await;
        let tries = Scripted::count(&registry.renews);
        assert!(tries > before, "a second without a try");
        before = tries;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_reports_why_and_leaves_nothing() {
    let memory = Memory::new();
    memory.set_outage(true);
    let registry = Scripted::over(memory);
    let registrar = Registrar::new(registry.clone());
    let error = registrar
        .register_within(greeter("a"), 3 * SECOND)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    registry.memory.set_outage(false);
    sleep(30 * SECOND).await;
    assert!(lookup(&*registry, "greeter").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hung_call_is_cut_and_does_not_pile_up() {
    let registry = Scripted::new();
    let config = RegistrarConfig::default().attempt_timeout(2 * SECOND);
    let registrar = Registrar::with_config(registry.clone(), config);
    let handle = registrar.register(greeter("a")).await.unwrap();
    registry.hang(true);
    sleep(60 * SECOND).await;
    let renews = Scripted::count(&registry.renews);
    assert!(
        (8..=25).contains(&renews),
        "{renews} renewals in a minute of silence"
    );
    registry.hang(false);
    timeout(8 * SECOND, handle.watch().wait_for(is_registered))
        .await
        .expect("recovered")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_was_given_a_handle_is_tried_for_as_long_as_it_is_held() {
    let memory = Memory::new();
    let owner = Registrar::new(Arc::new(memory.client()));
    let owned = owner.register(greeter("a")).await.unwrap();
    memory.set_outage(true);
    let registrar = Registrar::new(Arc::new(memory.client()));
    let handle = registrar.register(greeter("a")).await.unwrap();
    memory.set_outage(false);
    sleep(60 * SECOND).await;
    let state = handle.state();
    assert!(
        matches!(&state, RegistrationState::Degraded { reason, .. } if reason.kind() == ErrorKind::Conflict),
        "{state:?}"
    );
    owned.deregister().await.unwrap();
    let registered = || async { is_registered(&handle.state()).then_some(()) };
    eventually(60 * SECOND, "the registration", registered).await;
}
