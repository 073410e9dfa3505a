//! Keys and values.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::KeyValue;
use registry_core::{
    Error, ErrorKind, Instance, InstanceId, InstanceKey, Result, Scope, ServiceName,
};

/// How many records that were skipped are remembered, so that each is counted and logged once.
const REMEMBERED: usize = 1000;

/// A range of keys, its end excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

/// Turns instances into keys and values below one prefix, and back.
#[derive(Debug)]
pub(crate) struct Codec {
    /// With slashes at both ends.
    prefix: String,
    skipped: AtomicU64,
    /// The revision of each record that was skipped.
    known: Mutex<HashMap<Vec<u8>, i64>>,
}

impl Codec {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("/{prefix}/"),
            skipped: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The key of an instance. Neither part has a slash, so that go-micro has the same one.
    pub(crate) fn key(&self, key: &InstanceKey) -> Vec<u8> {
        format!("{}{}/{}", self.prefix, key.service, key.id).into_bytes()
    }

    pub(crate) fn range(&self, scope: &Scope) -> Range {
        let mut start = self.prefix.clone().into_bytes();
        if let Scope::Service(service) = scope {
            start.extend_from_slice(service.as_str().as_bytes());
            start.push(b'/');
        }
        let mut end = start.clone();
        if let Some(last) = end.last_mut() {
            // It is a slash: "web/" ends before "web0", and "web2/" is not within.
            *last += 1;
        }
        Range { start, end }
    }

    /// Whose key this is; `None` for keys of others.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<InstanceKey> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (service, id) = rest.split_once('/')?;
        Some(InstanceKey {
            service: ServiceName::try_from(service).ok()?,
            id: InstanceId::try_from(id).ok()?,
        })
    }

    /// The instance of a record, or `None` for one that is skipped.
    pub(crate) fn decode(&self, record: &KeyValue) -> Option<Arc<Instance>> {
        match self.read(record.key(), record.value()) {
            Ok(instance) => Some(Arc::new(instance)),
            Err(error) => {
                self.skip(record, &error);
                None
            }
        }
    }

    fn read(&self, key: &[u8], value: &[u8]) -> Result<Instance> {
        let instance = registry_go_micro::decode(value)?;
        // A removal has the key alone. Records of micro v3, which has domains between prefix and service, end here too.
        if self.owner(key).is_none_or(|owner| !instance.is(&owner)) {
            let why = "a record names another instance than its key";
            return Err(Error::new(ErrorKind::Protocol, why).with("instance", instance.key()));
        }
        Ok(instance)
    }

    fn skip(&self, record: &KeyValue, error: &Error) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let revision = record.mod_revision();
        if known.insert(record.key().to_vec(), revision) != Some(revision) {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            let key = String::from_utf8_lossy(record.key());
            tracing::warn!(%key, ?error, "a record is skipped");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(service: &str, id: &str) -> InstanceKey {
        InstanceKey {
            service: service.try_into().unwrap(),
            id: id.try_into().unwrap(),
        }
    }

    #[test]
    fn keys_are_those_of_go_micro() {
        let codec = Codec::new("micro/registry");
        let greeter = key("my-greeter", "greeter-1");
        assert_eq!(codec.key(&greeter), b"/micro/registry/my-greeter/greeter-1");
        assert_eq!(codec.owner(&codec.key(&greeter)), Some(greeter));
    }

    #[test]
    fn a_range_holds_its_service_and_no_other() {
        let codec = Codec::new("p");
        let web = codec.range(&Scope::Service("web".try_into().unwrap()));
        let holds = |service, id| {
            let key = codec.key(&key(service, id));
            key >= web.start && key < web.end
        };
        assert!(holds("web", "a") && holds("web", "\u{10ffff}") && holds("web", "!"));
        assert!(!holds("web2", "a") && !holds("web-x", "a") && !holds("we", "a"));
        assert_eq!(codec.range(&Scope::All).start, b"/p/");
        assert_eq!(codec.range(&Scope::All).end, b"/p0");
    }

    #[test]
    fn a_record_belongs_to_its_key() {
        let codec = Codec::new("p");
        let record = br#"{"name":"my/web","nodes":[{"id":"a/1","address":"h:1"}]}"#;
        assert!(codec.read(b"/p/my-web/a-1", record).is_ok());
        for key in [
            "/p/web/a-1",
            "/p/my-web/a",
            "/p/micro/my-web/a-1",
            "/q/my-web/a-1",
            "/p/my-web/",
        ] {
            let error = codec.read(key.as_bytes(), record).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{key}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(key in prop::collection::vec(any::<u8>(), 0..60), value in any::<Vec<u8>>()) {
            let codec = Codec::new("p");
            let _ = codec.read(&key, &value);
            let _ = codec.owner(&[b"/p/", &*key].concat());
        }
    }
}
