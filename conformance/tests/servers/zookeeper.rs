//! ZooKeeper.

use std::time::Duration;

use libtest_mimic::Trial;
use registry_conformance::Fault;
use registry_conformance::server::{ZooKeeper, ZooKeeperEnsemble};
use tokio::process::Command;
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, Error};

use crate::{Result, ensure, eventually, fails_and_comes_back, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        zookeeper("it_fails_and_comes_back", fails),
        zookeeper("a_wipe_loses_all", wipe),
        zookeeper("watches_are_counted", watches),
        zookeeper("a_copy_is_restored", copy),
        zookeeper("logins_are_demanded", logins),
        zookeeper("certificates_are_demanded", tls),
        zookeeper("another_member_leads", ensemble),
    ]
}

fn zookeeper<F: Future<Output = Result> + 'static>(name: &str, test: fn() -> F) -> Trial {
    trial("zookeeper", name, ZooKeeper::missing, test)
}

const SOON: Duration = Duration::from_secs(20);

async fn client(zookeeper: &ZooKeeper) -> Result<Client> {
    Ok(Client::connect(&zookeeper.server().address().to_string()).await?)
}

async fn create(client: &Client, path: &str) -> Result {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    client.create(path, b"value", &options).await?;
    Ok(())
}

async fn has(client: &Client, path: &str) -> Result<bool> {
    Ok(client.check_stat(path).await?.is_some())
}

async fn fails() -> Result {
    let zookeeper = ZooKeeper::start().await?;
    create(&client(&zookeeper).await?, "/kept").await?;
    fails_and_comes_back(zookeeper.server(), "srvr").await?;
    let client = client(&zookeeper).await?;
    ensure(has(&client, "/kept").await?, "the data are lost")
}

async fn wipe() -> Result {
    let zookeeper = ZooKeeper::start().await?;
    create(&client(&zookeeper).await?, "/lost").await?;
    zookeeper.server().wipe().await?;
    let client = client(&zookeeper).await?;
    ensure(!has(&client, "/lost").await?, "the data are there")
}

async fn watches() -> Result {
    let zookeeper = ZooKeeper::start().await?;
    ensure(zookeeper.open_watches().await? == 0, "somebody watches")?;
    let client = client(&zookeeper).await?;
    let watch = client.watch("/", AddWatchMode::PersistentRecursive).await?;
    let counted = async |count| matches!(zookeeper.open_watches().await, Ok(open) if open == count);
    eventually(SOON, "one watch", async || counted(1).await).await?;
    drop((watch, client));
    eventually(SOON, "no watch", async || counted(0).await).await
}

async fn copy() -> Result {
    let zookeeper = ZooKeeper::builder().process().start().await?;
    create(&client(&zookeeper).await?, "/before").await?;
    let saved = zookeeper.save().await?;
    create(&client(&zookeeper).await?, "/after").await?;
    zookeeper.restore(&saved).await?;
    let client = client(&zookeeper).await?;
    ensure(has(&client, "/before").await?, "what was saved is lost")?;
    ensure(!has(&client, "/after").await?, "what came later is there")
}

async fn logins() -> Result {
    let zookeeper = ZooKeeper::builder().superuser().start().await?;
    let address = zookeeper.server().address().to_string();
    let owner = Client::connector().with_auth("digest", b"owner:secret");
    let owner = owner.connect(&address).await?;
    let options = CreateMode::Persistent.with_acls(Acls::creator_all());
    owner.create("/private", b"", &options).await?;
    let (user, password) = zookeeper.superuser().ok_or("there is no superuser")?;
    for (login, allowed) in [
        ("owner:secret".to_owned(), true),
        ("owner:wrong".to_owned(), false),
        (format!("{user}:{password}"), true),
        (format!("{user}:wrong"), false),
    ] {
        let client = Client::connector().with_auth("digest", login.as_bytes());
        let read = client.connect(&address).await?.get_data("/private").await;
        let denied = matches!(read, Err(Error::NoAuth));
        ensure(read.is_ok() == allowed && denied != allowed, &login)?;
    }
    Ok(())
}

async fn tls() -> Result {
    let zookeeper = ZooKeeper::builder().tls().start().await?;
    let authority = zookeeper.authority().ok_or("there is no authority")?;
    let secure = zookeeper.secure().ok_or("there is no port for TLS")?;
    let identity = authority.client("someone").await?;
    // In TLS 1.2 who shows no certificate fails while shaking hands.
    let shake = async |with: &[&std::ffi::OsStr]| {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["s_client", "-tls1_2", "-verify_return_error", "-connect"])
            .args([&secure.to_string(), "-CAfile"])
            .arg(authority.certificate())
            .args(with)
            .stdin(std::process::Stdio::null());
        openssl.output().await.map(|output| output.status.success())
    };
    let own = [
        "-cert".as_ref(),
        identity.certificate.as_os_str(),
        "-key".as_ref(),
        identity.key.as_os_str(),
    ];
    ensure(shake(&own).await?, "its own authority's client is refused")?;
    ensure(
        !shake(&[]).await?,
        "a client without a certificate is served",
    )
}

async fn ensemble() -> Result {
    let ensemble = ZooKeeperEnsemble::start().await?;
    let leader = ensemble.leader().await?;
    let others = (0..3).filter(|member| *member != leader);
    let other = others.min().ok_or("there is no other member")?;
    create(&client(&ensemble.members()[leader]).await?, "/before").await?;
    ensemble.inject(&Fault::StopLeader).await?;
    let next = ensemble.leader().await?;
    ensure(next != leader, "the dead member leads")?;
    let survivor = client(&ensemble.members()[other]).await?;
    ensure(has(&survivor, "/before").await?, "the data are lost")?;
    ensemble.inject(&Fault::Heal).await?;
    ensemble.inject(&Fault::PauseLeader).await?;
    ensure(ensemble.leader().await? != next, "the hung member leads")?;
    ensemble.inject(&Fault::Heal).await?;
    ensemble.inject(&Fault::StopMost).await?;
    let mut alive = 0;
    for member in ensemble.members() {
        alive += usize::from(member.server().runs().await);
    }
    ensure(alive == 1, "one member is left")?;
    ensemble.inject(&Fault::Heal).await?;
    ensemble.leader().await?;
    ensemble.inject(&Fault::WipeMembers).await?;
    ensemble.leader().await?;
    let client = client(&ensemble.members()[0]).await?;
    ensure(!has(&client, "/before").await?, "the data are there")
}
