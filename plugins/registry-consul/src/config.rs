//! What can be configured, and how a URL says it.

use std::time::Duration;

use registry_core::{Error, ErrorKind, Label, RegistryUrl, Result, TlsConfig};
use secrecy::SecretString;

/// Configuration of [`Consul`](crate::Consul): from a URL, or from `default()` and setters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsulConfig {
    /// The agents, as `host:port`. The first one holds the registrations of this process; reads go to the next one
    /// when an agent does not answer. Default: `127.0.0.1:8500`.
    pub agents: Vec<String>,
    /// TLS to the agents. Default: none.
    pub tls: Option<TlsConfig>,
    /// The ACL token, sent in the header `X-Consul-Token`. Default: none.
    pub token: Option<SecretString>,
    /// The data centre to read from. Default: the agent's own.
    pub datacenter: Option<Label>,
    /// Sorts lookups by the distance from this node; `_agent` is the agent's own. Default: no order.
    pub near: Option<Label>,
    /// Lets servers answer reads that are not the leader, and so without a leader too. Default: `false`.
    pub stale: bool,
    /// Tags that every registration carries beside its own, for DNS and other clients. Default: none.
    pub tags: Vec<String>,
    /// What is written beside the plain fields. Default: [`Format::Plain`].
    pub format: Format,
    /// How long an answer may take. Consul holds a request for 7 s while it has no leader. Default: 8 s.
    pub timeout: Duration,
    /// The most connections to the agents, which accept 200 from one address, whichever process they come from. Those
    /// beyond 16 follow one service each; services beyond share two. Default: 48.
    pub connections: usize,
}

/// What is written beside the plain fields. Both forms are always read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Nothing.
    #[default]
    Plain,
    /// The compressed tags that programs on go-micro read: metadata, endpoints and version.
    GoMicro,
}

/// Connections for everything but the watches of one service: 12 calls at a time, and the shared watch.
pub(crate) const BASE_CONNECTIONS: usize = 16;

impl ConsulConfig {
    /// Replaces the agents.
    pub fn agents<T: Into<String>>(mut self, agents: impl IntoIterator<Item = T>) -> Self {
        self.agents = agents.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how TLS is spoken.
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the ACL token.
    pub fn token(mut self, token: impl Into<SecretString>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets the data centre to read from.
    pub fn datacenter(mut self, datacenter: Label) -> Self {
        self.datacenter = Some(datacenter);
        self
    }

    /// Sorts lookups by the distance from this node.
    pub fn near(mut self, node: Label) -> Self {
        self.near = Some(node);
        self
    }

    /// Sets whether servers that are not the leader may answer reads.
    pub fn stale(mut self, stale: bool) -> Self {
        self.stale = stale;
        self
    }

    /// Adds a tag to every registration.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Sets what is written beside the plain fields.
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets how long an answer may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the most connections.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Refuses what cannot work, with `Config`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.agents.is_empty() {
            return Err(config("no agent is named; write host:port"));
        }
        if self.timeout.is_zero() {
            return Err(config("a timeout of 0 is refused; allowed: more than 0"));
        }
        if self.connections <= BASE_CONNECTIONS {
            return Err(config(
                "the option \"connections\" is refused; allowed: more than 16",
            ));
        }
        let ours = |tag: &&String| {
            crate::codec::is_reserved(tag) || tag.is_empty() || tag.contains(char::is_control)
        };
        if self.tags.iter().any(|tag| ours(&tag)) {
            return Err(config(
                "a tag is refused; allowed: text without control characters that does not begin as one of the tags \
                 that hold fields of an instance",
            ));
        }
        Ok(())
    }
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            agents: vec!["127.0.0.1:8500".to_owned()],
            tls: None,
            token: None,
            datacenter: None,
            near: None,
            stale: false,
            tags: Vec::new(),
            format: Format::Plain,
            timeout: Duration::from_secs(8),
            connections: 48,
        }
    }
}

impl TryFrom<&RegistryUrl> for ConsulConfig {
    type Error = Error;

    /// Reads `consul://host:8500,other:8500?token=…`; every part may be left out.
    fn try_from(url: &RegistryUrl) -> Result<Self> {
        if url.user().is_some() || url.password().is_some() {
            return Err(config(
                "consul:// takes no user and no password; give the ACL token as the option \"token\"",
            ));
        }
        if !url.path().is_empty() {
            return Err(config("consul:// takes no path; write consul://host:8500"));
        }
        let mut this = Self::default();
        if url.hosts().len() > 0 {
            let agent = |(host, port): (&str, Option<u16>)| {
                let port = port.unwrap_or(8500);
                match host.contains(':') {
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                }
            };
            this.agents = url.hosts().map(agent).collect();
        }
        let mut options = url.options();
        let label = "1 to 128 bytes without control characters";
        this.tls = TlsConfig::from_options(&mut options)?;
        this.token = options.secret("token");
        this.datacenter = options.parse("datacenter", label)?;
        this.near = options.parse("near", label)?;
        this.stale = options.flag("stale")?.unwrap_or_default();
        if let Some(tags) = options.text("tag") {
            this.tags = tags.split(',').map(str::to_owned).collect();
        }
        this.format = match options.text("format") {
            None | Some("plain") => Format::Plain,
            Some("go-micro") => Format::GoMicro,
            Some(_) => {
                return Err(config(
                    "the option \"format\" is refused; allowed: plain, go-micro",
                ));
            }
        };
        if let Some(timeout) = options.duration("timeout")? {
            this.timeout = timeout;
        }
        if let Some(connections) = options.parse("connections", "a whole number over 16")? {
            this.connections = connections;
        }
        options.finish()?;
        this.check()?;
        Ok(this)
    }
}

fn config(why: &str) -> Error {
    Error::new(ErrorKind::Config, why)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(url: &str) -> Result<ConsulConfig> {
        ConsulConfig::try_from(&url.parse()?)
    }

    #[test]
    fn every_part_of_a_url_is_read() {
        let config = read(
            "consul://a:1,[::1],b?token=t&datacenter=dc2&near=_agent&stale&tag=x,y&format=go-micro&timeout=2s\
             &connections=20&ca=c.pem",
        )
        .unwrap();
        assert_eq!(config.agents, ["a:1", "[::1]:8500", "b:8500"]);
        assert_eq!(config.token.unwrap().expose_secret(), "t");
        assert_eq!(config.datacenter.unwrap().as_str(), "dc2");
        assert_eq!(config.near.unwrap().as_str(), "_agent");
        assert!(config.stale && config.tls.is_some());
        assert_eq!(config.tags, ["x", "y"]);
        assert_eq!(config.format, Format::GoMicro);
        assert_eq!(config.timeout, Duration::from_secs(2));
        assert_eq!(config.connections, 20);
        assert_eq!(read("consul://").unwrap().agents, ["127.0.0.1:8500"]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_and_without_the_secret() {
        for (url, named) in [
            ("consul://u:hunter2@h", "token"),
            ("consul://h/path", "path"),
            ("consul://h?tokn=hunter2", "tokn"),
            ("consul://h?format=hunter2", "format"),
            ("consul://h?tag=version=hunter2", "tag"),
            ("consul://h?tag=", "tag"),
            ("consul://h?connections=16", "connections"),
            ("consul://h?timeout=0s", "timeout"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(named), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let config = read("consul://h?token=hunter2").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
