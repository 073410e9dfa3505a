//! etcd.

use std::time::Duration;

use libtest_mimic::Trial;
use registry_conformance::Fault;
use registry_conformance::server::{Etcd, EtcdCluster};

use crate::{Result, ensure, eventually, fails_and_comes_back, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        etcd("it_fails_and_comes_back", fails),
        etcd("a_wipe_loses_all", wipe),
        etcd("its_operator_acts", operator),
        etcd("a_snapshot_is_restored", snapshot),
        etcd("a_full_store_refuses", quota),
        etcd("users_are_demanded", auth),
        etcd("certificates_are_demanded", tls),
        etcd("another_member_leads", cluster),
    ]
}

fn etcd<F: Future<Output = Result> + 'static>(name: &str, test: fn() -> F) -> Trial {
    trial("etcd", name, Etcd::missing, test)
}

async fn get(etcd: &Etcd, key: &str) -> Result<String> {
    Ok(etcd
        .etcdctl(&["get", "--print-value-only", "--", key])
        .await?)
}

async fn fails() -> Result {
    let etcd = Etcd::start().await?;
    etcd.put("kept", b"value").await?;
    fails_and_comes_back(etcd.server(), &crate::get("/version")).await?;
    ensure(get(&etcd, "kept").await? == "value\n", "the data are lost")
}

async fn wipe() -> Result {
    let etcd = Etcd::start().await?;
    etcd.put("lost", b"value").await?;
    etcd.server().wipe().await?;
    ensure(get(&etcd, "lost").await?.is_empty(), "the data are there")?;
    ensure(etcd.revision().await? == 1, "the revision went on")
}

async fn operator() -> Result {
    let etcd = Etcd::start().await?;
    etcd.put("raw", &[0xff, b'\n', 0]).await?;
    let raw = etcd.etcdctl(&["get", "raw", "--write-out", "json"]).await?;
    ensure(raw.contains(r#""value":"/woA""#), &raw)?;
    etcd.delete("raw").await?;
    ensure(get(&etcd, "raw").await?.is_empty(), "it is not deleted")?;

    let granted = etcd.etcdctl(&["lease", "grant", "60"]).await?;
    let lease = granted.split(' ').nth(1).unwrap_or_default();
    etcd.etcdctl(&["put", "--lease", lease, "leased", "value"])
        .await?;
    etcd.revoke_lease_of("leased").await?;
    ensure(
        get(&etcd, "leased").await?.is_empty(),
        "it outlives its lease",
    )?;
    etcd.put("plain", b"").await?;
    let none = etcd.revoke_lease_of("plain").await;
    ensure(none.is_err(), "a lease that is none was revoked")?;

    let odd = "a \"b\" \\ ü\n";
    etcd.put_all(&[("many/1", "1"), ("many/2", odd)], 60)
        .await?;
    ensure(
        get(&etcd, "many/2").await? == format!("{odd}\n"),
        "it is changed",
    )?;
    let together = etcd.etcdctl(&["get", "many/", "--prefix", "--write-out", "fields"]);
    let together = together.await?;
    let revisions: Vec<_> = together
        .lines()
        .filter(|line| line.contains("CreateRevision"))
        .collect();
    ensure(
        revisions.len() == 2 && revisions[0] == revisions[1],
        &together,
    )?;
    etcd.revoke_lease_of("many/1").await?;
    ensure(
        get(&etcd, "many/2").await?.is_empty(),
        "it outlives its lease",
    )?;

    etcd.compact().await?;
    let old = etcd.etcdctl(&["get", "plain", "--rev", "2"]).await;
    let old = old.err().map(|error| error.to_string()).unwrap_or_default();
    ensure(old.contains("compacted"), "the history is there")?;

    ensure(etcd.open_watches().await? == 0, "somebody watches")?;
    let mut watch = tokio::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", etcd.server().address()))
        .args(["watch", "plain"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let counted = async |count| matches!(etcd.open_watches().await, Ok(open) if open == count);
    let seconds = Duration::from_secs(10);
    eventually(seconds, "one watch", async || counted(1).await).await?;
    watch.kill().await?;
    eventually(seconds, "no watch", async || counted(0).await).await
}

async fn snapshot() -> Result {
    let etcd = Etcd::builder().process().start().await?;
    etcd.put("before", b"1").await?;
    let saved = etcd.save().await?;
    etcd.put("after", b"2").await?;
    etcd.restore(&saved).await?;
    ensure(
        get(&etcd, "before").await? == "1\n",
        "what was saved is lost",
    )?;
    ensure(
        get(&etcd, "after").await?.is_empty(),
        "it is not the old store",
    )?;
    ensure(etcd.revision().await? == 2, "the revision did not go back")
}

async fn quota() -> Result {
    let builder = Etcd::builder().argument("--quota-backend-bytes=1000000");
    let etcd = builder.start().await?;
    let value = vec![b'x'; 300_000];
    let mut full = String::new();
    for i in 0..10 {
        if let Err(error) = etcd.put(&i.to_string(), &value).await {
            full = error.to_string();
            break;
        }
    }
    ensure(full.contains("database space exceeded"), &full)?;
    etcd.server().restart().await?;
    let alarms = etcd.etcdctl(&["alarm", "list"]).await?;
    ensure(alarms.contains("NOSPACE"), "the alarm is over")
}

async fn auth() -> Result {
    let etcd = Etcd::builder().auth().start().await?;
    etcd.add_user("web", "secret", "/web/").await?;
    etcd.put("/db/a", b"").await?;
    let as_web = ["--user", "web:secret", "put"];
    etcd.etcdctl(&[&as_web[..], &["/web/a", "1"]].concat())
        .await?;
    let forbidden = etcd.etcdctl(&[&as_web[..], &["/db/a", "1"]].concat()).await;
    ensure(forbidden.is_err(), "another's key is written")?;
    etcd.remove_user("web").await?;
    let removed = etcd
        .etcdctl(&[&as_web[..], &["/web/a", "1"]].concat())
        .await;
    ensure(removed.is_err(), "one who was removed writes")?;
    etcd.add_user("web", "secret", "/web/").await?;
    etcd.etcdctl(&[&as_web[..], &["/web/a", "1"]].concat())
        .await?;
    let wrong = etcd
        .etcdctl(&["--user", "web:wrong", "get", "/web/a"])
        .await;
    ensure(wrong.is_err(), "a wrong password is accepted")?;
    let nobody = without_access(&etcd, "http").await;
    ensure(nobody.contains("user name is empty"), &nobody)?;
    etcd.server().restart().await?;
    let nobody = without_access(&etcd, "http").await;
    ensure(nobody.contains("user name is empty"), &nobody)
}

async fn tls() -> Result {
    let etcd = Etcd::builder().tls().auth().start().await?;
    etcd.put("a", b"1").await?;
    let plain = without_access(&etcd, "http").await;
    ensure(plain.contains("deadline exceeded"), &plain)?;
    let authority = etcd.authority().ok_or("no authority")?;
    let bare = etcdctl(
        &etcd,
        "https",
        &[("ETCDCTL_CACERT", authority.certificate())],
    )
    .await;
    ensure(bare.contains("deadline exceeded"), &bare)?;
    let client = authority.client("tester").await?;
    let certified = [
        ("ETCDCTL_CACERT", authority.certificate()),
        ("ETCDCTL_CERT", client.certificate),
        ("ETCDCTL_KEY", client.key),
    ];
    // A certificate alone is no user.
    let nobody = etcdctl(&etcd, "https", &certified).await;
    ensure(nobody.contains("permission denied"), &nobody)?;
    etcd.server().restart().await?;
    ensure(get(&etcd, "a").await? == "1\n", "the data are lost")
}

/// What a reader without any credentials is told.
async fn without_access(etcd: &Etcd, scheme: &str) -> String {
    etcdctl(etcd, scheme, &[]).await
}

async fn etcdctl(etcd: &Etcd, scheme: &str, environment: &[(&str, std::path::PathBuf)]) -> String {
    let output = tokio::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .envs(environment.iter().cloned())
        .arg(format!(
            "--endpoints={scheme}://{}",
            etcd.server().address()
        ))
        .args(["--command-timeout=2s", "get", "a"])
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => "it may read".to_owned(),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    }
}

async fn cluster() -> Result {
    let cluster = EtcdCluster::start().await?;
    let members = cluster.members();
    let first = cluster.leader().await?;
    members[first].put("kept", b"1").await?;
    let kept = async |i: usize| -> Result {
        let value = get(&members[i], "kept").await?;
        ensure(value == "1\n", "the data are lost")
    };
    cluster.inject(&Fault::StopLeader).await?;
    let second = cluster.leader().await?;
    ensure(second != first, "the dead one leads")?;
    kept(second).await?;
    cluster.inject(&Fault::Heal).await?;
    kept(first).await?;
    let paused = cluster.leader().await?;
    cluster.inject(&Fault::PauseLeader).await?;
    let next = cluster.leader().await?;
    ensure(next != paused, "the silent one leads")?;
    cluster.inject(&Fault::Heal).await?;
    kept(paused).await?;
    cluster.inject(&Fault::StopMost).await?;
    let alive = async || {
        let mut alive = Vec::new();
        for member in members {
            if member.server().runs().await {
                alive.push(member);
            }
        }
        alive
    };
    let left = alive().await;
    ensure(left.len() == 1, "not one is left")?;
    let write = left[0].etcdctl(&["put", "late", "1", "--command-timeout=2s"]);
    ensure(write.await.is_err(), "one of three decides")?;
    cluster.inject(&Fault::Heal).await?;
    ensure(alive().await.len() == 3, "not all run")?;
    kept(0).await?;
    cluster.inject(&Fault::WipeMembers).await?;
    cluster.leader().await?;
    ensure(
        get(&members[0], "kept").await?.is_empty(),
        "the data are there",
    )
}
