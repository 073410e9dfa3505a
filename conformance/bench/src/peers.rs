//! The peers, each used as its documentation says, with a service that does nothing.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent, RoundRobin};
use pingora_load_balancing::{Backend, Backends, LoadBalancer, discovery};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Constant, Load, PeakEwmaDiscover, PendingRequestsDiscover};
use volo::context::Endpoint;
use volo::discovery::WeightedStaticDiscover;
use volo::loadbalance::LoadBalance;
use volo::loadbalance::random::WeightedRandomBalance;

use crate::subject::Subject;

pub fn subjects(size: usize) -> Vec<Subject> {
    vec![
        pingora::<RoundRobin>("pingora round robin", size, |_| 1),
        pingora::<RoundRobin>("pingora weighted round robin", size, |i| 1 + i % 10),
        pingora::<Consistent>("pingora ketama", size, |_| 1),
        tower("tower P2C, constant load", move || {
            let services = (0..size).map(|_| Constant::new(Null, 0));
            Balance::new(ServiceList::new::<()>(services.collect::<Vec<_>>()))
        }),
        tower("tower P2C, pending requests", move || {
            Balance::new(PendingRequestsDiscover::new::<()>(
                ServiceList::new::<()>(vec![Null; size]),
                CompleteOnResponse::default(),
            ))
        }),
        tower("tower P2C, peak EWMA", move || {
            Balance::new(PeakEwmaDiscover::new::<()>(
                ServiceList::new::<()>(vec![Null; size]),
                Duration::from_millis(1),
                Duration::from_secs(10),
                CompleteOnResponse::default(),
            ))
        }),
        volo("volo weighted random", size),
    ]
}

fn address(i: usize) -> SocketAddr {
    SocketAddr::from(([10, (i >> 16) as u8, (i >> 8) as u8, i as u8], 80))
}

fn pingora<S>(name: &'static str, size: usize, weight: impl Fn(usize) -> usize) -> Subject
where
    S: BackendSelection + Send + Sync + 'static,
    S::Iter: BackendIter,
{
    let backends: BTreeSet<_> = (0..size)
        .map(|i| Backend::new_with_weight(&address(i).to_string(), weight(i)).expect("an address"))
        .collect();
    let backends = Backends::new(discovery::Static::new(backends));
    let balancer = Arc::new(LoadBalancer::<S>::from_backends(backends));
    let update = balancer.update().now_or_never();
    update.expect("static is there").expect("static is there");
    Subject::new(name, move || {
        let balancer = balancer.clone();
        let mut key = 0_u64;
        move || {
            key += 1;
            black_box(balancer.select(&key.to_le_bytes(), 256));
        }
    })
}

/// A tower balancer belongs to one caller: each thread has its own, which nobody fights for.
fn tower<D>(name: &'static str, make: impl Fn() -> Balance<D, ()> + 'static) -> Subject
where
    D: tower::discover::Discover + Unpin + Send + 'static,
    D::Key: std::hash::Hash + Clone + Send,
    D::Error: Into<tower::BoxError>,
    D::Service: Service<(), Response = ()> + Load + Send,
    <D::Service as Service<()>>::Future: Send,
    <D::Service as Load>::Metric: std::fmt::Debug,
    <D::Service as Service<()>>::Error: Into<tower::BoxError>,
{
    Subject::new(name, move || {
        let mut balance = make();
        move || {
            let mut context = Context::from_waker(Waker::noop());
            if balance.poll_ready(&mut context).is_ready() {
                let _ = black_box(balance.call(()).now_or_never());
            }
        }
    })
}

/// Answers at once.
#[derive(Clone, Copy)]
struct Null;

impl Service<()> for Null {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

fn volo(name: &'static str, size: usize) -> Subject {
    let addresses: Vec<_> = (0..size)
        .map(|i| (address(i), 1 + (i % 10) as u32))
        .collect();
    let discover = Arc::new(WeightedStaticDiscover::from(addresses));
    let balance = Arc::new(WeightedRandomBalance::with_discover(&*discover));
    Subject::new(name, move || {
        let (discover, balance) = (discover.clone(), balance.clone());
        let endpoint = Endpoint::new("service".into());
        move || {
            let picker = balance.get_picker(&endpoint, &*discover).now_or_never();
            let mut picker = picker.expect("static is there").expect("static is there");
            black_box(picker.next());
        }
    })
}
