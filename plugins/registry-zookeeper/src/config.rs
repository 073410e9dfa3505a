//! What can be configured, and how a URL says it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use registry_core::{Error, ErrorKind, RegistryUrl, Result, TlsConfig};
use secrecy::{ExposeSecret, SecretString};

/// The port of ZooKeeper.
const PORT: u16 = 2181;
/// Longest base, in bytes, so that a full record fits one request beside its path.
const MAX_BASE: usize = 1024;

/// Configuration of [`ZooKeeper`](crate::ZooKeeper): from a URL, or from `default()` and setters.
#[derive(Clone)]
#[non_exhaustive]
pub struct ZooKeeperConfig {
    /// The servers, each with its port; one is chosen at random and the others are tried when it does not answer.
    /// Default: `localhost:2181`.
    pub hosts: Vec<(String, u16)>,
    /// The session timeout to ask for. The server moves it into its own limits, 2 to 20 ticks unless they were changed:
    /// 4 to 40 s. Default: 10 s.
    pub session: Duration,
    /// The form of paths and records. Default: [`Layout::GoMicro`].
    pub layout: Layout,
    /// The path above the services, without slashes at its ends. Default: the layout's own, see [`Layout`].
    pub base: Option<String>,
    /// User and password of the scheme `digest`. Default: nobody.
    pub login: Option<(String, SecretString)>,
    /// Who may read and change what is created here. Default: [`Access::World`].
    pub access: Access,
    /// Speaks TLS; an authority must be named. Default: plain TCP.
    pub tls: Option<TlsConfig>,
}

/// The form of paths and records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// go-micro's JSON under `/micro-registry`.
    #[default]
    GoMicro,
    /// The JSON of Curator and Spring Cloud under `/services`.
    Curator,
}

/// Who may read and change what is created here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Everybody (`world:anyone`), as go-micro and Curator do it.
    #[default]
    World,
    /// Only those who come with the same login.
    Creator,
}

impl Layout {
    const fn base(self) -> &'static str {
        match self {
            Self::GoMicro => "micro-registry",
            Self::Curator => "services",
        }
    }
}

impl ZooKeeperConfig {
    /// Replaces the servers.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = (H, u16)>) -> Self {
        self.hosts = hosts
            .into_iter()
            .map(|(host, port)| (host.into(), port))
            .collect();
        self
    }

    /// Sets the session timeout to ask for.
    pub fn session(mut self, session: Duration) -> Self {
        self.session = session;
        self
    }

    /// Sets the form of paths and records.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets the path above the services.
    pub fn base(mut self, base: impl Into<String>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// Sets user and password.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<SecretString>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// Sets who may read and change what is created here.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Speaks TLS.
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The absolute path above the services.
    pub(crate) fn root(&self) -> String {
        format!("/{}", self.base.as_deref().unwrap_or(self.layout.base()))
    }

    /// The servers as the client library reads them.
    pub(crate) fn servers(&self) -> Vec<String> {
        let server = |(host, port): &(String, u16)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        self.hosts.iter().map(server).collect()
    }

    /// `user:password`, as the scheme `digest` sends it.
    pub(crate) fn credentials(&self) -> Option<SecretString> {
        let login = self.login.as_ref();
        login.map(|(user, password)| format!("{user}:{}", password.expose_secret()).into())
    }

    /// Refuses what cannot work, with `Config`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.hosts.is_empty() {
            return Err(config("no server is named; write zookeeper://host:2181"));
        }
        if !self
            .hosts
            .iter()
            .all(|(host, port)| is_host(host) && *port > 0)
        {
            return Err(config(
                "a host is refused; write a host name or an IP address, and a port that is not 0",
            ));
        }
        let most = Duration::from_millis(i32::MAX as u64);
        if self.session < Duration::from_millis(100) || self.session > most {
            return Err(config(
                "the session timeout is refused; allowed: 100ms to 24 days",
            ));
        }
        if let Some(base) = &self.base {
            check_base(base)?;
        }
        if self
            .login
            .as_ref()
            .is_some_and(|(user, _)| user.is_empty() || user.contains(':'))
        {
            return Err(config("the user is refused; allowed: any text without ':'"));
        }
        if self.access == Access::Creator && self.login.is_none() {
            return Err(config(
                "acl=creator needs a login; write zookeeper://user:password@host",
            ));
        }
        if self.tls.as_ref().is_some_and(|tls| tls.ca.is_none()) {
            return Err(config(
                "TLS needs the option \"ca\": the client library does not know the system's authorities",
            ));
        }
        Ok(())
    }
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.parse::<std::net::IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label))
}

fn check_base(base: &str) -> Result<()> {
    let good = |segment: &str| {
        !matches!(segment, "" | "." | "..") && !segment.chars().any(crate::layout::is_refused)
    };
    if base.len() > MAX_BASE
        || !base.split('/').all(good)
        || base.split('/').next() == Some("zookeeper")
    {
        return Err(config(
            "the base path is refused; allowed: at most 1024 bytes, segments that are neither empty nor '.' nor '..', \
             without control characters, and not /zookeeper, which is the server's own",
        ));
    }
    Ok(())
}

impl Default for ZooKeeperConfig {
    fn default() -> Self {
        Self {
            hosts: vec![("localhost".to_owned(), PORT)],
            session: Duration::from_secs(10),
            layout: Layout::default(),
            base: None,
            login: None,
            access: Access::default(),
            tls: None,
        }
    }
}

impl fmt::Debug for ZooKeeperConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperConfig")
            .field("hosts", &self.hosts)
            .field("session", &self.session)
            .field("base", &self.root())
            .field("layout", &self.layout)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("access", &self.access)
            .field("tls", &self.tls)
            .finish()
    }
}

impl TryFrom<&RegistryUrl> for ZooKeeperConfig {
    type Error = Error;

    /// Reads `zookeeper://user:password@a:2181,b:2181/base?session=10s&layout=go-micro&acl=world`; every part but the
    /// scheme may be left out.
    fn try_from(url: &RegistryUrl) -> Result<Self> {
        let mut this = Self::default();
        if url.hosts().len() > 0 {
            let hosts = url.hosts();
            this = this.hosts(hosts.map(|(host, port)| (host, port.unwrap_or(PORT))));
        }
        if !url.path().is_empty() {
            this.base = Some(url.path().to_owned());
        }
        this.login = match (url.user(), url.password()) {
            (None, _) => None,
            (Some(user), Some(password)) => Some((user.to_owned(), password.clone())),
            (Some(_), None) => {
                return Err(config("the user has no password; write user:password@"));
            }
        };
        let mut options = url.options();
        if let Some(session) = options.duration("session")? {
            this.session = session;
        }
        if let Some(layout) = options.parse("layout", "go-micro, curator")? {
            this.layout = layout;
        }
        if let Some(access) = options.parse("acl", "world, creator")? {
            this.access = access;
        }
        this.tls = TlsConfig::from_options(&mut options)?;
        options.finish()?;
        this.check()?;
        Ok(this)
    }
}

impl FromStr for Layout {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "go-micro" => Ok(Self::GoMicro),
            "curator" => Ok(Self::Curator),
            _ => Err(config("a layout is go-micro or curator")),
        }
    }
}

impl FromStr for Access {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "world" => Ok(Self::World),
            "creator" => Ok(Self::Creator),
            _ => Err(config("an access is world or creator")),
        }
    }
}

fn config(message: &str) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<ZooKeeperConfig> {
        ZooKeeperConfig::try_from(&url.parse::<RegistryUrl>()?)
    }

    #[test]
    fn a_url_sets_every_field() {
        let plain = read("zookeeper://").unwrap();
        assert_eq!(plain.servers(), ["localhost:2181"]);
        assert_eq!(plain.root(), "/micro-registry");
        assert_eq!(
            read("zookeeper://h?layout=curator").unwrap().root(),
            "/services"
        );
        let full = read(
            "zookeeper://u:p@a,[::1]:99/x/y?session=4s&layout=curator&acl=creator&ca=c.pem&cert=a&key=b",
        )
        .unwrap();
        assert_eq!(full.servers(), ["a:2181", "[::1]:99"]);
        assert_eq!(full.session, Duration::from_secs(4));
        assert_eq!(
            (full.layout, full.access),
            (Layout::Curator, Access::Creator)
        );
        assert_eq!(full.root(), "/x/y");
        assert_eq!(full.credentials().unwrap().expose_secret(), "u:p");
        assert_eq!(
            full.tls,
            Some(TlsConfig::default().ca("c.pem").identity("a", "b"))
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let long = format!("zookeeper://h/{}", "x".repeat(1025));
        for (url, says) in [
            ("zookeeper://user@h", "no password"),
            ("zookeeper://a%3Ab:hunter2@h", "without ':'"),
            ("zookeeper://h?acl=creator", "needs a login"),
            ("zookeeper://h?acl=none", "world, creator"),
            ("zookeeper://h?layout=etcd", "go-micro, curator"),
            ("zookeeper://h?session=99ms", "100ms to"),
            ("zookeeper://h?session=10", "session"),
            ("zookeeper://h?tls", "\"ca\""),
            ("zookeeper://a%20b", "host"),
            ("zookeeper://-a", "a host is refused"),
            ("zookeeper://h/a//b", "the base path"),
            ("zookeeper://h/%F0%9F%A6%80", "the base path"),
            ("zookeeper://h/a/../b", "the base path"),
            ("zookeeper://h/zookeeper/x", "the server's own"),
            (&long, "1024"),
            (
                "zookeeper://h?ttl=3s",
                "its options: acl, ca, cert, key, layout, session, tls",
            ),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let config = ZooKeeperConfig::default();
        for config in [
            config.clone().hosts::<&str>([]),
            config.clone().hosts([("h", 0)]),
            config.clone().session(Duration::from_secs(25 * 24 * 3600)),
            config.login("", "hunter2"),
        ] {
            let error = config.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{config:?}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let shown = format!("{:?}", read("zookeeper://u:hunter2@h").unwrap());
        assert!(
            shown.contains("\"u\"") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
