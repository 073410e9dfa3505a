//! Builds what picks read, on every change and whenever time alone changes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::pick::PickError;
use super::plane::Plane;
use crate::discovery::View;
use crate::selector::{Available, Context, Member, Node, Reach, Selector, Slot};
use crate::time::NEVER;

/// Reports do not bring two builds within this time.
const REPORT_PAUSE: Duration = Duration::from_millis(20);
/// When to try again after the selector panicked.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    view: View,
    selector: Available,
    plane: Arc<ArcSwap<Plane>>,
    /// A report asks for a new build.
    reported: Arc<Notify>,
    /// Counts the instances that ever came; nobody keeps a member until the count comes round.
    members: u32,
    again: Duration,
    rechecks: JoinSet<()>,
}

impl Task {
    pub(super) fn new(view: View, selector: Box<dyn Selector>, plane: Arc<ArcSwap<Plane>>) -> Self {
        Self {
            view,
            selector: Available { inner: selector },
            plane,
            reported: Arc::default(),
            members: 0,
            again: NEVER,
            rechecks: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut moved = self.view.moved();
        loop {
            self.rebuild();
            let built = Instant::now();
            tokio::select! {
                // Never an error: the view holds the sender.
                _ = moved.changed() => {}
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
        let before = self.plane.load_full();
        let mut old = before.nodes.iter().peekable();
        let mut nodes = Vec::with_capacity(snapshot.instances.len());
        // Both lists are in the order of the ids, and nearly all instances are the same as before.
        for instance in snapshot.instances.iter() {
            if let Some(node) = old.next_if(|node| Arc::ptr_eq(&node.instance, instance)) {
                nodes.push(node.clone());
                continue;
            }
            while old.next_if(|node| node.instance.id < instance.id).is_some() {}
            nodes.push(match old.next_if(|node| node.instance.id == instance.id) {
                Some(node) => Arc::new(node.changed(instance.clone())),
                None => {
                    self.members = self.members.wrapping_add(1);
                    let reach = Arc::new(Reach::new(self.reported.clone()));
                    Arc::new(Node::new(
                        Member(self.members),
                        now,
                        instance.clone(),
                        reach,
                    ))
                }
            });
        }
        let candidates: Vec<_> = nodes
            .iter()
            .zip(0..)
            .map(|(node, slot)| node.candidate(Slot(slot)))
            .collect();
        let context = Context {
            now,
            caller: &self.view.feed.shared.config.caller,
        };
        let built = catch_unwind(AssertUnwindSafe(|| {
            self.selector.build(&candidates, &context)
        }));
        let Ok(built) = built else {
            tracing::error!(service = %self.view.service(), "the selector panicked; picks go on as before");
            self.again = PANIC_PAUSE;
            return;
        };
        let none = match (snapshot.generation, nodes.len()) {
            (0, _) => PickError::NotReady,
            (_, 0) => PickError::NoInstances,
            _ => PickError::NoneEligible,
        };
        self.again = built.again.unwrap_or(NEVER);
        drop(candidates);
        self.plane.store(Arc::new(Plane {
            nodes,
            picker: built.picker,
            none,
        }));
    }

    /// Has the registry look again at those that could not be connected to.
    fn recheck(&mut self) {
        for node in &self.plane.load().nodes {
            if node.reach.take_recheck() {
                let (feed, key) = (self.view.feed.clone(), node.instance.key());
                self.rechecks.spawn(async move { feed.recheck(key).await });
            }
        }
    }
}
