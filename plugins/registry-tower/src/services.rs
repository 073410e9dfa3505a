//! The services that are called.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use registry_core::{Balancer, Discovery, Result, RetryBudget, ServiceName};
use tokio::sync::OnceCell;

use crate::config::ResolveConfig;
use crate::error::{BoxError, CallError, CallErrorKind};

/// What requests to one service share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) balancer: Balancer,
    pub(crate) budget: RetryBudget,
}

/// The services that were called last, each followed from its first request on.
#[derive(Debug)]
pub(crate) struct Services {
    discovery: Discovery,
    pub(crate) config: ResolveConfig,
    followed: Mutex<Followed>,
}

#[derive(Debug, Default)]
struct Followed {
    by_name: HashMap<ServiceName, Entry>,
    /// Counts the requests.
    clock: u64,
}

#[derive(Debug, Default)]
struct Entry {
    used: u64,
    service: Following,
}

/// What came of following a service: for all requests that wait for it.
type Following = Arc<OnceCell<Result<Arc<Service>>>>;

impl Services {
    pub(crate) fn new(discovery: Discovery, config: ResolveConfig) -> Self {
        Self {
            discovery,
            config,
            followed: Mutex::default(),
        }
    }

    /// The service of this name.
    pub(crate) async fn of(
        self: &Arc<Self>,
        name: &ServiceName,
    ) -> Result<Arc<Service>, CallError> {
        let following = self.entry(name);
        if let Some(Ok(service)) = following.get() {
            return Ok(service.clone());
        }
        // In a task, so that a request that is given up leaves to the next ones what it has begun.
        let task = tokio::spawn(self.clone().follow(name.clone(), following));
        let refused = |error: BoxError| {
            let text = format!("service {name} cannot be followed");
            CallError::new(CallErrorKind::Registry, text).because(error)
        };
        match task.await {
            Ok(followed) => followed.map_err(|error| refused(error.into())),
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(ended) => Err(refused(ended.into())),
            },
        }
    }

    async fn follow(self: Arc<Self>, name: ServiceName, into: Following) -> Result<Arc<Service>> {
        let follow = || async {
            let selector = (self.config.choose)(&name);
            let balancer = self.discovery.balancer(name.clone(), selector).await?;
            let budget = self.config.budget();
            Ok(Arc::new(Service { balancer, budget }))
        };
        let followed = into.get_or_init(follow).await;
        if followed.is_err() {
            self.forget(&name, &into);
        }
        followed.clone()
    }

    /// Leaves it to the next request to try again.
    fn forget(&self, name: &ServiceName, failed: &Following) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = followed.by_name.get(name);
        if entry.is_some_and(|entry| Arc::ptr_eq(&entry.service, failed)) {
            followed.by_name.remove(name);
        }
    }

    fn entry(&self, name: &ServiceName) -> Following {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Followed { by_name, clock } = &mut *followed;
        *clock += 1;
        if by_name.len() >= self.config.services && !by_name.contains_key(name) {
            let oldest = by_name.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                by_name.remove(&oldest);
            }
        }
        let entry = by_name.entry(name.clone()).or_default();
        entry.used = *clock;
        entry.service.clone()
    }
}

/// The service that a URL names by its host.
pub(crate) fn name_of(url: &Uri) -> Result<ServiceName, CallError> {
    let refused = |why: &str| {
        // A password in the URL is nobody's business.
        let host = url.host().unwrap_or_default();
        let text = format!(
            "the URL of the request (host {host:?}) {why}; write it as in http://greeter/path"
        );
        CallError::new(CallErrorKind::Invalid, text)
    };
    if !matches!(url.scheme_str(), None | Some("http" | "https")) {
        return Err(refused("is not of HTTP"));
    }
    let Some(authority) = url.authority() else {
        return Err(refused("names no service"));
    };
    if authority.as_str().contains('@') {
        return Err(refused("has a user, who would be told to nobody"));
    }
    // What is no number as well.
    if authority.as_str() != authority.host() {
        return Err(refused(
            "has a port, which is for each instance to say in the registry",
        ));
    }
    if authority.host().parse::<Ipv4Addr>().is_ok() {
        return Err(refused("names no service but an address"));
    }
    ServiceName::try_from(authority.host())
        .map_err(|error| refused("names no service: its host is no name of one").because(error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use registry_core::{Built, Candidate, Context, ErrorKind, Memory, Random, Selector, Stage};
    use tokio::time::timeout;

    use super::*;

    fn services(most: usize) -> Arc<Services> {
        let discovery = Discovery::new(Arc::new(Memory::new()));
        let config = ResolveConfig::default().services(most);
        Arc::new(Services::new(discovery, config))
    }

    #[test]
    fn the_host_names_the_service() {
        for (url, name) in [
            ("http://greeter/path", "greeter"),
            ("https://go.micro.srv.Greeter", "go.micro.srv.Greeter"),
        ] {
            assert_eq!(name_of(&url.parse().unwrap()).unwrap().as_str(), name);
        }
        for url in [
            "/path",
            "http://greeter:8080/",
            "http://greeter:99999/",
            "ftp://greeter/",
            "http://user:secret@greeter/",
            "http://[::1]/",
            "http://127.0.0.1/",
            "http://-/",
        ] {
            let error = name_of(&url.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), CallErrorKind::Invalid);
            assert!(error.to_string().contains("http://greeter/path"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            assert_eq!(error.to_string().contains("a user"), url.contains('@'));
        }
    }

    #[tokio::test]
    async fn of_too_many_services_the_one_not_called_for_longest_is_left() {
        let services = services(2);
        let [a, b, c] = ["a", "b", "c"].map(|name| ServiceName::try_from(name).unwrap());
        let first = services.of(&a).await.unwrap();
        let second = services.of(&b).await.unwrap();
        services.of(&a).await.unwrap();
        services.of(&c).await.unwrap();
        assert!(Arc::ptr_eq(&first, &services.of(&a).await.unwrap()));
        assert!(!Arc::ptr_eq(&second, &services.of(&b).await.unwrap()));
    }

    /// Services with this selector, and how often one was made.
    fn choosing<S: Selector>(
        memory: Memory,
        choose: impl Fn(usize) -> S + Send + Sync + 'static,
    ) -> (Arc<Services>, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let config = ResolveConfig::default();
        let config = config.selector(move |_| choose(count.fetch_add(1, Ordering::Relaxed)));
        let discovery = Discovery::new(Arc::new(memory));
        (Arc::new(Services::new(discovery, config)), made)
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_followed_though_each_of_its_requests_is_given_up() {
        let memory = Memory::new();
        memory.set_outage(true);
        let (services, made) = choosing(memory, |_| Random::default());
        let name = ServiceName::try_from("a").unwrap();
        let hurried = || timeout(Duration::from_secs(1), services.of(&name));
        let mut tries = 0;
        while hurried().await.is_err() {
            tries += 1;
            assert!(tries < 10);
        }
        assert!(tries > 0);
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn many_first_requests_follow_a_service_once_also_where_a_selector_panics() {
        let (services, made) = choosing(Memory::new(), |made| {
            assert!(made > 0, "on purpose");
            Random::default()
        });
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let services = services.clone();
            let name = ServiceName::try_from("a").unwrap();
            requests.spawn(async move { services.of(&name).await.map(drop) });
        }
        let mut results = Vec::new();
        while let Some(result) = requests.join_next().await {
            results.push(result);
        }
        let panicked = results.iter().filter(|result| result.is_err()).count();
        assert_eq!(panicked, 1);
        assert!(results.iter().flatten().all(Result::is_ok));
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    struct Refused;

    impl Selector for Refused {
        fn build(&self, _candidates: &[Candidate<'_>], _context: &Context<'_>) -> Built {
            unreachable!("it was refused")
        }

        fn validate(&self, _outer: Stage) -> Result<()> {
            Err(registry_core::Error::new(ErrorKind::Config, "on purpose"))
        }
    }

    #[tokio::test]
    async fn what_cannot_be_followed_is_told_to_all_that_wait_and_tried_again_for_the_next() {
        let (services, made) = choosing(Memory::new(), |made| match made {
            0 => Box::new(Refused) as Box<dyn Selector>,
            _ => Box::new(Random::default()),
        });
        let name = ServiceName::try_from("a").unwrap();
        let (first, second) = tokio::join!(services.of(&name), services.of(&name));
        for error in [first.unwrap_err(), second.unwrap_err()] {
            assert_eq!(error.kind(), CallErrorKind::Registry);
            assert!(format!("{error:?}").contains("on purpose"), "{error:?}");
        }
        services.of(&name).await.unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }
}
