//! Builds what picks read, on every change and whenever time alone changes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::error::{PickErrorKind, Scene};
use super::plane::Plane;
use super::published::Published;
use super::telemetry::{PERIOD, Telemetry};
use crate::discovery::{Snapshot, View};
use crate::selector::{
    Available, Context, Crowd, Held, Member, Needs, Node, Reach, Selector, Slot, Stats,
    may_be_called,
};
use crate::time::NEVER;

/// Reports do not bring two builds within this time.
const REPORT_PAUSE: Duration = Duration::from_millis(20);
/// When to try again after the selector panicked.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Most copies of what picks write to, so that threads do not fight for it.
const MOST_STRIPES: usize = 8;

pub(super) struct Task {
    view: View,
    /// The instances of the caller's own service, where the selector wants them.
    peers: Option<View>,
    selector: Available,
    needs: Needs,
    plane: Arc<Published>,
    /// Planes that threads may still read: they end here, so that no pick pays for that.
    retired: Vec<Arc<Plane>>,
    /// Wakes who waits for somebody to pick.
    built: watch::Sender<()>,
    /// A report asks for a new build.
    reported: Arc<Notify>,
    crowd: Arc<Crowd>,
    stripes: usize,
    /// When the balancer began: latencies are kept with times after it.
    epoch: Instant,
    /// Counts the instances that ever came; nobody keeps a member until the count comes round.
    members: u32,
    again: Duration,
    rechecks: JoinSet<()>,
    telemetry: Telemetry,
}

impl Task {
    pub(super) fn new(
        view: View,
        peers: Option<View>,
        selector: Available,
        plane: Arc<Published>,
    ) -> Self {
        let needs = selector.needs();
        // Who compares loads reads them all: one copy is less to read.
        let stripes = if needs.load || needs.total || needs.latency.is_some() {
            1
        } else {
            let threads = available_parallelism().map_or(1, usize::from);
            threads.min(MOST_STRIPES).next_power_of_two()
        };
        Self {
            view,
            peers,
            selector,
            needs,
            plane,
            retired: Vec::new(),
            built: watch::Sender::new(()),
            reported: Arc::default(),
            crowd: Arc::default(),
            stripes,
            epoch: Instant::now(),
            members: 0,
            again: NEVER,
            rechecks: JoinSet::new(),
            telemetry: Telemetry::default(),
        }
    }

    pub(super) fn built(&self) -> watch::Receiver<()> {
        self.built.subscribe()
    }

    pub(super) async fn run(mut self) {
        let mut moved = self.view.moved();
        let mut peers = self.peers.as_ref().map(View::moved);
        let mut tell = PERIOD.map(interval);
        loop {
            self.rebuild();
            let built = Instant::now();
            tokio::select! {
                // The same order always, so that what runs under paused time can be repeated.
                biased;
                // Never an error: the view holds the sender.
                _ = moved.changed() => {}
                () = maybe(peers.as_mut(), async |peers| { let _ = peers.changed().await; }) => {}
                () = maybe(tell.as_mut(), async |tell| { tell.tick().await; }) => {
                    self.telemetry.tell(&self.view, &self.plane.load());
                }
                () = self.reported.notified() => {
                    self.recheck();
                    sleep_until(built + REPORT_PAUSE).await;
                }
                Some(_) = self.rechecks.join_next() => {}
                () = sleep(self.again) => {}
            }
        }
    }

    pub(super) fn rebuild(&mut self) {
        let snapshot = self.view.snapshot();
        let now = Instant::now();
        let before = self.plane.load();
        let (nodes, since) = if snapshot.generation == before.generation {
            (before.nodes.clone(), before.since.clone())
        } else {
            self.nodes(&snapshot, &before, now)
        };
        drop(before);
        let candidates: Vec<_> = nodes
            .chunks_exact(self.stripes)
            .zip(&*since)
            .zip(0..)
            .map(|((nodes, since), slot)| Node::candidate(nodes, Slot(slot), *since))
            .collect();
        let peers = self.peers.as_ref().map(View::snapshot);
        let context = Context {
            now,
            caller: &self.view.feed.shared.config.caller,
            peers: peers.as_ref().map_or(&[], |peers| &peers.instances),
            all: &candidates,
            total: &self.crowd.total(),
        };
        let built = catch_unwind(AssertUnwindSafe(|| {
            self.selector.build(&candidates, &context)
        }));
        let Ok(built) = built else {
            tracing::error!(service = %self.view.service(), "the selector panicked; picks go on as before");
            self.again = PANIC_PAUSE;
            return;
        };
        let none = match (snapshot.generation, candidates.len()) {
            (0, _) => PickErrorKind::NotReady,
            (_, 0) => PickErrorKind::NoInstances,
            _ => PickErrorKind::NoneEligible,
        };
        self.again = built.again.unwrap_or(NEVER);
        let service = self.view.service().clone();
        let scene = Scene::new(service, candidates.len(), &built.left_out);
        drop(candidates);
        let before = self.plane.store(Plane {
            nodes,
            since,
            picker: built.picker,
            mask: self.stripes - 1,
            timed: self.needs.latency.is_some(),
            crowd: self.needs.total.then(|| self.crowd.clone()),
            left_out: built.left_out,
            shares: built.shares,
            generation: snapshot.generation,
            built: now,
            none,
            scene: Arc::new(scene),
        });
        self.retired.push(before);
        self.retired.retain(|plane| Arc::strong_count(plane) > 1);
        self.telemetry.built();
        self.built.send_replace(());
    }

    /// The nodes of a new snapshot: those of instances that are the same as before, and others with what is known of
    /// them.
    fn nodes(
        &mut self,
        snapshot: &Snapshot,
        before: &Plane,
        now: Instant,
    ) -> (Arc<[Held]>, Arc<[Instant]>) {
        let mut old = before.stripes().zip(&*before.since).peekable();
        let mut nodes = Vec::with_capacity(snapshot.instances.len() * self.stripes);
        let mut since = Vec::with_capacity(snapshot.instances.len());
        // Both lists are in the order of the ids, and nearly all instances are the same as before.
        for instance in snapshot.instances.iter() {
            let same = |old: &[Held]| Arc::ptr_eq(&old[0].instance, instance);
            if let Some((old, began)) = old.next_if(|(old, _)| same(old)) {
                nodes.extend_from_slice(old);
                since.push(*began);
                continue;
            }
            while old
                .next_if(|(old, _)| old[0].instance.id < instance.id)
                .is_some()
            {}
            match old.next_if(|(old, _)| old[0].instance.id == instance.id) {
                Some((old, began)) => {
                    nodes.extend(
                        old.iter()
                            .map(|node| Held::new(Arc::new(node.changed(instance.clone())))),
                    );
                    let comes = !may_be_called(&old[0].instance) && may_be_called(instance);
                    since.push(if comes { now } else { *began });
                }
                None => {
                    self.members = self.members.wrapping_add(1);
                    let member = Member(self.members);
                    let alarm = self.needs.failures;
                    let reach = Arc::new(Reach::new(self.reported.clone(), alarm));
                    nodes.extend((0..self.stripes).map(|_| {
                        let stats = Arc::new(Stats::new(self.needs.latency, self.epoch));
                        let node = Node::new(member, instance.clone(), stats, reach.clone());
                        Held::new(Arc::new(node))
                    }));
                    since.push(now);
                }
            }
        }
        (nodes.into(), since.into())
    }

    /// Has the registry look again at those that could not be connected to.
    fn recheck(&mut self) {
        for node in self.plane.load().stripes().map(|nodes| &nodes[0]) {
            if node.reach.take_recheck() {
                let (feed, key) = (self.view.feed.clone(), node.instance.key());
                self.rechecks.spawn(async move { feed.recheck(key).await });
            }
        }
    }
}

/// What `wait` waits for; without end where there is nothing to wait with.
async fn maybe<T>(with: Option<&mut T>, wait: impl AsyncFnOnce(&mut T)) {
    match with {
        Some(with) => wait(with).await,
        None => std::future::pending().await,
    }
}
