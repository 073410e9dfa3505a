//! What can be configured, and how a URL says it.

use std::time::Duration;

use registry_core::{Error, ErrorKind, RegistryUrl, Result, TlsConfig};
use secrecy::SecretString;

/// etcd's port for clients.
const PORT: u16 = 2379;

/// Configuration of [`Etcd`](crate::Etcd): from a URL, or from `default()` and setters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// Members of one cluster, each `host:port`. None named means `127.0.0.1:2379`. Default: none.
    pub endpoints: Vec<String>,
    /// The user to authenticate as, and the password. Default: none.
    pub user: Option<(String, SecretString)>,
    /// The key that all keys are below, without slashes at its ends. Default: `micro/registry`, as go-micro has it.
    pub prefix: String,
    /// The TTL of a registration that wishes for none; etcd counts in whole seconds. Default: 15 s.
    pub ttl: Duration,
    /// How long one call to one endpoint, or a connection to it, may take. Default: 2 s.
    pub timeout: Duration,
    /// How to speak TLS; `None`: plain text. Default: `None`.
    pub tls: Option<TlsConfig>,
}

impl EtcdConfig {
    /// Adds a member of the cluster, `host:port`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Sets the user to authenticate as.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<SecretString>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets the key that all keys are below.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the TTL of a registration that wishes for none.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long one call to one endpoint may take.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Speaks TLS.
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Refuses what cannot work, with `Config`, and fills in the endpoint where none is named.
    pub(crate) fn checked(mut self) -> Result<Self> {
        if self.endpoints.is_empty() {
            self.endpoints.push(format!("127.0.0.1:{PORT}"));
        }
        for (endpoint, number) in self.endpoints.iter().zip(1..) {
            let port = endpoint.rsplit_once(':').map(|(_, port)| port.parse());
            let host = endpoint.bytes().all(|b| b.is_ascii_graphic());
            if !host
                || endpoint.contains(['/', '@', '%'])
                || !matches!(port, Some(Ok(1..=u16::MAX)))
            {
                return Err(config(&format!(
                    "endpoint {number} is refused; write host:port or [address]:port, without a scheme and a scope"
                )));
            }
        }
        if self.user.as_ref().is_some_and(|(name, _)| name.is_empty()) {
            return Err(config("a password without a user is refused"));
        }
        let segments = self.prefix.split('/');
        if segments
            .clone()
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(config(
                "the prefix is refused; write segments with '/' between them, such as micro/registry",
            ));
        }
        if self.ttl.is_zero() || self.timeout.is_zero() {
            return Err(config("a ttl and a timeout are more than 0"));
        }
        Ok(self)
    }
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            user: None,
            prefix: "micro/registry".to_owned(),
            ttl: Duration::from_secs(15),
            timeout: Duration::from_secs(2),
            tls: None,
        }
    }
}

impl TryFrom<&RegistryUrl> for EtcdConfig {
    type Error = Error;

    /// Reads `etcd://user:password@a:2379,b:2379/prefix?ttl=15s&timeout=2s&tls&ca=FILE&cert=FILE&key=FILE`; every part
    /// may be left out.
    fn try_from(url: &RegistryUrl) -> Result<Self> {
        let mut this = Self {
            endpoints: url.hosts().map(endpoint).collect(),
            ..Self::default()
        };
        if url.user().is_some() || url.password().is_some() {
            let password = url.password().cloned().unwrap_or_default();
            this.user = Some((url.user().unwrap_or_default().to_owned(), password));
        }
        if !url.path().is_empty() {
            url.path().clone_into(&mut this.prefix);
        }
        let mut options = url.options();
        if let Some(ttl) = options.duration("ttl")? {
            this.ttl = ttl;
        }
        if let Some(timeout) = options.duration("timeout")? {
            this.timeout = timeout;
        }
        this.tls = TlsConfig::from_options(&mut options)?;
        options.finish()?;
        this.checked()
    }
}

fn endpoint((host, port): (&str, Option<u16>)) -> String {
    let port = port.unwrap_or(PORT);
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn config(message: &str) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(url: &str) -> Result<EtcdConfig> {
        EtcdConfig::try_from(&url.parse::<RegistryUrl>()?)
    }

    #[test]
    fn a_url_sets_every_field() {
        let plain = read("etcd://").unwrap();
        assert_eq!(plain.endpoints, ["127.0.0.1:2379"]);
        assert_eq!(plain.prefix, "micro/registry");
        assert!(plain.user.is_none() && plain.tls.is_none());
        let full = read(
            "etcd://root:p%40ss@a:1,[::1],b/my/prefix/?ttl=30s&timeout=500ms&ca=ca.pem&cert=c&key=k",
        )
        .unwrap();
        assert_eq!(full.endpoints, ["a:1", "[::1]:2379", "b:2379"]);
        assert_eq!(full.prefix, "my/prefix");
        let (name, password) = full.user.clone().unwrap();
        assert_eq!((&*name, password.expose_secret()), ("root", "p@ss"));
        assert_eq!(full.ttl, Duration::from_secs(30));
        assert_eq!(full.timeout, Duration::from_millis(500));
        let tls = TlsConfig::default().ca("ca.pem").identity("c", "k");
        assert_eq!(full.tls, Some(tls));
        assert!(!format!("{full:?}").contains("p@ss"), "{full:?}");
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (url, says) in [
            ("etcd://[fe80::1%251]:1", "endpoint 1 is refused"),
            ("etcd://a%2Fsecret:1", "endpoint 1 is refused"),
            ("etcd://:secret@a", "without a user"),
            ("etcd://a/b//c", "the prefix is refused"),
            ("etcd://a/b/../c", "the prefix is refused"),
            ("etcd://a?timeout=0s", "\"timeout\" is refused"),
            (
                "etcd://a?lease=1",
                "its options: ca, cert, key, timeout, tls, ttl",
            ),
            ("etcd://a?tls=false&ca=x", "contradicts"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for endpoint in ["http://a:1", "a", "a:0", ":1x", "a b:1"] {
            let config = EtcdConfig::default().endpoint(endpoint);
            assert!(config.checked().is_err(), "{endpoint}");
        }
        let config = EtcdConfig::default();
        assert!(config.clone().ttl(Duration::ZERO).checked().is_err());
        assert!(config.timeout(Duration::ZERO).checked().is_err());
    }
}
