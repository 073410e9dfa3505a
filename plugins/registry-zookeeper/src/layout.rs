//! Where records stand, and which form they have.

use registry_core::{
    Error, ErrorKind, Instance, InstanceId, InstanceKey, Result, Scope, ServiceName,
};

use crate::codec;
use crate::config::{Layout, ZooKeeperConfig};

/// Most bytes of a record: the server's `jute.maxbuffer` (1 MiB less one byte, for a whole request) less what the
/// longest path and the rest of a request take.
pub const MAX_RECORD: usize = 0xf_ffff - 4096;

/// The paths and the form of records of one registry.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) root: String,
    layout: Layout,
}

impl Places {
    pub(crate) fn new(config: &ZooKeeperConfig) -> Self {
        Self {
            root: config.root(),
            layout: config.layout,
        }
    }

    pub(crate) fn service(&self, service: &ServiceName) -> String {
        format!("{}/{service}", self.root)
    }

    pub(crate) fn record(&self, key: &InstanceKey) -> String {
        format!("{}/{}", self.service(&key.service), node(&key.id))
    }

    /// The path above everything in this scope.
    pub(crate) fn scope(&self, scope: &Scope) -> String {
        match scope {
            Scope::Service(service) => self.service(service),
            _ => self.root.clone(),
        }
    }

    /// The service's segment and the node's, of the path of a record.
    pub(crate) fn split<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let inside = path.strip_prefix(&*self.root)?.strip_prefix('/')?;
        inside
            .split_once('/')
            .filter(|(_, node)| !node.contains('/'))
    }

    /// The record of an instance.
    ///
    /// # Errors
    /// `Invalid` when it is longer than [`MAX_RECORD`].
    pub(crate) fn encode(&self, instance: &Instance) -> Result<Vec<u8>> {
        let record = match self.layout {
            Layout::GoMicro => registry_go_micro::encode(instance),
            Layout::Curator => codec::encode(instance),
        };
        if record.len() > MAX_RECORD {
            let why = format!(
                "a record of {} bytes is too long; ZooKeeper takes {MAX_RECORD}",
                record.len()
            );
            return Err(Error::new(ErrorKind::Invalid, why).with("instance", instance.key()));
        }
        Ok(record.into_bytes())
    }

    /// The instance that stands at this path.
    ///
    /// # Errors
    /// `Protocol` when it is none, or one of another service.
    pub(crate) fn decode(&self, path: &str, data: &[u8]) -> Result<Instance> {
        let instance = match self.layout {
            Layout::GoMicro => registry_go_micro::decode(data),
            Layout::Curator => codec::decode(data),
        }?;
        match self.split(path) {
            Some((service, _)) if service == instance.service.as_str() => Ok(instance),
            _ => Err(Error::new(
                ErrorKind::Protocol,
                "a record does not belong to the service that it stands under",
            )
            .with("service", &instance.service)),
        }
    }
}

/// Whether a path cannot hold this character: ZooKeeper refuses control characters, Java's surrogates (whatever is
/// beyond U+FFFF), the private use area and the specials.
pub(crate) fn is_refused(c: char) -> bool {
    matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{d7ff}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// The node of an id: what a path cannot hold, and `%`, is percent-encoded. The record has the true id.
fn node(id: &InstanceId) -> String {
    let mut node = String::with_capacity(id.as_str().len());
    for c in id.as_str().chars() {
        if c == '%' || is_refused(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                node.push_str(&format!("%{byte:02X}"));
            }
        } else {
            node.push(c);
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn places() -> Places {
        Places::new(&ZooKeeperConfig::default())
    }

    fn key(id: &str) -> InstanceKey {
        Instance::new("web", "10.0.0.1:80")
            .id(id)
            .build()
            .unwrap()
            .key()
    }

    #[test]
    fn a_path_holds_every_id_and_tells_them_apart() {
        let ids = [
            "a",
            "a b",
            "50%",
            "50%25",
            "🦀",
            "%F0%9F%A6%80",
            "Ω日本",
            "\u{e000}",
            "\u{fffd}",
            "a\\b",
            "...",
        ];
        let paths: HashSet<_> = ids.iter().map(|id| places().record(&key(id))).collect();
        assert_eq!(paths.len(), ids.len());
        for path in &paths {
            assert!(!path.chars().any(is_refused), "{path}");
            assert_eq!(places().split(path).unwrap().0, "web");
        }
        for node in ["%F0%9F%A6%80", "%EE%80%80", "%EF%BF%BD", "Ω日本"] {
            assert!(paths.contains(&format!("/micro-registry/web/{node}")));
        }
    }

    #[test]
    fn only_records_have_two_parts() {
        for path in [
            "/micro-registry",
            "/micro-registry/web",
            "/micro-registry/web/a/b",
            "/micro-registryx/a",
        ] {
            assert_eq!(places().split(path), None, "{path}");
        }
        assert_eq!(places().split("/micro-registry/web/a"), Some(("web", "a")));
    }

    #[test]
    fn a_record_elsewhere_is_none() {
        let record = places()
            .encode(&Instance::new("web", "10.0.0.1:80").id("a").build().unwrap())
            .unwrap();
        assert!(
            places()
                .decode("/micro-registry/web/other", &record)
                .is_ok()
        );
        let error = places()
            .decode("/micro-registry/api/a", &record)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
}
