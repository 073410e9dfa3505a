//! What is decided after each answer, and what the balancer is told: mostly with clients that do as they are told.

mod common;

use std::future::{Ready, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use common::{Acts, Does, Fleet, LIMIT, Shown, config, get, request, text};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use registry_core::Address;
use registry_tower::{BoxError, CallErrorKind, RequestBody, Resolve, authority};
use tokio::time::timeout;
use tower_service::Service;

type Sent = Request<RequestBody<Full<Bytes>>>;
type Acted = Ready<Result<Response<Full<Bytes>>, BoxError>>;

/// A client that does this with the n-th request, and how many it had.
fn acts(
    act: impl Fn(usize) -> Result<u16, io::ErrorKind> + Clone,
) -> (Acts<impl Fn(Sent) -> Acted + Clone>, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let client = Acts::new(move |_| {
        let answer = act(count.fetch_add(1, Ordering::Relaxed));
        let answer = answer.map_err(|kind| io::Error::from(kind).into());
        std::future::ready(answer.map(|status| {
            let response = Response::builder().status(status);
            response.body(Full::from("text")).unwrap()
        }))
    });
    (client, requests)
}

/// Instances that nobody listens for.
async fn names(fleet: &Fleet, count: u16) {
    for number in 1..=count {
        let address = ([127, 0, 0, 1], number).into();
        fleet.add("greeter", &number.to_string(), address).await;
    }
}

#[tokio::test]
async fn so_many_instances_are_looked_at_that_cannot_be_connected_to() {
    let fleet = Fleet::new();
    names(&fleet, 12).await;
    let (client, requests) = acts(|_| Err(io::ErrorKind::ConnectionRefused));
    let mut http = fleet.before(client, config());
    let error = http.call(request("POST", "http://greeter/", "body")).await;
    assert_eq!(error.unwrap_err().kind(), CallErrorKind::Unreachable);
    assert_eq!(requests.load(Ordering::Relaxed), 8);
}

#[tokio::test(start_paused = true)]
async fn who_may_wait_looks_again_at_those_who_could_not_be_connected_to() {
    for instances in [1, 8, 12] {
        let fleet = Fleet::new();
        names(&fleet, instances).await;
        let (client, requests) = acts(|request| match request {
            0..30 => Err(io::ErrorKind::ConnectionRefused),
            _ => Ok(200),
        });
        let mut http = fleet.before(client.clone(), config().wait(LIMIT));
        let reply = http.call(request("POST", "http://greeter/", "body")).await;
        assert_eq!(reply.unwrap().status(), 200, "{instances}");
        assert_eq!(requests.load(Ordering::Relaxed), 31);
        requests.store(0, Ordering::Relaxed);
        let mut http = fleet.before(client, config().wait(Duration::from_millis(150)));
        let error = http.call(request("POST", "http://greeter/", "body")).await;
        assert_eq!(error.unwrap_err().kind(), CallErrorKind::Unreachable);
        let looks = usize::from(instances.min(8));
        let requests = requests.load(Ordering::Relaxed);
        assert!(requests > looks && requests <= 2 * looks, "{requests}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_that_the_last_one_could_not_be_connected_to_before_it_went() {
    let fleet = Fleet::new();
    let address = ([127, 0, 0, 1], 1).into();
    let key = fleet.add("greeter", "1", address).await;
    let memory = Arc::new(fleet.memory.client());
    let (client, _) = acts(move |request| {
        if request == 2 {
            memory.forget(&key);
        }
        Err(io::ErrorKind::ConnectionRefused)
    });
    let mut http = fleet.before(client, config().wait(LIMIT));
    let error = http.call(request("GET", "http://greeter/", "")).await;
    assert_eq!(error.unwrap_err().kind(), CallErrorKind::Unreachable);
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    let discovery = registry_core::Discovery::new(Arc::new(registry_core::Memory::new()));
    let error = Resolve::with_config((), discovery, config().attempts(0)).unwrap_err();
    assert_eq!(error.kind(), registry_core::ErrorKind::Config);
}

#[tokio::test]
async fn what_one_made_of_it_is_told_where_no_other_can_be_connected_to() {
    for first in [Ok(503), Err(io::ErrorKind::ConnectionReset)] {
        let fleet = Fleet::new();
        names(&fleet, 4).await;
        let (client, requests) = acts(move |request| match request {
            0 => first,
            _ => Err(io::ErrorKind::ConnectionRefused),
        });
        let mut http = fleet.before(client, config().wait(LIMIT));
        let answer = http.call(request("PUT", "http://greeter/", "body")).await;
        match first {
            Ok(status) => assert_eq!(answer.unwrap().status(), status),
            Err(_) => assert_eq!(answer.unwrap_err().kind(), CallErrorKind::Broken),
        }
        assert_eq!(requests.load(Ordering::Relaxed), 4);
    }
}

#[tokio::test]
async fn who_waits_for_an_instance_does_not_wait_for_a_better_answer() {
    let fleet = Fleet::new();
    names(&fleet, 2).await;
    let (client, requests) = acts(|_| Ok(503));
    let mut http = fleet.before(client, config().wait(LIMIT).attempts(8));
    let reply = http.call(request("GET", "http://greeter/", "")).await;
    assert_eq!(reply.unwrap().status(), 503);
    assert_eq!(requests.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_may_not_be_repeated_brings_no_repetitions() {
    let fleet = Fleet::new();
    names(&fleet, 3).await;
    let (client, requests) = acts(|_| Ok(503));
    let mut http = fleet.before(client, config().retry_budget(0.5, 0));
    for _ in 0..10 {
        http.call(request("POST", "http://greeter/", ""))
            .await
            .unwrap();
    }
    http.call(request("GET", "http://greeter/", ""))
        .await
        .unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 11);
    http.call(request("GET", "http://greeter/", ""))
        .await
        .unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 13);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_once_the_time_is_over() {
    let fleet = Fleet::new();
    names(&fleet, 3).await;
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let client = Acts::new(move |_: Sent| {
        count.fetch_add(1, Ordering::Relaxed);
        pending::<Result<Response<Full<Bytes>>, BoxError>>()
    });
    let shown = Shown::default();
    let select = shown.clone();
    let config = config().selector(move |_| select.clone()).timeout(LIMIT);
    let mut http = fleet.before(client.clone(), config.clone());
    let answer = http.call(request("GET", "http://greeter/", ""));
    let error = timeout(2 * LIMIT, answer).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Late);
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    assert_eq!(shown.calls(), (0, 0, 1));
    fleet.memory.set_outage(true);
    let mut http = fleet.before(client, config.timeout(Duration::from_secs(1)));
    let error = http.call(request("GET", "http://greeter/", "")).await;
    assert_eq!(error.unwrap_err().kind(), CallErrorKind::Registry);
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_time_may_be_of_any_length() {
    let fleet = Fleet::new();
    names(&fleet, 1).await;
    let (client, _) = acts(|_| Ok(200));
    let config = config().wait(Duration::MAX).timeout(Duration::MAX);
    let mut http = fleet.before(client, config.attempt_timeout(Duration::MAX));
    http.call(request("GET", "http://greeter/", ""))
        .await
        .unwrap();
}

/// A client that is never ready, or takes no requests at all.
#[derive(Clone)]
struct Unready(bool);

impl Service<Sent> for Unready {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Acted;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.0 {
            true => Poll::Pending,
            false => Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())),
        }
    }

    fn call(&mut self, _request: Sent) -> Self::Future {
        unreachable!("it was not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_ready_says_nothing_of_the_instance() {
    for (never, kind) in [(true, CallErrorKind::Late), (false, CallErrorKind::Invalid)] {
        let fleet = Fleet::new();
        names(&fleet, 3).await;
        let shown = Shown::default();
        let select = shown.clone();
        let config = config().selector(move |_| select.clone());
        let config = config.timeout(LIMIT).attempt_timeout(LIMIT / 10);
        let mut http = fleet.before(Unready(never), config);
        let answer = http.call(request("GET", "http://greeter/", ""));
        let error = timeout(2 * LIMIT, answer).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("was not asked"), "{error}");
        assert_eq!(shown.calls(), (0, 0, 0));
    }
}

#[tokio::test]
async fn a_body_that_fails_says_nothing_of_the_instance_whatever_the_client_says() {
    let fleet = Fleet::new();
    names(&fleet, 3).await;
    let shown = Shown::default();
    let select = shown.clone();
    let client = Acts::new(|request: Request<RequestBody<_>>| async {
        match request.into_body().collect().await {
            Ok(_) => Ok(Response::new(Full::<Bytes>::default())),
            Err(_) => Err("it went wrong".into()),
        }
    });
    let mut http = fleet.before(client, config().selector(move |_| select.clone()));
    let one = Ok(Frame::data(Bytes::from_static(b"one")));
    let body = StreamBody::new(tokio_stream::iter([one, Err(io::Error::other("broken"))]));
    let request = Request::put("http://greeter/").body(body).unwrap();
    let error = http.call(request).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Invalid, "{error:?}");
    assert_eq!(shown.calls(), (0, 0, 0));
}

#[tokio::test]
async fn how_a_request_went_is_told_when_its_answer_has_ended() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    let shown = Shown::default();
    let select = shown.clone();
    let mut http = fleet.http(config().selector(move |_| select.clone()));
    let mut reply = get(&http).await.unwrap();
    assert_eq!(shown.calls(), (1, 0, 0));
    assert!(reply.body().size_hint().exact().unwrap() > 0 && !reply.body().is_end_stream());
    // Who knows the length asks for no more.
    reply.body_mut().frame().await.unwrap().unwrap();
    assert!(reply.body().is_end_stream());
    assert_eq!(shown.calls(), (0, 1, 0));
    let head = http.call(request("HEAD", "http://greeter/", "")).await;
    assert_eq!(shown.calls(), (0, 2, 0));
    drop(head);
    for (code, failed) in [(500, 1), (503, 2), (404, 2)] {
        servers[0].does(Does::Answer(code, None));
        text(get(&http).await.unwrap()).await;
        assert_eq!(shown.calls().2, failed, "{code}");
    }
    servers[0].does(Does::Break);
    get(&http).await.unwrap_err();
    assert_eq!(shown.calls(), (0, 3, 3));
    servers[0].does(Does::Begin);
    let given_up = get(&http).await.unwrap();
    let mut cut = get(&http).await.unwrap();
    cut.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(shown.calls(), (2, 3, 3));
    drop(given_up);
    assert_eq!(shown.calls(), (1, 3, 3));
    servers[0].kill();
    cut.body_mut().frame().await.unwrap().unwrap_err();
    assert_eq!(shown.calls(), (0, 3, 4));
}

#[tokio::test]
async fn an_answer_of_unknown_length_ends_with_its_last_part() {
    let fleet = Fleet::new();
    names(&fleet, 1).await;
    let shown = Shown::default();
    let select = shown.clone();
    let client = Acts::new(|_: Sent| async {
        let parts = ["one", "two"].map(|part| Ok::<_, BoxError>(Frame::data(Bytes::from(part))));
        Ok(Response::new(StreamBody::new(tokio_stream::iter(parts))))
    });
    let mut http = fleet.before(client, config().selector(move |_| select.clone()));
    let reply = http.call(request("GET", "http://greeter/", "")).await;
    let mut body = reply.unwrap().into_body();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
        assert_eq!(shown.calls(), (1, 0, 0));
    }
    assert!(body.frame().await.is_none());
    assert_eq!(shown.calls(), (0, 1, 0));
}

#[tokio::test]
async fn the_url_is_that_of_the_instance() {
    let fleet = Fleet::new();
    let address = "[::1]:80".parse().unwrap();
    fleet.add("greeter", "0", address).await;
    let client = Acts::new(|request: Sent| async move {
        let url = Bytes::from(request.uri().to_string());
        Ok::<_, BoxError>(Response::new(Full::new(url)))
    });
    let mut http = fleet.before(client, config());
    for (url, sent) in [
        ("https://greeter/path?q=1", "https://[::1]:80/path?q=1"),
        ("greeter", "http://[::1]:80/"),
    ] {
        let reply = http.call(request("GET", url, "")).await.unwrap();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, sent);
    }
    let scoped = Address::try_from("[fe80::1%3]:80").unwrap();
    assert_eq!(authority(&scoped), "[fe80::1]:80");
}
