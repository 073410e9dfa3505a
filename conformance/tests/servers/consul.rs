//! Consul.

use std::time::Duration;

use libtest_mimic::Trial;
use registry_conformance::Fault;
use registry_conformance::server::{Consul, ConsulCluster};
use tokio::process::Command;

use crate::{Result, ensure, eventually, fails_and_comes_back, get, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        consul("it_fails_and_comes_back", fails),
        consul("a_wipe_loses_all", wipe),
        consul("its_operator_acts", operator),
        consul("a_snapshot_is_restored", snapshot),
        consul("tokens_are_demanded", acl),
        consul("certificates_are_demanded", tls),
        consul("data_centres_are_joined", datacenters),
        consul("another_server_leads", cluster),
    ]
}

fn consul<F: Future<Output = Result> + 'static>(name: &str, test: fn() -> F) -> Trial {
    trial("consul", name, Consul::missing, test)
}

const WEB: &str = r#"{"ID":"web 1","Name":"web","Check":{"TTL":"60s","Status":"passing"}}"#;

async fn register(consul: &Consul) -> Result {
    consul.ask("PUT", "/v1/agent/service/register", WEB).await?;
    Ok(())
}

async fn health(consul: &Consul) -> Result<String> {
    Ok(consul.ask("GET", "/v1/health/service/web", "").await?)
}

const SOON: Duration = Duration::from_secs(20);

/// Waits until the catalog has the service, or has it no more.
async fn known(consul: &Consul, expected: bool) -> Result {
    let what = format!("the service being known: {expected}");
    eventually(SOON, &what, async || {
        let found = health(consul).await;
        found.is_ok_and(|found| found.contains(r#""ID":"web 1""#) == expected)
    })
    .await
}

async fn fails() -> Result {
    let consul = Consul::start().await?;
    consul.ask("PUT", "/v1/kv/kept", "value").await?;
    fails_and_comes_back(consul.server(), &get("/v1/status/leader")).await?;
    let kept = consul.ask("GET", "/v1/kv/kept?raw", "").await?;
    ensure(kept == "value", "the data are lost")
}

async fn wipe() -> Result {
    let consul = Consul::start().await?;
    register(&consul).await?;
    known(&consul, true).await?;
    consul.server().wipe().await?;
    ensure(health(&consul).await? == "[]", "the data are there")
}

async fn operator() -> Result {
    let consul = Consul::start().await?;
    register(&consul).await?;
    known(&consul, true).await?;
    consul.fail_check("service:web 1").await?;
    eventually(SOON, "a critical check", async || {
        health(&consul)
            .await
            .is_ok_and(|found| found.contains("critical"))
    })
    .await?;
    let in_maintenance = async |on| {
        let what = format!("maintenance: {on}");
        eventually(SOON, &what, async || {
            let found = health(&consul).await;
            found.is_ok_and(|found| found.contains("_service_maintenance") == on)
        })
        .await
    };
    consul.set_maintenance("web 1", true).await?;
    in_maintenance(true).await?;
    consul.set_maintenance("web 1", false).await?;
    in_maintenance(false).await?;
    consul.remove_from_catalog("web 1").await?;
    ensure(health(&consul).await? == "[]", "the catalog has it")?;
    let agent = consul.ask("GET", "/v1/agent/services", "").await?;
    ensure(agent.contains("web 1"), "the agent forgot it")?;
    consul.deregister("web 1").await?;
    let agent = consul.ask("GET", "/v1/agent/services", "").await?;
    ensure(agent.trim() == "{}", &agent)
}

async fn snapshot() -> Result {
    let consul = Consul::start().await?;
    consul.ask("PUT", "/v1/kv/before", "1").await?;
    let saved = consul.save().await?;
    consul.ask("PUT", "/v1/kv/after", "2").await?;
    consul.restore(&saved).await?;
    let keys = consul.ask("GET", "/v1/kv/?keys", "").await?;
    ensure(keys == r#"["before"]"#, &keys)
}

async fn acl() -> Result {
    let consul = Consul::builder().acl().start().await?;
    register(&consul).await?;
    known(&consul, true).await?;
    let address = consul.server().address();
    let nobody = ask_as(&format!("http://{address}"), None).await?;
    ensure(nobody == "[]", &nobody)?;
    let rules = r#"service "web" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let token = "c0f0c0f0-0000-4000-8000-00000000000a";
    consul.set_policy("reader", rules).await?;
    consul.add_token(token, "reader").await?;
    let reads = async |allowed: bool| {
        eventually(
            SOON,
            &format!("a reader being allowed: {allowed}"),
            async || {
                let found = ask_as(&format!("http://{address}"), Some(token)).await;
                found.is_ok_and(|found| found.contains("web 1") == allowed)
            },
        )
        .await
    };
    reads(true).await?;
    consul
        .set_policy("reader", r#"key "a" { policy = "read" }"#)
        .await?;
    reads(false).await?;
    consul.set_policy("reader", rules).await?;
    reads(true).await?;
    consul.remove_token(token).await?;
    let gone = async || {
        let found = ask_as(&format!("http://{address}"), Some(token)).await;
        found.is_ok_and(|found| found.contains("ACL not found"))
    };
    eventually(SOON, "the token to be unknown", gone).await?;
    consul.add_token(token, "reader").await?;
    reads(true).await?;
    let plain = Consul::start().await?;
    ensure(plain.management_token().is_none(), "a token for nothing")
}

/// What the API answers a reader with this token, or with none.
async fn ask_as(url: &str, token: Option<&str>) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "5"]);
    if let Some(token) = token {
        command
            .arg("--header")
            .arg(format!("X-Consul-Token: {token}"));
    }
    let output = command
        .arg(format!("{url}/v1/health/service/web"))
        .output()
        .await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn tls() -> Result {
    let consul = Consul::builder().tls().acl().start().await?;
    let members = consul.consul(&["members"]).await?;
    ensure(members.contains(consul.node()), &members)?;
    let authority = consul.authority().ok_or("no authority")?;
    let https = consul.https().ok_or("no HTTPS")?;
    let ask = async |arguments: &[&str]| -> Result<String> {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "5", "--cacert"])
            .arg(authority.certificate())
            .args(arguments)
            .arg(format!("https://{https}/v1/status/leader"))
            .output()
            .await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let bare = ask(&[]).await?;
    ensure(bare.is_empty(), &bare)?;
    let client = authority.client("tester").await?;
    let (certificate, key) = (client.certificate, client.key);
    let leader = ask(&[
        "--cert",
        &certificate.to_string_lossy(),
        "--key",
        &key.to_string_lossy(),
    ])
    .await?;
    ensure(leader.contains("127.0.0.1:"), &leader)
}

async fn datacenters() -> Result {
    let [one, two] = Consul::two_datacenters().await?;
    register(&two).await?;
    known(&two, true).await?;
    eventually(SOON, "dc1 to read from dc2", async || {
        let found = one.ask("GET", "/v1/health/service/web?dc=dc2", "").await;
        found.is_ok_and(|found| found.contains("web 1"))
    })
    .await?;
    ensure(health(&one).await? == "[]", "dc1 has it as well")
}

async fn cluster() -> Result {
    let cluster = ConsulCluster::start().await?;
    let (cluster, agent) = (cluster.servers(), cluster.agent());
    let servers = cluster.members();
    register(agent).await?;
    known(agent, true).await?;
    let first = cluster.leader().await?;
    cluster.inject(&Fault::StopLeader).await?;
    let second = cluster.leader().await?;
    ensure(second != first, "the dead one leads")?;
    known(&servers[second], true).await?;
    known(agent, true).await?;
    cluster.inject(&Fault::Heal).await?;
    known(&servers[first], true).await?;
    let paused = cluster.leader().await?;
    cluster.inject(&Fault::PauseLeader).await?;
    let next = cluster.leader().await?;
    ensure(next != paused, "the silent one leads")?;
    cluster.inject(&Fault::Heal).await?;
    known(&servers[paused], true).await?;
    cluster.leader().await?;
    cluster.inject(&Fault::StopMost).await?;
    let mut left = Vec::new();
    for server in servers {
        if server.server().runs().await {
            left.push(server);
        }
    }
    ensure(left.len() == 1, "not one is left")?;
    eventually(SOON, "the loss of the leader", async || {
        let leader = left[0].ask("GET", "/v1/status/leader", "").await;
        leader.is_ok_and(|leader| leader.trim() == r#""""#)
    })
    .await?;
    cluster.inject(&Fault::Heal).await?;
    known(&servers[0], true).await?;
    cluster.inject(&Fault::WipeMembers).await?;
    cluster.leader().await?;
    ensure(agent.server().runs().await, "the agent does not run")
}
