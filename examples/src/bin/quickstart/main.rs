//! Three servers, one client, and no registry to install: who is where is told by multicast DNS.
//!
//! One server is killed, the others are shut down; no call fails.

mod fleet;

use std::error;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use examples::client::Client;
use examples::console::{Console, Narrator, span};
use registry_plugins::{Discovery, Error, ErrorKind, RoundRobin, Snapshot, Status, View, connect};
use tokio::time::{Instant, sleep, timeout};

use fleet::Server;

const SERVICE: &str = "greeter";

/// How long each turn of the story may take.
const PATIENCE: Duration = Duration::from_secs(6);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => story().await,
        [fleet::CHILD, service, id, url] => {
            fleet::serve(service, id, url).await?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("quickstart takes no arguments".into()),
    }
}

async fn story() -> Result<ExitCode, Box<dyn error::Error>> {
    let console = Console::new("greeter-1".len());
    // Multicast DNS as on any network, but on the loopback interface, since the servers listen there only, and on
    // a port of its own, so that two runs on one machine do not meet.
    let url = format!("mdns://?loopback=true&port={}", free_port()?);
    console.text(format_args!(
        "Three servers register, a client finds and calls them. The registry is {url}\n"
    ));

    let mut servers = Vec::new();
    for number in 1..=3 {
        let server = Server::start(SERVICE, format!("{SERVICE}-{number}"), &url)?;
        console.event(
            "started",
            &server.id,
            format_args!("process {}", server.pid),
        );
        servers.push(server);
    }
    let registry = connect(&url).await?;
    let discovery = Discovery::new(registry.clone());
    let balancer = discovery.balancer(SERVICE, RoundRobin::default()).await?;
    let view = balancer.view().clone();
    let mut calls = Calls {
        client: Client::new(balancer)?,
        console,
        made: 0,
        failed: 0,
        retried: 0,
    };
    tokio::select! {
        // Polled first, so that a change is told before what follows from it.
        biased;
        () = Narrator::new(console).follow(&view) => {}
        played = play(&mut servers, &view, &mut calls) => played?,
    }
    registry.close().await?;

    let Calls {
        made,
        failed,
        retried,
        ..
    } = calls;
    let answered = made - failed;
    let took = span(console.elapsed());
    console.text(format_args!(
        "\n{made} calls: {answered} answered, {failed} failed, {retried} answered by another server than the first \
         one tried; {took} in all"
    ));
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play(
    servers: &mut [Server],
    view: &View,
    calls: &mut Calls,
) -> Result<(), Box<dyn error::Error>> {
    let console = calls.console;
    let [first, second, third] = servers else {
        return Err("the story has three servers".into());
    };
    until(view, "three servers are found", |now| {
        now.instances.len() == 3
    })
    .await?;
    calls.make(4).await;

    second.kill().await?;
    let killed = Instant::now();
    console.event(
        "killed",
        &second.id,
        "with SIGKILL: it could not say goodbye",
    );
    calls.make(6).await;
    until(view, "the killed server is gone", |now| {
        status(now, &second.id).is_none()
    })
    .await?;
    let after = span(killed.elapsed());
    console.event(
        "noticed",
        &second.id,
        format_args!(
            "{after} after the kill: the call that met nobody made the registry look again"
        ),
    );

    let began = Instant::now();
    first.shut_down();
    console.event(
        "shut down",
        &first.id,
        "it drains first: it still answers, and nobody chooses it",
    );
    let drains = |now: &Snapshot| status(now, &first.id) != Some(Status::Up);
    until(view, "the first server drains", drains).await?;
    calls.make(2).await;
    third.shut_down();
    console.event("shut down", &third.id, "the last one");
    until(view, "everybody is gone", |now| now.instances.is_empty()).await?;
    for server in [first, third] {
        let ended = timeout(PATIENCE, server.ended()).await??;
        if !ended.success() {
            return Err(format!("{} did not end well: {ended}", server.id).into());
        }
        console.event(
            "ended",
            &server.id,
            format_args!("{} after the first was told to", span(began.elapsed())),
        );
    }
    Ok(())
}

/// The calls of the client, and how they went.
struct Calls {
    client: Client,
    console: Console,
    made: u32,
    failed: u32,
    retried: u32,
}

impl Calls {
    async fn make(&mut self, count: u32) {
        for _ in 0..count {
            sleep(Duration::from_millis(100)).await;
            self.made += 1;
            let what = format!("call {}", self.made);
            match self.client.greet("world").await {
                Ok(reply) => {
                    for attempt in &reply.retried {
                        self.console.event(
                            &what,
                            &attempt.who.id,
                            format_args!("{attempt}: tried elsewhere"),
                        );
                    }
                    self.retried += u32::from(!reply.retried.is_empty());
                    let detail = format_args!("{:?} in {}", reply.text, span(reply.took));
                    self.console.event(&what, &reply.by.id, detail);
                }
                Err(unanswered) => {
                    self.failed += 1;
                    self.console.event(&what, "nobody", unanswered);
                }
            }
        }
    }
}

/// Waits until the registry says so.
async fn until(
    view: &View,
    what: &str,
    holds: impl Fn(&Snapshot) -> bool + Send + Sync,
) -> registry_plugins::Result<()> {
    let mut moved = view.moved();
    let wait = async { while !holds(&view.snapshot()) && moved.changed().await.is_ok() {} };
    timeout(PATIENCE, wait).await.map_err(|_| {
        let late = format!("it did not tell within {} that {what}", span(PATIENCE));
        Error::new(ErrorKind::Unavailable, late)
    })
}

fn status(now: &Snapshot, id: &str) -> Option<Status> {
    let mut instances = now.instances.iter();
    instances
        .find(|instance| instance.id.as_str() == id)
        .map(|instance| instance.status)
}

fn free_port() -> std::io::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
        .local_addr()?
        .port())
}
