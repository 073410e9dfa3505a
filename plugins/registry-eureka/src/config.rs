//! What can be configured, and how a URL says it.

use std::time::Duration;

use registry_core::{Error, ErrorKind, RegistryUrl, Result, TlsConfig};
use secrecy::SecretString;

/// The longest lease, in seconds: the server counts it in milliseconds with 32 bits, and a longer one is over at once.
pub(crate) const LONGEST_LEASE: u64 = 2_147_483;

/// A server forgets what changed after 3 minutes; a poll that came later would miss it.
pub(crate) const LONGEST_POLL: Duration = Duration::from_secs(120);

/// Configuration of [`Eureka`](crate::Eureka): from a URL, or from `default()` and setters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EurekaConfig {
    /// The servers, as `host:port`. The first one is used until it fails, then the next one. Default:
    /// `127.0.0.1:8761`.
    pub servers: Vec<String>,
    /// The path under which they serve, without slashes at its ends. Default: `eureka`.
    pub path: String,
    /// User and password, sent by HTTP basic authentication. Default: none.
    pub login: Option<(String, SecretString)>,
    /// TLS to the servers. Default: none.
    pub tls: Option<TlsConfig>,
    /// Remote regions whose instances are read too, as the servers name them. Default: none.
    pub regions: Vec<String>,
    /// The lease of a registration that wishes for no TTL, in whole seconds. Default: 90 s.
    pub ttl: Duration,
    /// How often the watches ask for changes, less up to a tenth at random; at most 120 s. Default: 30 s.
    pub poll: Duration,
    /// Asks for changes and not for everything each time. Default: `true`.
    pub delta: bool,
    /// How long a server may take to answer; twice as long for the whole registry. Default: 4 s.
    pub timeout: Duration,
    /// What is known of the servers; it decides the windows that [`Eureka`](crate::Eureka) declares, and nothing else.
    pub server: ServerConfig,
}

/// How the servers are configured, which their API does not tell. The defaults are those of Eureka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// How old the lists may be that the server hands out: its `response-cache-update-interval-ms`, and zero where it
    /// has `use-read-only-response-cache=false`. Default: 30 s.
    pub cache: Duration,
    /// How often the server removes what has expired: its `eviction-interval-timer-in-ms`. Default: 60 s.
    pub eviction: Duration,
    /// Whether the server keeps what has expired while many are silent: its `enable-self-preservation`. Then nobody
    /// goes by himself for certain. Default: `true`.
    pub self_preservation: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            cache: Duration::from_secs(30),
            eviction: Duration::from_secs(60),
            self_preservation: true,
        }
    }
}

impl ServerConfig {
    /// Sets how old the lists may be that the server hands out.
    pub const fn cache(mut self, cache: Duration) -> Self {
        self.cache = cache;
        self
    }

    /// Sets how often the server removes what has expired.
    pub const fn eviction(mut self, eviction: Duration) -> Self {
        self.eviction = eviction;
        self
    }

    /// Sets whether the server keeps what has expired while many are silent.
    pub const fn self_preservation(mut self, self_preservation: bool) -> Self {
        self.self_preservation = self_preservation;
        self
    }
}

impl EurekaConfig {
    /// Replaces the servers.
    pub fn servers<T: Into<String>>(mut self, servers: impl IntoIterator<Item = T>) -> Self {
        self.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the path under which they serve.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets user and password.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<SecretString>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// Sets how TLS is spoken.
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Adds a remote region to read.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.regions.push(region.into());
        self
    }

    /// Sets the lease of a registration that wishes for no TTL.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how often the watches ask for changes.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Sets whether changes are asked for and not everything each time.
    pub fn delta(mut self, delta: bool) -> Self {
        self.delta = delta;
        self
    }

    /// Sets how long a server may take to answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Says how the servers are configured.
    pub fn server(mut self, server: ServerConfig) -> Self {
        self.server = server;
        self
    }

    /// Refuses what cannot work, with `Config`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.servers.is_empty() {
            return Err(config("no server is named; write host:port"));
        }
        let control = |text: &String| text.is_empty() || text.contains(char::is_control);
        if self.servers.iter().any(|server| {
            control(server) || server.contains(['/', '?', '#', '@', ' ']) || !server.contains(':')
        }) {
            return Err(config("a server is refused; write host:port"));
        }
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        if !self.path.split('/').all(plain) {
            return Err(config(
                "the path is refused; write it without slashes at its ends and without '.' and '..', such as eureka",
            ));
        }
        if self
            .regions
            .iter()
            .any(|region| control(region) || region.contains(','))
        {
            return Err(config(
                "the option \"regions\" is refused; allowed: names separated by commas",
            ));
        }
        if self.ttl.subsec_nanos() != 0 || !(1..=LONGEST_LEASE).contains(&self.ttl.as_secs()) {
            return Err(config(format!(
                "the option \"ttl\" is refused; allowed: whole seconds from 1s to {LONGEST_LEASE}s"
            )));
        }
        if self.poll.is_zero() || self.poll > LONGEST_POLL {
            return Err(config(format!(
                "the option \"poll\" is refused; allowed: more than 0, at most {LONGEST_POLL:?}"
            )));
        }
        if self.timeout.is_zero() {
            return Err(config("a timeout of 0 is refused; allowed: more than 0"));
        }
        Ok(())
    }
}

impl Default for EurekaConfig {
    fn default() -> Self {
        Self {
            servers: vec!["127.0.0.1:8761".to_owned()],
            path: "eureka".to_owned(),
            login: None,
            tls: None,
            regions: Vec::new(),
            ttl: Duration::from_secs(90),
            poll: Duration::from_secs(30),
            delta: true,
            timeout: Duration::from_secs(4),
            server: ServerConfig::default(),
        }
    }
}

impl TryFrom<&RegistryUrl> for EurekaConfig {
    type Error = Error;

    /// Reads `eureka://user:password@host:8761,other:8761/eureka?poll=30s`; every part may be left out.
    fn try_from(url: &RegistryUrl) -> Result<Self> {
        let mut this = Self::default();
        if url.hosts().len() > 0 {
            let server = |(host, port): (&str, Option<u16>)| {
                let port = port.unwrap_or(8761);
                match host.contains(':') {
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                }
            };
            this.servers = url.hosts().map(server).collect();
        }
        if !url.path().is_empty() {
            this.path = url.path().to_owned();
        }
        this.login = match (url.user(), url.password()) {
            (Some(user), password) => {
                Some((user.to_owned(), password.cloned().unwrap_or_default()))
            }
            (None, _) => None,
        };
        let mut options = url.options();
        this.tls = TlsConfig::from_options(&mut options)?;
        if let Some(regions) = options.text("regions") {
            this.regions = regions.split(',').map(str::to_owned).collect();
        }
        if let Some(ttl) = options.duration("ttl")? {
            this.ttl = ttl;
        }
        if let Some(poll) = options.duration("poll")? {
            this.poll = poll;
        }
        if let Some(delta) = options.flag("delta")? {
            this.delta = delta;
        }
        if let Some(timeout) = options.duration("timeout")? {
            this.timeout = timeout;
        }
        match options.text("cache") {
            None => {}
            Some("off") => this.server.cache = Duration::ZERO,
            Some(_) => {
                let cache = options.duration("cache").map_err(|_| {
                    config("the option \"cache\" is refused; allowed: off, or a time such as 30s")
                })?;
                this.server.cache = cache.unwrap_or_default();
            }
        }
        if let Some(eviction) = options.duration("eviction")? {
            this.server.eviction = eviction;
        }
        if let Some(self_preservation) = options.flag("self-preservation")? {
            this.server.self_preservation = self_preservation;
        }
        options.finish()?;
        this.check()?;
        Ok(this)
    }
}

fn config(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, why)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(url: &str) -> Result<EurekaConfig> {
        EurekaConfig::try_from(&url.parse()?)
    }

    #[test]
    fn every_part_of_a_url_is_read() {
        let config = read(
            "eureka://u:p%40@a:1,[::1],b/eureka/v2?regions=r1,r2&ttl=10s&poll=2s&delta=false&timeout=1s&cache=off\
             &eviction=5s&self-preservation=false&ca=c.pem",
        )
        .unwrap();
        assert_eq!(config.servers, ["a:1", "[::1]:8761", "b:8761"]);
        assert_eq!(config.path, "eureka/v2");
        let (user, password) = config.login.unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("u", "p@"));
        assert_eq!(config.regions, ["r1", "r2"]);
        assert_eq!((config.ttl.as_secs(), config.poll.as_secs()), (10, 2));
        assert!(!config.delta && config.tls.is_some());
        assert_eq!(config.timeout, Duration::from_secs(1));
        let server = ServerConfig::default()
            .cache(Duration::ZERO)
            .eviction(Duration::from_secs(5))
            .self_preservation(false);
        assert_eq!(config.server, server);
        let plain = read("eureka://").unwrap();
        assert_eq!(plain.servers, ["127.0.0.1:8761"]);
        assert_eq!(plain.path, "eureka");
        assert_eq!(
            read("eureka://h?cache=5s").unwrap().server.cache,
            Duration::from_secs(5)
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_and_without_the_secret() {
        for (url, named) in [
            ("eureka://h?pol=hunter2", "pol"),
            ("eureka://h?poll=121s", "120s"),
            ("eureka://h?ttl=1500ms", "whole seconds"),
            ("eureka://h?ttl=2147484s", "2147483s"),
            ("eureka://h?cache=hunter2", "off"),
            ("eureka://h?cache=0s", "off"),
            ("eureka://h?regions=a,,hunter2", "regions"),
            ("eureka://h/a/../hunter2", "path"),
            ("eureka://h?delta=hunter2", "delta"),
            ("eureka://h?timeout=0s", "timeout"),
            ("eureka://h?cert=hunter2", "key"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(named), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let config = read("eureka://u:hunter2@h").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let bad = EurekaConfig::default().servers(["h"]);
        assert!(bad.check().is_err());
    }
}
