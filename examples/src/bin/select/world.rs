//! The clients, the servers and their registry, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use registry_plugins::{
    Balancer, Discovery, DiscoveryConfig, Instance, Member, Memory, Outcome, Pick, PickRequest,
    Registrar, RegistrationHandle, Result,
};
use tokio::time::Instant;

use crate::scenario::{AFFLICTED, BEGINS, INSTANCES, LASTS, Make, Scenario, Trouble};
use crate::server::{Reception, Server};

/// Clients, each in a zone and with a balancer of its own.
const CLIENTS: usize = 3;
/// Half of what ten instances of two workers and 20 ms can do.
const CALLS_PER_SECOND: f64 = 500.0;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a refused connection and an immediate error take.
const AT_ONCE: Duration = Duration::from_millis(1);
/// Calls have one of so many keys, low ones more often.
const KEYS: f64 = 1000.0;
const ZONES: [&str; CLIENTS] = ["a", "b", "c"];

/// One selector in one scenario.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) selector: &'static str,
    /// From the first attempt to the answer, sorted.
    latencies: Vec<Duration>,
    pub(crate) errors: usize,
    /// Calls by instance, those of the story alone.
    calls: [usize; INSTANCES],
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Answer { server: usize, call: usize },
    GivesUp { call: usize },
    Arrival,
    Refused { call: usize, server: usize },
    Begins,
    Noticed,
}

struct Call {
    began: Duration,
    client: usize,
    key: u64,
    pick: Option<Pick>,
    well: bool,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, usize, Event)>>,
    scheduled: usize,
    servers: [Server; INSTANCES],
    clients: Vec<Balancer>,
    /// Of its own, so that the calls do not depend on who chooses.
    random: Rng,
    seed: u64,
    calls: HashMap<usize, Call>,
    made: usize,
    lost: bool,
    run: Run,
}

/// Makes the same calls for every selector of the scenario.
pub(crate) fn run(
    scenario: &Scenario,
    (name, make): (&'static str, Make),
    seed: u64,
) -> std::result::Result<Run, Box<dyn Error>> {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let run = runtime.block_on(simulate(scenario, name, make, seed))?;
    Ok(run)
}

async fn simulate(scenario: &Scenario, name: &'static str, make: Make, seed: u64) -> Result<Run> {
    // Not `memory://`, which all runs of this process would share.
    let registry = Arc::new(Memory::new());
    let registrar = Registrar::new(registry.clone());
    let register = async |i: usize| {
        let instance = Instance::new("greeter", format!("10.0.0.{}:80", i + 1));
        let instance = instance.id(format!("{i}")).zone(zone(i));
        registrar.register(instance).await
    };
    let mut handles: Vec<Option<RegistrationHandle>> = Vec::new();
    for i in 0..INSTANCES {
        let comes_later = scenario.trouble == Trouble::Cold && i == AFFLICTED;
        handles.push(if comes_later {
            None
        } else {
            Some(register(i).await?)
        });
    }
    let mut clients = Vec::new();
    for zone in ZONES {
        let config = DiscoveryConfig::default().caller(None, Some(zone.parse()?));
        let discovery = Discovery::with_config(registry.clone(), config);
        clients.push(discovery.balancer("greeter", make()).await?);
    }
    let mut world = World {
        scenario,
        now: Duration::ZERO,
        events: BinaryHeap::new(),
        scheduled: 0,
        servers: std::array::from_fn(|i| Server::new(seed ^ i as u64)),
        clients,
        random: Rng::with_seed(seed),
        seed,
        calls: HashMap::new(),
        made: 0,
        lost: false,
        run: Run {
            selector: name,
            latencies: Vec::new(),
            errors: 0,
            calls: [0; INSTANCES],
        },
    };
    world.at(Duration::ZERO, Event::Arrival);
    world.at(BEGINS, Event::Begins);
    world.at(BEGINS + Duration::from_secs(10), Event::Noticed);
    let start = Instant::now();
    while let Some(Reverse((time, _, event))) = world.events.pop() {
        tokio::time::advance((start + time).saturating_duration_since(Instant::now())).await;
        world.now = time;
        match event {
            Event::Begins if scenario.trouble == Trouble::Cold => {
                handles[AFFLICTED] = Some(register(AFFLICTED).await?);
                settle().await;
            }
            Event::Begins => world.lost = scenario.trouble == Trouble::ZoneLoss,
            Event::Noticed if world.lost => {
                let mut lost = handles.iter().enumerate().filter(|(i, _)| is_lost(*i));
                while let Some((_, Some(handle))) = lost.next() {
                    handle.deregister().await?;
                }
                settle().await;
            }
            event => world.happens(event),
        }
    }
    world.run.latencies.sort();
    Ok(world.run)
}

/// Lets every task see what has changed: their order is not the seed's.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

fn zone(i: usize) -> &'static str {
    ZONES[i % CLIENTS]
}

fn is_lost(i: usize) -> bool {
    zone(i) == "c"
}

impl World<'_> {
    fn at(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((time, self.scheduled, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                let pause = -(1.0 - self.random.f64()).ln() / CALLS_PER_SECOND;
                let next = self.now + Duration::from_secs_f64(pause);
                if next < BEGINS + LASTS {
                    self.at(next, Event::Arrival);
                }
                self.made += 1;
                let call = Call {
                    began: self.now,
                    client: self.random.usize(..CLIENTS),
                    key: KEYS.powf(self.random.f64()) as u64,
                    pick: None,
                    well: true,
                };
                self.calls.insert(self.made, call);
                self.at(self.now + PATIENCE, Event::GivesUp { call: self.made });
                self.attempt(self.made, &[]);
            }
            Event::Answer { server, call } => {
                if let Some((next, work)) =
                    self.servers[server].finish(server, self.scenario.trouble)
                {
                    let answer = Event::Answer { server, call: next };
                    self.at(self.now + work, answer);
                }
                self.end(call);
            }
            // Nobody saw the call: it is tried elsewhere, once.
            Event::Refused { call, server: _ } => {
                let pick = self.calls.get_mut(&call).and_then(|call| call.pick.take());
                if let Some(pick) = pick {
                    let tried = [pick.member()];
                    pick.report(Outcome::Unreachable);
                    self.attempt(call, &tried);
                }
            }
            Event::GivesUp { call } => {
                if let Some(given_up) = self.calls.get_mut(&call) {
                    given_up.well = false;
                    self.end(call);
                }
            }
            Event::Begins | Event::Noticed => {}
        }
    }

    fn attempt(&mut self, id: usize, tried: &[Member]) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        // Tasks draw from the same source, at times that are not the seed's.
        fastrand::seed(
            self.seed ^ ((id as u64) << 8 | tried.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        let request = PickRequest::default()
            .key(call.key.to_le_bytes())
            .exclude(tried);
        let Ok(pick) = self.clients[call.client].pick_with(&request) else {
            call.well = false;
            return self.end(id);
        };
        let server: usize = pick.instance().id.as_str().parse().unwrap_or_default();
        call.pick = Some(pick);
        if call.began >= BEGINS {
            self.run.calls[server] += 1;
        }
        let (after, event) = if self.lost && is_lost(server) {
            (AT_ONCE, Event::Refused { call: id, server })
        } else {
            let answer = Event::Answer { server, call: id };
            match self.servers[server].receive(id, server, self.scenario.trouble) {
                Reception::Served(work) => (work, answer),
                Reception::Queued => return,
                Reception::Failed => {
                    call.well = false;
                    return self.end(id);
                }
            }
        };
        // A server that is lost while it works answers all the same: that is not this story.
        self.at(self.now + after, event);
    }

    fn end(&mut self, id: usize) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        if let Some(pick) = call.pick {
            pick.report(if call.well {
                Outcome::Success
            } else {
                Outcome::Failure
            });
        }
        if call.began >= BEGINS {
            self.run.errors += usize::from(!call.well);
            self.run.latencies.push(self.now - call.began);
        }
    }
}

impl Run {
    /// The latency that this part of the calls keeps to, those that failed among them.
    pub(crate) fn percentile(&self, part: f64) -> Duration {
        let at = (self.latencies.len() as f64 * part) as usize;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies
            .get(at.min(last))
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn error_share(&self) -> f64 {
        self.errors as f64 / self.latencies.len() as f64
    }

    pub(crate) fn shares(&self) -> [f64; INSTANCES] {
        let sum: usize = self.calls.iter().sum();
        self.calls.map(|calls| calls as f64 / sum as f64)
    }
}
