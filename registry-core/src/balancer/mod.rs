//! Picks an instance for each call, and learns from how the calls went.

mod pick;
mod plane;
mod task;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;

pub use pick::{Pick, PickError};

use crate::discovery::{Discovery, View};
use crate::error::{Error, Result};
use crate::instance::ServiceName;
use crate::selector::{Member, PickRequest, Selector};
use plane::Plane;
use task::Task;

/// Picks among the instances of one service. Cheap to clone; clones share what they learn.
///
/// Instances that are down, in maintenance, starting, draining or of weight 0 are never picked. One that a call
/// could not connect to is avoided for 5 s, doubling up to 60 s while that goes on, unless there is nobody else.
#[derive(Clone)]
pub struct Balancer {
    plane: Arc<ArcSwap<Plane>>,
    shared: Arc<Shared>,
}

struct Shared {
    view: View,
    task: AbortHandle,
}

impl Discovery {
    /// Picks among the instances of a service. Waits as [`service`](Self::service) does.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn balancer<S>(&self, service: S, selector: impl Selector) -> Result<Balancer>
    where
        S: TryInto<ServiceName>,
        Error: From<S::Error>,
    {
        let view = self.service(service).await?;
        Ok(Balancer::new(view, Box::new(selector)))
    }
}

impl Balancer {
    fn new(view: View, selector: Box<dyn Selector>) -> Self {
        let plane = Arc::new(ArcSwap::from_pointee(Plane::empty()));
        let mut task = Task::new(view.clone(), selector, plane.clone());
        // Before anybody picks, so that the first pick finds what the view has.
        task.rebuild();
        let task = tokio::spawn(task.run()).abort_handle();
        Self {
            plane,
            shared: Arc::new(Shared { view, task }),
        }
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
        let plane = self.plane.load();
        match plane.picker.pick(request).and_then(|slot| plane.node(slot)) {
            Some(node) => Ok(Pick::new(node)),
            None => Err(plane.why_none(request)),
        }
    }

    /// What it picks from.
    pub fn view(&self) -> &View {
        &self.shared.view
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
