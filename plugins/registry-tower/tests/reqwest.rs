//! Requests over `reqwest`.

#![cfg(feature = "reqwest")]

mod common;

use std::time::Duration;

use common::{Does, Fleet, Shown, config};
use registry_core::RingHash;
use registry_tower::{CallErrorKind, CallKey, Reqwest};

#[tokio::test]
async fn a_request_goes_to_an_instance_and_is_answered() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    let services = fleet.before(Reqwest::new().unwrap(), config());
    let http = services.client();
    let get = http.get("http://greeter/path?q=1").build().unwrap();
    let reply = services.execute(get).await.unwrap();
    let address = servers[0].address;
    assert_eq!(reply.url().as_str(), format!("http://{address}/path?q=1"));
    let text = reply.text().await.unwrap();
    assert_eq!(text, format!("0 GET /path?q=1 {address} "));
    let put = http.put("http://greeter/").body("all").build().unwrap();
    let text = services.execute(put).await.unwrap().text().await.unwrap();
    assert_eq!(text, format!("0 PUT / {address} all"));
}

#[tokio::test]
async fn a_request_with_a_body_goes_elsewhere_where_it_may() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    let _dead = fleet.dead("dead").await;
    servers[0].does(Does::Break);
    let services = fleet.before(Reqwest::new().unwrap(), config());
    let http = services.client();
    for _ in 0..6 {
        let put = http.put("http://greeter/").body("all").build().unwrap();
        let text = services.execute(put).await.unwrap().text().await.unwrap();
        assert!(text.starts_with("1 ") && text.ends_with(" all"), "{text}");
    }
    let mut broken = 0;
    for _ in 0..6 {
        let post = http.post("http://greeter/").body("all").build().unwrap();
        if let Err(error) = services.execute(post).await {
            assert_eq!(error.kind(), CallErrorKind::Broken, "{error:?}");
            broken += 1;
        }
    }
    assert!(broken > 0);
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let fleet = Fleet::new();
    let servers = fleet.servers(2).await;
    for server in &servers {
        server.does(Does::Redirect("http://127.0.0.1:1/"));
    }
    let services = fleet.before(Reqwest::new().unwrap(), config());
    let post = services.client().post("http://greeter/").build().unwrap();
    let reply = services.execute(post).await.unwrap();
    assert_eq!(reply.status(), 303);
    assert_eq!(servers[0].requests() + servers[1].requests(), 1);
}

#[tokio::test]
async fn a_timeout_of_the_client_is_told_as_one() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    servers[0].does(Does::Hang);
    let services = fleet.before(Reqwest::new().unwrap(), config());
    let get = services.client().get("http://greeter/");
    let get = get.timeout(Duration::from_millis(100)).build().unwrap();
    let error = services.execute(get).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Late, "{error:?}");
}

#[tokio::test]
async fn requests_with_one_key_stay_together() {
    let fleet = Fleet::new();
    let servers = fleet.servers(3).await;
    let config = config().selector(|_| RingHash::default());
    let services = fleet.before(Reqwest::new().unwrap(), config);
    for _ in 0..12 {
        let get = services.client().get("http://greeter/").build().unwrap();
        let key = CallKey::new("user-7");
        services.execute_with(key, get).await.unwrap();
    }
    assert!(servers.iter().any(|server| server.requests() == 12));
}

#[tokio::test]
async fn where_there_is_nobody_that_is_said() {
    let fleet = Fleet::new();
    let services = fleet.before(Reqwest::new().unwrap(), config());
    let http = services.client();
    let get = || http.get("http://greeter/").build().unwrap();
    let error = services.execute(get()).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Nobody, "{error}");
    let _dead = fleet.dead("dead").await;
    let begin = tokio::time::Instant::now();
    while services.execute(get()).await.unwrap_err().kind() != CallErrorKind::Unreachable {
        assert!(begin.elapsed() < common::LIMIT);
    }
    let get = http.get("http://127.0.0.1:80/").build().unwrap();
    let error = services.execute(get).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Invalid, "{error:?}");
}

#[tokio::test]
async fn what_reqwest_does_not_send_says_nothing_of_the_instance() {
    let fleet = Fleet::new();
    let servers = fleet.servers(1).await;
    let shown = Shown::default();
    let select = shown.clone();
    let builder = reqwest::Client::builder().https_only(true);
    let http = Reqwest::build(builder).unwrap();
    let services = fleet.before(http, config().selector(move |_| select.clone()));
    // `http` takes no URL of this length.
    let long = format!("http://greeter/{}", "a".repeat(1 << 16));
    for url in ["http://greeter/", &long] {
        let get = services.client().get(url).build().unwrap();
        let error = services.execute(get).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Invalid, "{error:?}");
    }
    assert_eq!((shown.calls(), servers[0].requests()), ((0, 0, 0), 0));
}
