//! Requests over hyper's client: where they go, and what becomes of them.

mod common;

use std::time::Duration;

use common::{Does, Fleet, LIMIT, Server, config, get, post, request, text};
use http_body_util::BodyExt;
use registry_core::{PowerOfTwo, RingHash};
use registry_tower::{CallErrorKind, CallKey};
use tokio::time::{Instant, timeout};
use tower_service::Service;

#[tokio::test]
async fn each_request_goes_to_an_instance_of_its_service() {
    let fleet = Fleet::new();
    let servers = fleet.servers(3).await;
    let other = Server::start("other").await;
    fleet.add("Other.v1", "x", other.address).await;
    let mut http = fleet.http(config());
    for _ in 0..30 {
        let reply = get(&http).await.unwrap();
        assert_eq!(reply.status(), 200);
        let text = text(reply).await;
        let name = text.split(' ').next().unwrap();
        let address = servers[name.parse::<usize>().unwrap()].address;
        assert_eq!(text, format!("{name} GET /path?q=1 {address} "));
    }
    let counts: Vec<_> = servers.iter().map(Server::requests).collect();
    assert_eq!(counts, [10, 10, 10]);
    let reply = http.call(request("PUT", "http://Other.v1", "hello")).await;
    let text = text(reply.unwrap()).await;
    assert_eq!(text, format!("other PUT / {} hello", other.address));
}

#[tokio::test]
async fn a_change_in_the_registry_counts_from_the_next_request_on() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    let http = fleet.http(config());
    get(&http).await.unwrap();
    let late = Server::start("late").await;
    let key = fleet.add("greeter", "late", late.address).await;
    let begin = Instant::now();
    while late.requests() == 0 {
        get(&http).await.unwrap();
        assert!(begin.elapsed() < LIMIT);
    }
    registry_core::Registry::deregister(&fleet.memory, &key)
        .await
        .unwrap();
    let begin = Instant::now();
    let mut quiet = 0;
    while quiet < 20 {
        let before = late.requests();
        get(&http).await.unwrap();
        quiet = if late.requests() == before {
            quiet + 1
        } else {
            0
        };
        assert!(begin.elapsed() < LIMIT);
    }
    assert!(servers[0].requests() > 0);
}

#[tokio::test]
async fn who_cannot_be_connected_to_costs_no_request_whatever_its_method() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    let _dead = [fleet.dead("dead-1").await, fleet.dead("dead-2").await];
    let http = fleet.http(config());
    for _ in 0..20 {
        let reply = post(&http, "body").await.unwrap();
        assert!(text(reply).await.ends_with(" body"));
    }
    assert_eq!(servers[0].requests(), 20);
}

#[tokio::test]
async fn where_nobody_can_be_connected_to_that_is_said() {
    let fleet = Fleet::new();
    let _dead = fleet.dead("dead").await;
    let error = get(&fleet.http(config())).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Unreachable, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("service greeter: instance dead at 127.0.0.1:")
    );
    let chain = format!("{error:?}");
    assert!(chain.contains("refused"), "{chain}");
}

#[tokio::test]
async fn an_idempotent_request_goes_elsewhere_when_its_connection_breaks_and_another_does_not() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    servers[0].does(Does::Break);
    let http = fleet.http(config());
    for _ in 0..10 {
        let reply = get(&http).await.unwrap();
        assert!(text(reply).await.starts_with("1 "));
    }
    let before = servers[0].requests() + servers[1].requests();
    let mut broken = 0;
    for _ in 0..10 {
        match post(&http, "body").await {
            Ok(reply) => assert!(text(reply).await.starts_with("1 ")),
            Err(error) => {
                assert_eq!(error.kind(), CallErrorKind::Broken, "{error:?}");
                assert!(error.to_string().contains("instance 0 at "), "{error}");
                broken += 1;
            }
        }
    }
    assert!(broken > 0);
    let sent = servers[0].requests() + servers[1].requests() - before;
    assert_eq!(sent, 10, "each was sent once");
}

#[tokio::test]
async fn a_bad_gateway_is_left_for_another_instance_and_a_failed_program_is_not() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    let http = fleet.http(config());
    for (code, again) in [
        (502, true),
        (503, true),
        (504, true),
        (500, false),
        (429, false),
    ] {
        servers[0].does(Does::Answer(code, None));
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(get(&http).await.unwrap().status().as_u16());
        }
        assert_eq!(codes.contains(&code), !again, "{code}: {codes:?}");
    }
}

#[tokio::test]
async fn the_last_answer_is_given_where_everybody_answers_badly() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    for server in &servers {
        server.does(Does::Answer(503, None));
    }
    let http = fleet.http(config().attempts(8));
    let reply = get(&http).await.unwrap();
    assert_eq!(reply.status(), 503);
    assert!(text(reply).await.contains(" GET /path"));
    assert_eq!(servers[0].requests() + servers[1].requests(), 2);
}

#[tokio::test]
async fn a_request_is_sent_so_often_as_was_said_and_within_the_budget() {
    let fleet = Fleet::new();
    let servers = fleet.servers(5).await;
    for server in &servers {
        server.does(Does::Answer(503, None));
    }
    let sent = || servers.iter().map(Server::requests).sum::<usize>();
    get(&fleet.http(config().attempts(2))).await.unwrap();
    assert_eq!(sent(), 2);
    get(&fleet.http(config().retry_budget(0.0, 0)))
        .await
        .unwrap();
    assert_eq!(sent(), 3);
    get(&fleet.http(config().idempotent(|_| false)))
        .await
        .unwrap();
    assert_eq!(sent(), 4);
}

#[tokio::test]
async fn an_instance_that_hangs_is_left_after_the_time_of_an_attempt() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    servers[0].does(Does::Hang);
    let limit = Duration::from_millis(100);
    let http = fleet.http(config().attempt_timeout(limit));
    for _ in 0..4 {
        let reply = timeout(LIMIT, get(&http)).await.unwrap().unwrap();
        assert!(text(reply).await.starts_with("1 "));
    }
    assert!(servers[0].requests() > 0);
    servers[1].does(Does::Hang);
    let begin = Instant::now();
    let http = fleet.http(config().attempt_timeout(10 * LIMIT).timeout(limit));
    let error = timeout(LIMIT, get(&http)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Late, "{error}");
    assert!(begin.elapsed() >= limit);
}

#[tokio::test]
async fn where_there_is_nobody_a_request_fails_at_once_or_waits() {
    let fleet = Fleet::new();
    let error = get(&fleet.http(config())).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Nobody);
    assert!(
        error
            .to_string()
            .contains("service greeter has no instance"),
        "{error}"
    );
    let waiting = fleet.http(config().wait(LIMIT));
    let waits = tokio::spawn(async move { get(&waiting).await });
    let limited = fleet.http(config().wait(LIMIT).timeout(Duration::from_millis(50)));
    let error = timeout(LIMIT / 2, get(&limited))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Nobody);
    assert!(!waits.is_finished());
    let _servers = fleet.servers(1).await;
    assert_eq!(waits.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn who_waits_is_answered_by_an_instance_that_comes_back() {
    let fleet = Fleet::new();
    let dead = fleet.dead("0").await;
    let address = dead.local_addr().unwrap();
    let http = fleet.http(config().wait(LIMIT));
    let waits = tokio::spawn(async move { get(&http).await });
    drop(dead);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let answer = "HTTP/1.1 204 No Content\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes())
        .await
        .unwrap();
    assert_eq!(waits.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_sent_once() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    for server in &servers {
        server.does(Does::Answer(503, None));
    }
    let mut http = fleet.http(config().replay_limit(3));
    let put = |body| request("PUT", "http://greeter/", body);
    assert_eq!(http.call(put("four")).await.unwrap().status(), 503);
    assert_eq!(servers[0].requests() + servers[1].requests(), 1);
    http.call(put("two")).await.unwrap();
    assert_eq!(servers[0].requests() + servers[1].requests(), 3);
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_answer_has_ended_or_was_given_up() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    for server in &servers {
        server.does(Does::Begin);
    }
    let http = fleet.http(config().selector(|_| PowerOfTwo::default()));
    let mut first = get(&http).await.unwrap();
    let frame = first.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "begun");
    let busy = usize::from(servers[0].requests() == 0);
    let idle = 1 - busy;
    for _ in 0..5 {
        // Given up at once.
        drop(get(&http).await.unwrap());
    }
    assert_eq!((servers[busy].requests(), servers[idle].requests()), (1, 5));
}

#[tokio::test]
async fn requests_with_one_key_stay_together() {
    let fleet = Fleet::new();
    let servers = fleet.servers(3).await;
    let mut http = fleet.http(config().selector(|_| RingHash::default()));
    for _ in 0..12 {
        let mut request = request("GET", "http://greeter/", "");
        request.extensions_mut().insert(CallKey::new("user-7"));
        http.call(request).await.unwrap();
    }
    let mut counts: Vec<_> = servers.iter().map(Server::requests).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 12]);
    for number in 0..100 {
        let mut request = request("GET", "http://greeter/", "");
        request
            .extensions_mut()
            .insert(CallKey::new(format!("user-{number}")));
        http.call(request).await.unwrap();
    }
    assert!(servers.iter().all(|server| server.requests() > 0));
}

#[tokio::test]
async fn a_url_that_names_no_service_is_refused_before_anything_is_sent() {
    let fleet = Fleet::new();
    let mut http = fleet.http(config());
    for url in [
        "http://greeter:80/",
        "http://a@greeter/",
        "/path",
        "http://127.0.0.1:1/",
    ] {
        let error = http.call(request("GET", url, "")).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Invalid, "{url}");
    }
}
