//! A real ZooKeeper for one test, and a wire to it that can be looked into.
#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_core::{Drivers, Instance, ReadOptions, Registration, Registry, ServiceName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use zookeeper_client::{Acls, Client, CreateMode};

const CLASSES: &str = "/usr/share/java/zookeeper.jar";
/// What Netty needs for TLS, and the manifest of Debian's package leaves out.
const MORE_CLASSES: [&str; 3] = [
    "netty-resolver",
    "netty-codec",
    "netty-transport-native-unix-common",
];

/// Whether there is a server to test against; says so where there is none.
pub(crate) fn is_installed() -> bool {
    let installed = std::path::Path::new(CLASSES).exists();
    if !installed {
        let required = std::env::var("REGISTRY_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == "zookeeper"),
            "{CLASSES} is required and missing"
        );
        eprintln!("{CLASSES} is missing: nothing is tested");
    }
    installed
}

/// A server of its own. Dropping it kills it and removes its data.
pub(crate) struct Server {
    child: Mutex<Option<Child>>,
    directory: PathBuf,
    settings: String,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// Starts one with more settings.
    pub(crate) async fn with(settings: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-zookeeper-{}-{number}", std::process::id());
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = Self {
            child: Mutex::new(None),
            directory: std::env::temp_dir().join(name),
            settings: settings.to_owned(),
            port,
        };
        server.restart().await;
        server
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("zookeeper://127.0.0.1:{}{rest}", self.port)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) async fn restart(&self) {
        self.kill();
        let data = self.directory.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let file = self.directory.join("zoo.cfg");
        let settings = format!(
            "tickTime=200\nmaxSessionTimeout=60000\nmaxClientCnxns=0\ndataDir={}\n\
             clientPortAddress=127.0.0.1\nclientPort={}\n{}\n",
            data.display(),
            self.port,
            self.settings
        );
        std::fs::write(&file, settings).unwrap();
        let more = MORE_CLASSES.map(|name| format!("/usr/share/java/{name}.jar"));
        let child = Command::new("java")
            .args([
                "-Xmx128m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-XX:-UsePerfData",
            ])
            .args([
                "-Dzookeeper.preAllocSize=64",
                "-Dzookeeper.forceSync=no",
                "-Dznode.container.checkIntervalMs=100",
            ])
            .args([
                "-Dzookeeper.admin.enableServer=false",
                "-Dzookeeper.4lw.commands.whitelist=*",
            ])
            .args([
                "-cp",
                &format!("{CLASSES}:{}", more.join(":")),
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            ])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
        until(Duration::from_secs(60), "the server to serve", async || {
            self.ask("srvr").is_some_and(|said| said.contains("Mode:"))
        })
        .await;
    }

    /// It loses all its data.
    pub(crate) async fn wipe(&self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.join("data")).unwrap();
        self.restart().await;
    }

    /// What it says to a word of four letters.
    pub(crate) fn ask(&self, word: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(word.as_bytes()).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    }

    /// A client of another program.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address().to_string()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Waits until it holds, and panics when it does not in time.
pub(crate) async fn until(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn connect(url: &str) -> Arc<dyn Registry> {
    let drivers = Drivers::new().with(registry_zookeeper::DRIVER);
    drivers.connect(url).await.unwrap()
}

pub(crate) fn instance(id: &str) -> Arc<Instance> {
    Arc::new(
        Instance::new("web", "10.0.0.1:8080")
            .id(id)
            .build()
            .unwrap(),
    )
}

pub(crate) fn registration(instance: &Arc<Instance>) -> Registration {
    Instance::clone(instance).into()
}

pub(crate) fn web() -> ServiceName {
    "web".try_into().unwrap()
}

pub(crate) async fn lookup(registry: &Arc<dyn Registry>) -> Vec<Arc<Instance>> {
    registry
        .lookup(&web(), &ReadOptions::default())
        .await
        .unwrap()
}

/// Writes a node that stays, and makes what is above it.
pub(crate) async fn write(client: &Client, path: &str, data: &[u8]) {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let (parent, _) = path.rsplit_once('/').unwrap();
    client.mkdir(parent, &options).await.unwrap();
    client.create(path, data, &options).await.unwrap();
}

/// Session id and password, once they were heard.
type Secret = Option<(i64, Vec<u8>)>;

/// A wire between a client and the server, which hears the secret of the session.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    /// Session id and password, as the server told them last.
    pub(crate) session: Arc<Mutex<Secret>>,
    /// The server does not get to see which session a client wants to go on with.
    pub(crate) forgets: Arc<AtomicBool>,
    cut: tokio::sync::watch::Sender<u32>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (session, forgets) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let cut = tokio::sync::watch::Sender::new(0);
        let (told, forgetting, cuts) = (session.clone(), forgets.clone(), cut.subscribe());
        let task = tokio::spawn(async move {
            let mut wires = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (told, forgetting, mut cuts) = (told.clone(), forgetting.clone(), cuts.clone());
                cuts.mark_unchanged();
                wires.spawn(async move {
                    tokio::select! {
                        _ = cuts.changed() => {}
                        _ = carry(client, server, &told, &forgetting) => {}
                    }
                });
            }
        });
        Self {
            address,
            session,
            forgets,
            cut,
            task,
        }
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("zookeeper://{}{rest}", self.address)
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Ends the session with what was heard, over a connection of its own.
    pub(crate) async fn steal(&self, server: SocketAddr) {
        let (id, password) = self.session.lock().unwrap().clone().unwrap();
        let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
        let mut request = Vec::new();
        request.extend(0_i32.to_be_bytes());
        request.extend(0_i64.to_be_bytes());
        request.extend(4000_i32.to_be_bytes());
        request.extend(id.to_be_bytes());
        request.extend((password.len() as i32).to_be_bytes());
        request.extend(password);
        request.push(0);
        // The request to close: its number, and the type -11.
        let close = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
        for packet in [request, close] {
            stream
                .write_all(&(packet.len() as i32).to_be_bytes())
                .await
                .unwrap();
            stream.write_all(&packet).await.unwrap();
        }
        // It hangs up when the session is closed.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    client: tokio::net::TcpStream,
    server: SocketAddr,
    told: &Mutex<Secret>,
    forgets: &AtomicBool,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let server = tokio::net::TcpStream::connect(server).await?;
    let (mut from_server, mut to_server) = server.into_split();
    let mut request = packet(&mut from_client).await?;
    if forgets.load(Ordering::Relaxed) {
        // Behind its own length: protocol, zxid, timeout, session.
        request[20..28].fill(0);
    }
    to_server.write_all(&request).await?;
    let answer = packet(&mut from_server).await?;
    // Behind its own length: protocol, timeout, session, length of the password, password.
    let id = i64::from_be_bytes(answer[12..20].try_into().unwrap());
    if id != 0 {
        *told.lock().unwrap() = Some((id, answer[24..40].to_vec()));
    }
    to_client.write_all(&answer).await?;
    tokio::select! {
        done = tokio::io::copy(&mut from_client, &mut to_server) => done?,
        done = tokio::io::copy(&mut from_server, &mut to_client) => done?,
    };
    Ok(())
}

/// A packet with its length.
async fn packet(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_i32().await?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.resize(4 + length as usize, 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}
