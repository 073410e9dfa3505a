//! The services that are called.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use registry_core::{Balancer, Discovery, Result, RetryBudget, ServiceName};
use tokio::sync::OnceCell;

use crate::config::ResolveConfig;
use crate::error::{CallError, CallErrorKind};

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
    service: Arc<OnceCell<Arc<Service>>>,
}

impl Services {
    pub(crate) fn new(discovery: Discovery, config: ResolveConfig) -> Self {
        Self {
            discovery,
            config,
            followed: Mutex::default(),
        }
    }

    /// The service of this name.
    pub(crate) async fn of(&self, name: &ServiceName) -> Result<Arc<Service>, CallError> {
        let cell = self.entry(name);
        let follow = || async {
            let selector = (self.config.choose)(name);
            let balancer = self.discovery.balancer(name.clone(), selector).await?;
            let budget = self.config.budget();
            Ok(Arc::new(Service { balancer, budget }))
        };
        let service = cell.get_or_try_init(follow).await;
        service.cloned().map_err(|error: registry_core::Error| {
            let text = format!("service {name} cannot be followed: {error}");
            CallError::new(CallErrorKind::Registry, text).because(error)
        })
    }

    fn entry(&self, name: &ServiceName) -> Arc<OnceCell<Arc<Service>>> {
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
    let Some(authority) = url.authority() else {
        return Err(refused("names no service"));
    };
    if authority.as_str().contains('@') {
        return Err(refused("has a user, who would be told to nobody"));
    }
    if authority.port().is_some() {
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
    use registry_core::Memory;

    use super::*;

    fn services(most: usize) -> Services {
        let discovery = Discovery::new(Arc::new(Memory::new()));
        Services::new(discovery, ResolveConfig::default().services(most))
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
            "http://user:secret@greeter/",
            "http://[::1]/",
            "http://127.0.0.1/",
            "http://-/",
        ] {
            let error = name_of(&url.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), CallErrorKind::Invalid);
            assert!(error.to_string().contains("http://greeter/path"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
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
}
