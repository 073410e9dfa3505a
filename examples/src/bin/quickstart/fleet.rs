//! Servers in processes of their own, none of which outlives this one.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{self, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use examples::console::Console;
use examples::server::{self, Setup};
use registry_plugins::connect;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// What this program is called with to be one of the servers.
pub(crate) const CHILD: &str = "--child";

/// How long a server may take to end after it was told to.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// A server in a process of its own.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) id: String,
    pub(crate) pid: u32,
    process: Child,
}

impl Server {
    /// Starts this program again, as a server.
    pub(crate) fn start(service: &str, id: String, url: &str) -> io::Result<Self> {
        let process = Command::new(std::env::current_exe()?)
            .args([CHILD, service, &id, url])
            // Never written to: it is closed to end the server, and the system closes it when this process dies.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            id,
            pid: process.id().unwrap_or_default(),
            process,
        })
    }

    /// Kills it without warning, and returns when it is dead.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }

    /// Tells it to drain, deregister and end.
    pub(crate) fn shut_down(&mut self) {
        drop(self.process.stdin.take());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }
}

/// Is the server, until standard input is closed.
pub(crate) async fn serve(service: &str, id: &str, url: &str) -> Result<(), Box<dyn Error>> {
    let (tell, told) = oneshot::channel();
    let (_alive, ended) = mpsc::channel::<()>();
    // A thread, so that not even a runtime that hangs keeps the process alive.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = tell.send(());
        if ended.recv_timeout(LAST_WORDS) == Err(mpsc::RecvTimeoutError::Timeout) {
            process::exit(1);
        }
    });
    let setup = Setup {
        service: service.parse()?,
        id: id.parse()?,
        version: "1.0".to_owned(),
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 0,
    };
    let stop = async {
        let _ = told.await;
    };
    server::run(connect(url).await?, setup, stop, Console::new(id.len())).await
}
