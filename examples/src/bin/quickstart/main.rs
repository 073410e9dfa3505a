//! Three servers, one client, and no registry to install: who is where is told by multicast DNS.
//!
//! One server is killed, the others are shut down; no call fails.

mod fleet;

use std::error;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use examples::client::Client;
use examples::console::{Console, Narrator, span};
use registry_plugins::{
    Discovery, Error, ErrorKind, Result, RoundRobin, Snapshot, Status, View, connect,
};
use tokio::time::{Instant, timeout};

use fleet::Server;

const SERVICE: &str = "greeter";

/// How long the registry may take to tell each turn of the story.
const PATIENCE: Duration = Duration::from_secs(6);

/// The time between two calls.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run().await,
        [fleet::CHILD, service, id, url] => {
            fleet::serve(service, id, url).await?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("quickstart takes no arguments".into()),
    }
}

async fn run() -> Result<ExitCode, Box<dyn error::Error>> {
    let console = Console::new("greeter-1".len());
    // Multicast DNS as on any network, but on the loopback interface, since the servers listen there only, and on
    // a port of its own, so that two runs on one machine do not meet.
    let url = format!("mdns://?loopback=true&port={}", free_port()?);
    console.text("Three servers register themselves; a client finds and calls them.");
    console.text(format_args!("The registry is {url}\n"));

    let start = |number| Server::start(SERVICE, format!("{SERVICE}-{number}"), &url);
    let servers = [start(1)?, start(2)?, start(3)?];
    for server in &servers {
        console.event(
            "started",
            &server.id,
            format_args!("process {}", server.pid),
        );
    }
    let registry = connect(&url).await?;
    let discovery = Discovery::new(registry.clone());
    let balancer = discovery.balancer(SERVICE, RoundRobin::default()).await?;
    let mut story = Story {
        console,
        narrator: Narrator::new(console),
        view: balancer.view().clone(),
        client: Client::new(balancer)?,
        made: 0,
        failed: 0,
        retried: 0,
    };
    story.play(servers).await?;
    registry.close().await?;

    let Story {
        made,
        failed,
        retried,
        ..
    } = story;
    console.text(format_args!(
        "\n{made} calls: {} answered, {failed} failed; {retried} met a dead server first. {} in all.",
        made - failed,
        span(console.elapsed())
    ));
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The client's side of the story.
struct Story {
    console: Console,
    narrator: Narrator,
    view: View,
    client: Client,
    made: u64,
    failed: u64,
    retried: u64,
}

impl Story {
    async fn play(&mut self, servers: [Server; 3]) -> Result<(), Box<dyn error::Error>> {
        let [mut first, mut second, mut third] = servers;
        let console = self.console;
        self.until("three servers are there", |now| now.instances.len() == 3)
            .await?;
        self.call(4).await;

        second.kill().await?;
        let killed = Instant::now();
        console.event(
            "killed",
            &second.id,
            "with SIGKILL: it could not say goodbye",
        );
        self.call(6).await;
        self.until("the killed one is gone", |now| {
            status(now, &second).is_none()
        })
        .await?;
        let late = span(killed.elapsed());
        console.event(
            "noticed",
            &second.id,
            format_args!("{late} after the kill: a call met nobody, so the registry looked again"),
        );

        let told = Instant::now();
        first.shut_down();
        console.event(
            "shut down",
            &first.id,
            "it drains: it still answers, but nobody chooses it",
        );
        self.until("it drains", |now| status(now, &first) != Some(Status::Up))
            .await?;
        self.call(2).await;
        third.shut_down();
        console.event("shut down", &third.id, "the last one");
        self.until("nobody is left", |now| now.instances.is_empty())
            .await?;
        for mut server in [first, third] {
            let code = timeout(PATIENCE, server.ended()).await??;
            let took = span(told.elapsed());
            console.event("ended", &server.id, format_args!("{code}, after {took}"));
            if !code.success() {
                return Err(format!("{} did not end well", server.id).into());
            }
        }
        Ok(())
    }

    async fn call(&mut self, count: u32) {
        for _ in 0..count {
            // It never holds: this is a pause in which the registry may be heard.
            let _ = timeout(PAUSE, self.narrator.tell_until(&self.view, |_| false)).await;
            self.made += 1;
            let result = self.client.greet("world").await;
            self.console.call(&format!("call {}", self.made), &result);
            match result {
                Ok(reply) => self.retried += u64::from(!reply.retried.is_empty()),
                Err(_) => self.failed += 1,
            }
        }
    }

    /// Waits until the registry says so.
    async fn until(&mut self, what: &str, holds: impl Fn(&Snapshot) -> bool + Send) -> Result<()> {
        let told = timeout(PATIENCE, self.narrator.tell_until(&self.view, holds)).await;
        told.map_err(|_| {
            let late = format!("it did not tell within {} that {what}", span(PATIENCE));
            Error::new(ErrorKind::Unavailable, late)
        })
    }
}

fn status(now: &Snapshot, server: &Server) -> Option<Status> {
    let mut instances = now.instances.iter();
    let instance = instances.find(|instance| instance.id.as_str() == server.id)?;
    Some(instance.status)
}

fn free_port() -> io::Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(socket.local_addr()?.port())
}
