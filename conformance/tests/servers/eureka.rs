//! Eureka.

use libtest_mimic::Trial;
use registry_conformance::Fault;
use registry_conformance::server::{Eureka, EurekaPeers};
use tokio::process::Command;

use crate::{Result, ensure, fails_and_comes_back, get, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        eureka("it_fails_and_comes_back", fails),
        eureka("its_operator_acts", operator),
        eureka("a_login_and_certificates_are_demanded", secured),
        eureka("peers_keep_each_others_data", peers),
    ]
}

fn eureka<F: Future<Output = Result> + 'static>(name: &str, test: fn() -> F) -> Trial {
    trial("eureka", name, Eureka::missing, test)
}

const RECORD: &str = r#"{"instance":{"instanceId":"a b","app":"WEB","hostName":"127.0.0.1","ipAddr":"127.0.0.1",
    "vipAddress":"web","status":"UP","port":{"$":80,"@enabled":"true"},
    "leaseInfo":{"renewalIntervalInSecs":60,"durationInSecs":600},
    "dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"}}}"#;

async fn register(eureka: &Eureka) -> Result {
    eureka.ask("POST", "/apps/WEB", RECORD).await?;
    Ok(())
}

async fn knows(eureka: &Eureka) -> Result<bool> {
    Ok(eureka.records().await?.contains_key("/apps/WEB/a%20b"))
}

async fn fails() -> Result {
    let eureka = Eureka::start().await?;
    register(&eureka).await?;
    fails_and_comes_back(eureka.server(), &get("/eureka/apps")).await?;
    ensure(!knows(&eureka).await?, "it kept what it knew")
}

async fn operator() -> Result {
    let eureka = Eureka::start().await?;
    register(&eureka).await?;
    ensure(knows(&eureka).await?, "it does not know the record")?;
    let taken = "/apps/WEB/a%20b/status?value=OUT_OF_SERVICE";
    eureka.ask("PUT", taken, "").await?;
    let all = eureka.records().await?;
    let status = all.get("/apps/WEB/a%20b").ok_or("the record is gone")?;
    ensure(status.ends_with("OUT_OF_SERVICE"), status)?;
    eureka.clear().await?;
    ensure(!knows(&eureka).await?, "it is not removed")?;
    let gone = eureka.ask("DELETE", "/apps/WEB/a%20b", "").await;
    ensure(gone.is_err(), "what is gone was removed again")?;
    eureka.settle("DELETE", "/apps/WEB/a%20b").await?;
    let refused = eureka.settle("POST", "/apps/WEB").await;
    ensure(refused.is_err(), "an empty record was taken")
}

async fn secured() -> Result {
    let eureka = Eureka::builder().login().tls().start().await?;
    register(&eureka).await?;
    ensure(knows(&eureka).await?, "it does not know the record")?;
    let authority = eureka.authority().ok_or("there is no authority")?;
    let client = authority.client("someone").await?;
    let (user, password) = eureka.login().ok_or("there is no login")?;
    let url = format!("https://{}/eureka/apps", eureka.server().address());
    let status = async |login: &str, certified: bool| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out"])
            .args(["%{http_code}", "--cacert"])
            .arg(authority.certificate())
            .args(["--user", login]);
        if certified {
            curl.arg("--cert").arg(&client.certificate);
            curl.arg("--key").arg(&client.key);
        }
        let said = curl.arg(&url).output().await?.stdout;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&said).into_owned())
    };
    let login = format!("{user}:{password}");
    let said = [
        status(&login, true).await?,
        status("registry:wrong", true).await?,
        status(&login, false).await?,
    ];
    ensure(said == ["200", "401", "000"], &format!("{said:?}"))
}

async fn peers() -> Result {
    let peers = EurekaPeers::start().await?;
    let [known, other] = peers.members();
    register(known).await?;
    peers.agree().await?;
    ensure(knows(other).await?, "the other one does not know it")?;
    peers.inject(&Fault::Stop).await?;
    ensure(!known.server().runs().await, "it runs")?;
    peers.inject(&Fault::Start).await?;
    ensure(knows(known).await?, "the data are lost")?;
    peers.inject(&Fault::Wipe).await?;
    ensure(!knows(known).await?, "the data are there")?;
    peers.reset().await?;
    register(other).await?;
    peers.agree().await?;
    ensure(knows(known).await?, "the first one does not know it")
}
