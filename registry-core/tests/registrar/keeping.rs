//! What is registered stays so.

use std::time::Duration;

use registry_core::{ErrorKind, Registrar, RegistrarConfig, Registration};
use tokio::time::sleep;

use crate::common::{Scripted, eventually, lookup};
use crate::{SECOND, greeter, is_registered};

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
