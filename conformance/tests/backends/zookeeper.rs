//! ZooKeeper, as Debian packages it: a server for each case.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use registry_conformance::{Backend, Fault, Faults, LocalProcess, Server, Site, free_port};
use registry_core::{
    Capability, Drivers, Error, ErrorKind, Instance, InstanceKey, Registry, Result, ServiceName,
    TtlScope, Window, async_trait,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode};

/// `zookeeper://`
pub(crate) struct ZooKeeperBackend;

/// Where Debian's `libzookeeper-java` puts it; its manifest names the other libraries.
const CLASSES: &str = "/usr/share/java/zookeeper.jar";

/// Short, so that a death can be waited for, and an id that another session has within one attempt of a registrar.
const SESSION: Duration = Duration::from_secs(3);

const ROOT: &str = "/micro-registry";

#[async_trait]
impl Backend for ZooKeeperBackend {
    fn name(&self) -> &str {
        "zookeeper"
    }

    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.ttl = TtlScope::Connection;
        capability.default_ttl = Some(SESSION);
        capability.watch_all = true;
        capability.conflicts = true;
        capability.can_forget = true;
        capability.windows.visible = Duration::from_millis(200);
        capability.windows.gone = Duration::from_millis(200);
        capability.windows.crash = Some(Window {
            ttl_times: 1,
            plus: Duration::from_secs(2),
        });
        capability.windows.removed = capability.windows.crash;
        capability.windows.reregister = Some(Window::fixed(Duration::from_secs(3)));
        // 1 MiB for a request, less one byte and what is not the record.
        capability.limits.record = Some(1_048_575 - 4096);
        capability
    }

    fn faults(&self) -> Faults {
        Faults {
            outage: true,
            hang: true,
            wipe: true,
            forget: true,
            spoil: true,
            wire: true,
            restore: true,
            publish: true,
            processes: true,
            ..Faults::NONE
        }
    }

    fn missing(&self) -> Option<String> {
        if !Path::new(CLASSES).exists() {
            return Some(format!(
                "{CLASSES}: install the packages zookeeper and a Java runtime"
            ));
        }
        let java = Command::new("java").arg("-version").output();
        java.err().map(|error| format!("java: {error}"))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        Drivers::new()
            .with(registry_zookeeper::DRIVER)
            .connect(url)
            .await
    }

    async fn start(&self) -> Result<Box<dyn Site>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        // It accepts connections before it serves them.
        let serves = move || async move {
            match ask(address, "srvr").await?.contains("Mode:") {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Unavailable, "it does not serve yet")),
            }
        };
        let command = move |data: &Path| command(data, address.port());
        let process = LocalProcess::start_when(address, command, serves).await?;
        Ok(Box::new(ZooKeeperSite(process)))
    }
}

fn command(data: &Path, port: u16) -> Command {
    let mut command = Command::new("java");
    // Small, quick to start, without the files of 64 MB that the log begins with, and without waiting for the disk:
    // what dies here is the process, never the machine.
    command.args([
        "-Xmx96m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Dzookeeper.preAllocSize=64",
        "-Dzookeeper.forceSync=no",
        "-Dznode.container.checkIntervalMs=500",
        "-Dzookeeper.admin.enableServer=false",
        "-Dzookeeper.4lw.commands.whitelist=srvr,wchs",
        "-Dzookeeper.maxCnxns=0",
        "-cp",
        CLASSES,
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
    ]);
    let settings = format!(
        "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=60000\nmaxClientCnxns=0\n\
         dataDir={}\nclientPortAddress=127.0.0.1\nclientPort={port}\n",
        data.display()
    );
    let file = data.with_file_name("zoo.cfg");
    // A file that is missing is what the server says then.
    let _ = std::fs::write(&file, settings);
    command.arg(file);
    command
}

struct ZooKeeperSite(LocalProcess);

#[async_trait]
impl Site for ZooKeeperSite {
    fn url(&self, via: Option<SocketAddr>) -> String {
        let server = via.unwrap_or(self.0.address());
        format!("zookeeper://{server}?session={}ms", SESSION.as_millis())
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(self.0.address())
    }

    async fn inject(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Save => copy(&self.0.data(), &self.saved()),
            Fault::Restore => {
                self.0.kill().await?;
                std::fs::remove_dir_all(self.0.data()).map_err(failed)?;
                copy(&self.saved(), &self.0.data())?;
                self.0.restart().await
            }
            Fault::Forget(key) => self.forget(key).await,
            Fault::Spoil(service) => self.spoil(service).await,
            Fault::Publish(instances) => self.publish(instances).await,
            other => self.0.inject(other).await,
        }
    }

    async fn open_watches(&self) -> Option<usize> {
        // `Total watches:7`
        let said = ask(self.0.address(), "wchs").await.ok()?;
        said.rsplit_once(':')?.1.trim().parse().ok()
    }

    fn log(&self) -> String {
        self.0.log()
    }
}

impl ZooKeeperSite {
    fn saved(&self) -> PathBuf {
        self.0.data().with_file_name("saved")
    }

    async fn client(&self) -> Result<Client> {
        let connecting = Client::connect(&self.0.address().to_string()).await;
        connecting.map_err(failed)
    }

    async fn forget(&self, key: &InstanceKey) -> Result<()> {
        let client = self.client().await?;
        let path = format!("{ROOT}/{}/{}", key.service, key.id);
        match client.delete(&path, None).await {
            // Somebody was quicker.
            Ok(()) | Err(zookeeper_client::Error::NoNode) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Nodes that no reader of ours can read, with and without the form of a record.
    async fn spoil(&self, service: &ServiceName) -> Result<()> {
        let client = self.client().await?;
        let large = vec![b'x'; 900_000];
        let nodes: [(&str, &[u8]); 7] = [
            ("empty", b""),
            ("noise", b"\xff\xfe\x00"),
            ("cut", br#"{"name":"web","nodes":[{"id":"#),
            ("null", b"null"),
            (
                "stranger",
                br#"{"name":"another","nodes":[{"id":"a","address":"127.0.0.1:1"}]}"#,
            ),
            (
                "port",
                br#"{"name":"web","nodes":[{"id":"a","address":"127.0.0.1:70000"}]}"#,
            ),
            ("large", &large),
        ];
        for (name, data) in nodes {
            write(&client, service, name, data).await?;
        }
        Ok(())
    }

    /// As go-micro does: its JSON, in nodes that stay for ever.
    async fn publish(&self, instances: &[Arc<Instance>]) -> Result<()> {
        let client = self.client().await?;
        for instance in instances {
            let record = serde_json::json!({
                "name": instance.service.as_str(),
                "version": "",
                "metadata": null,
                "endpoints": [],
                "nodes": [{
                    "id": instance.id.as_str(),
                    "address": instance.address.as_str(),
                    "metadata": {},
                }],
            });
            let data = record.to_string();
            write(
                &client,
                &instance.service,
                instance.id.as_str(),
                data.as_bytes(),
            )
            .await?;
        }
        Ok(())
    }
}

async fn write(client: &Client, service: &ServiceName, node: &str, data: &[u8]) -> Result<()> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let parent = format!("{ROOT}/{service}");
    client.mkdir(&parent, &options).await.map_err(failed)?;
    let created = client
        .create(&format!("{parent}/{node}"), data, &options)
        .await;
    created.map(drop).map_err(failed)
}

/// What the server says to a word of four letters.
async fn ask(server: SocketAddr, word: &str) -> Result<String> {
    let said = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    };
    said.await.map_err(|error: std::io::Error| failed(error))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "the fixture failed").because(error)
}
