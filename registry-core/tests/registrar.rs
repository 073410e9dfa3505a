//! The registrar against the memory backend, under paused time.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Scripted, eventually, lookup};
use registry_core::{
    ErrorKind, Instance, InstanceBuilder, Memory, Registrar, RegistrarConfig, Registration,
    RegistrationState, Registry, Status,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn greeter(id: &str) -> InstanceBuilder {
    Instance::new("greeter", "10.0.0.1:80").id(id)
}

fn is_registered(state: &RegistrationState) -> bool {
    matches!(state, RegistrationState::Registered)
}

#[tokio::test(start_paused = true)]
async fn a_registration_outlives_its_ttl_while_it_is_held() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar
        .register(Registration::new(greeter("a")).unwrap().ttl(3 * SECOND))
        .await
        .unwrap();
    sleep(60 * SECOND).await;
    assert_eq!(lookup(&*registry, "greeter").await.len(), 1);
    assert!(is_registered(&handle.state()));
    assert_eq!(Scripted::count(&registry.registers), 1);
    // A third of the TTL, less up to a tenth: 60 to 67 beats.
    let beats = Scripted::count(&registry.renews);
    assert!((60..=67).contains(&beats), "{beats}");
}

#[tokio::test(start_paused = true)]
async fn many_registrations_are_renewed_in_few_calls() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let mut handles = Vec::new();
    for i in 0..100 {
        handles.push(registrar.register(greeter(&i.to_string())).await.unwrap());
    }
    sleep(60 * SECOND).await;
    let calls = Scripted::count(&registry.renews);
    assert!(
        calls <= 60,
        "{calls} calls for 100 registrations in 12 periods"
    );
    assert_eq!(lookup(&*registry, "greeter").await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_forgot_comes_back_as_last_published() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let handle = registrar.register(greeter("a").version("1")).await.unwrap();
    handle
        .update(|instance| instance.version("2").weight(7))
        .await
        .unwrap();
    registry.memory.wipe();
    eventually(SECOND, "back after the wipe", async || {
        (lookup(&*registry, "greeter").await.len() == 1).then_some(())
    })
    .await;
    let back = lookup(&*registry, "greeter").await;
    assert_eq!(back[0].version.as_ref().unwrap().as_str(), "2");
    assert_eq!(back[0].weight, 7);
    registry.memory.forget(handle.key());
    eventually(2 * SECOND, "back after being forgotten", async || {
        (lookup(&*registry, "greeter").await.len() == 1).then_some(())
    })
    .await;
}

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
async fn an_idle_registrar_does_next_to_nothing() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let mut handles = Vec::new();
    for i in 0..100 {
        let registration = Registration::new(greeter(&i.to_string()))
            .unwrap()
            .ttl(60 * SECOND);
        handles.push(registrar.register(registration).await.unwrap());
    }
    let before = Scripted::count(&registry.renews);
    sleep(600 * SECOND).await;
    let calls = Scripted::count(&registry.renews) - before;
    assert!(calls <= 70, "{calls} calls in ten idle minutes");
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_or_too_short() {
    let registry = Scripted::new();
    let config = RegistrarConfig::default()
        .attempt_timeout(Duration::MAX)
        .verify_interval(Duration::ZERO)
        .drop_timeout(Duration::MAX);
    let registrar = Registrar::with_config(registry.clone(), config);
    for ttl in [Duration::ZERO, Duration::MAX] {
        let registration = Registration::new(greeter("a")).unwrap().ttl(ttl);
        assert_eq!(
            registrar.register(registration).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    let short = Registration::new(greeter("a"))
        .unwrap()
        .ttl(Duration::from_millis(1));
    let _handle = registrar
        .register_within(short, Duration::MAX)
        .await
        .unwrap();
    sleep(10 * SECOND).await;
    let calls = Scripted::count(&registry.renews) + Scripted::count(&registry.registers);
    // At most one renewal and one registration in 45 ms.
    assert!(calls <= 450, "{calls} calls in 10 s");
    registrar.close(Duration::MAX).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_register_that_hangs_lets_nothing_else_lapse() {
    for panics in [false, true] {
        let registry = Scripted::new();
        let registrar = Registrar::new(registry.clone());
        let mut handles = Vec::new();
        for i in 0..10 {
            let registration = Registration::new(greeter(&i.to_string()))
                .unwrap()
                .ttl(3 * SECOND);
            handles.push(registrar.register(registration).await.unwrap());
        }
        registry.spoil("spoilt", panics);
        handles.push(registrar.register(greeter("spoilt")).await.unwrap());
        for _ in 0..600 {
            sleep(SECOND / 5).await;
            assert_eq!(
                lookup(&*registry, "greeter").await.len(),
                10,
                "panics: {panics}"
            );
        }
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
async fn a_loss_that_is_told_while_a_renewal_is_on_its_way_is_not_forgotten() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let wish = Registration::new(greeter("a")).unwrap().ttl(60 * SECOND);
    let handle = registrar.register(wish).await.unwrap();
    registry.delay(3 * SECOND);
    let renewing = || async { (Scripted::count(&registry.renews) > 0).then_some(()) };
    eventually(30 * SECOND, "a renewal", renewing).await;
    // The answer that is on its way says that all is well.
    registry.memory.forget(handle.key());
    let back = || async { (lookup(&*registry, "greeter").await.len() == 1).then_some(()) };
    eventually(10 * SECOND, "the registration to come back", back).await;
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
async fn very_many_are_renewed_in_several_calls() {
    let registry = Scripted::new();
    let registrar = Registrar::new(registry.clone());
    let mut handles = Vec::new();
    for i in 0..600 {
        handles.push(registrar.register(greeter(&i.to_string())).await.unwrap());
    }
    sleep(60 * SECOND).await;
    let calls = Scripted::count(&registry.renews);
    assert!(
        (36..=120).contains(&calls),
        "{calls} calls for 600 in 12 periods"
    );
    assert!(handles.iter().all(|handle| is_registered(&handle.state())));
}
