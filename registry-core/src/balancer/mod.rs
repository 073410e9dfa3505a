//! Picks an instance for each call, and learns from how the calls went.

mod attempts;
mod budget;
mod error;
mod explain;
mod hedge;
mod pick;
mod plane;
mod published;
mod task;
mod telemetry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tracing::level_filters::LevelFilter;

pub use attempts::Attempts;
pub use budget::RetryBudget;
pub use error::{PickError, PickErrorKind};
pub use explain::{Explained, Explanation};
pub use hedge::Hedge;
pub use pick::Pick;

use crate::discovery::{Discovery, View};
use crate::error::{Error, Result};
use crate::instance::{InstanceId, ServiceName};
use crate::selector::{Available, Member, PickRequest, Selector, Stage};
use crate::time::after;
use plane::Plane;
use published::Published;
use task::Task;

/// Picks among the instances of one service. Cheap to clone; clones share what they learn.
///
/// Instances that are down, in maintenance, starting, draining or of weight 0 get no new calls, unless the selector
/// says otherwise ([`Sticky`](crate::Sticky), [`Tiers`](crate::Tiers)). One that a call could not connect to is
/// avoided for 5 s, doubling up to 60 s while that goes on, unless there is nobody else. A thread that picks keeps
/// what it picked from last, also when the balancer is dropped, until it picks from another one or ends.
///
/// # What it tells
///
/// While `tracing` is enabled for `DEBUG`, one of about 1024 picks is told as an event of the target
/// `registry_core::pick`: who was chosen, among how many, of which generation and age.
/// [`explain`](Self::explain) tells all of one pick.
///
/// With the feature `metrics`, the balancer tells the recorder of the crate `metrics` every 5 s, never from a pick.
/// All have the label `service`.
///
/// | Name | Kind | What |
/// | --- | --- | --- |
/// | `registry_instances` | gauge | instances of the service |
/// | `registry_instances_left_out` | gauge | those of them that are not picked, by `reason` |
/// | `registry_calls_in_flight` | gauge | picks neither reported nor dropped |
/// | `registry_calls_total` | counter | picks reported, by `outcome`: `success`, `failure`; connect failures are neither |
/// | `registry_picker_builds_total` | counter | pickers built |
/// | `registry_stale_seconds` | gauge | how long the registry has not stood behind the instances; 0 when it does |
#[derive(Clone)]
pub struct Balancer {
    plane: Arc<Published>,
    shared: Arc<Shared>,
}

struct Shared {
    view: View,
    built: watch::Receiver<()>,
    task: AbortHandle,
}

impl Discovery {
    /// Picks among the instances of a service. Waits as [`service`](Self::service) does.
    ///
    /// # Errors
    /// As [`service`](Self::service); `Config` where the selector's settings or the order of its filters are refused.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn balancer<S>(&self, service: S, selector: impl Selector) -> Result<Balancer>
    where
        S: TryInto<ServiceName>,
        Error: From<S::Error>,
    {
        let selector = Available {
            inner: Box::new(selector),
        };
        selector.validate(Stage::Status)?;
        let view = self.service(service).await?;
        let peers = if selector.needs().peers {
            self.peers(&view).await?
        } else {
            None
        };
        Ok(Balancer::new(view, peers, selector))
    }

    /// The instances of the caller's own service, where the caller has a key.
    async fn peers(&self, view: &View) -> Result<Option<View>> {
        match &view.feed.shared.config.caller.key {
            Some(key) => self.service(&key.service).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Balancer {
    fn new(view: View, peers: Option<View>, selector: Available) -> Self {
        let plane = Plane::empty(view.service().clone());
        let plane = Arc::new(Published::new(plane));
        let mut task = Task::new(view.clone(), peers, selector, plane.clone());
        let built = task.built();
        // Before anybody picks, so that the first pick finds what the view has.
        task.rebuild();
        let task = tokio::spawn(task.run()).abort_handle();
        let shared = Arc::new(Shared { view, built, task });
        Self { plane, shared }
    }

    /// Picks an instance. Takes no lock, allocates nothing and makes no system call.
    ///
    /// # Errors
    /// Why there is nobody to pick; never waits for somebody.
    #[inline]
    pub fn pick(&self) -> Result<Pick, PickError> {
        self.pick_with(&PickRequest::default())
    }

    /// Picks an instance other than these: for a retry elsewhere.
    ///
    /// # Errors
    /// As [`pick`](Self::pick); `Excluded` when nobody else is left.
    #[inline]
    pub fn pick_excluding(&self, members: &[Member]) -> Result<Pick, PickError> {
        self.pick_with(&PickRequest::default().exclude(members))
    }

    /// Picks an instance as the request asks.
    ///
    /// # Errors
    /// As [`pick_excluding`](Self::pick_excluding).
    #[inline]
    pub fn pick_with(&self, request: &PickRequest<'_>) -> Result<Pick, PickError> {
        self.plane.read(|plane| {
            let picked = pick_from(plane, request);
            // One comparison where nobody listens.
            if LevelFilter::current() >= LevelFilter::DEBUG {
                self.sample(plane, request, &picked);
            }
            picked
        })
    }

    /// Picks an instance, and waits for one up to this time where there is none.
    ///
    /// # Errors
    /// As [`pick_with`](Self::pick_with), when the time is over.
    pub async fn pick_within(
        &self,
        wait: Duration,
        request: &PickRequest<'_>,
    ) -> Result<Pick, PickError> {
        let deadline = after(wait);
        let mut built = self.shared.built.clone();
        loop {
            built.mark_unchanged();
            let error = match self.pick_with(request) {
                Ok(pick) => return Ok(pick),
                Err(error) => error,
            };
            // Never the error of a closed channel: the task ends with this balancer.
            if timeout_at(deadline, built.changed()).await.is_err() {
                return Err(error);
            }
        }
    }

    /// Picks an instance after the other for one call, each other than those before, at most so many and at most 8.
    pub fn attempts(&self, most: usize) -> Attempts<'_> {
        Attempts::new(self, most)
    }

    /// Picks an instance as the request asks, and says what it was chosen among. Not for every call: it looks at
    /// every instance.
    pub fn explain(&self, request: &PickRequest<'_>) -> (Result<Pick, PickError>, Explanation) {
        let plane = self.plane.load();
        let service = self.shared.view.service().clone();
        let freshness = self.shared.view.snapshot().freshness.clone();
        let mut explanation = Explanation::of(&plane, request, service, freshness);
        let picked = pick_from(&plane, request);
        explanation.chosen = picked.as_ref().ok().map(Pick::member);
        (picked, explanation)
    }

    /// One event for about a thousand picks, while somebody listens.
    #[cold]
    fn sample(&self, plane: &Plane, request: &PickRequest<'_>, picked: &Result<Pick, PickError>) {
        if !fastrand::u32(..).is_multiple_of(1024) {
            return;
        }
        let instances = plane.stripes().count();
        tracing::debug!(
            target: "registry_core::pick",
            service = %self.shared.view.service(),
            chosen = picked.as_ref().ok().map(|pick| pick.instance().id.as_str()),
            error = picked.as_ref().err().map(tracing::field::display),
            instances,
            left_out = plane.left_out.len(),
            excluded = request.exclude.len(),
            generation = plane.generation,
            fresh = self.shared.view.snapshot().freshness.is_fresh(),
            age = ?plane.built.elapsed(),
            "a pick, one of about 1024"
        );
    }

    /// Says that this instance could be connected to, or could not, without a call: for whoever keeps connections ready,
    /// so that no call has to find it out. A failure counts as [`Outcome::Unreachable`](crate::Outcome::Unreachable)
    /// does; a success ends the time for which the instance is avoided. An id that is not among the instances is
    /// passed over.
    pub fn connected(&self, id: &InstanceId, connected: bool) {
        let plane = self.plane.load();
        let mut nodes = plane.stripes().map(|nodes| &nodes[0]);
        if let Some(node) = nodes.find(|node| node.instance.id == *id) {
            node.reach.connected(connected);
        }
    }

    /// What it picks from.
    pub fn view(&self) -> &View {
        &self.shared.view
    }
}

#[inline]
fn pick_from(plane: &Plane, request: &PickRequest<'_>) -> Result<Pick, PickError> {
    let timed;
    let request = if plane.timed {
        timed = PickRequest {
            now: Some(Instant::now()),
            ..*request
        };
        &timed
    } else {
        request
    };
    match plane.picker.pick(request).and_then(|slot| plane.node(slot)) {
        Some(node) => Ok(Pick::new(
            node,
            request.now,
            plane.crowd.as_ref().map(|crowd| crowd.join()),
        )),
        None => Err(plane.why_none(request)),
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("service", self.shared.view.service())
            .finish_non_exhaustive()
    }
}
