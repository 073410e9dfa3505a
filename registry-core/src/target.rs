//! The URL that names a registry.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, ErrorKind, Result};

/// Where a registry is and how to speak to it:
/// `scheme://[user[:password]@]host[:port][,host[:port]…][/path][?option=value&…]`.
///
/// Several hosts make it more than a URL of RFC 3986; everything else is percent-encoded as there. The scheme is
/// folded to lower case. The password and the values of options never reach `Debug`, `Display` or an error.
#[derive(Clone)]
pub struct RegistryUrl {
    scheme: String,
    user: Option<String>,
    password: Option<SecretString>,
    hosts: Vec<(String, Option<u16>)>,
    path: String,
    options: BTreeMap<String, SecretString>,
}

impl RegistryUrl {
    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user, if one is named.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, if one is given.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// The hosts with their ports, in order; an IPv6 address without its brackets.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = (&str, Option<u16>)> {
        self.hosts.iter().map(|(host, port)| (host.as_str(), *port))
    }

    /// What follows the hosts, decoded, without slashes at its ends; empty where there is nothing.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A reader of the options; end with [`Options::finish`], so that none is ignored.
    pub fn options(&self) -> Options<'_> {
        Options {
            url: self,
            known: Vec::new(),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("it has no scheme; write scheme://host:port"))?;
        let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !valid {
            return Err(bad(
                "its scheme may have letters, digits, '+', '-' and '.' and starts with a letter",
            ));
        }
        let scheme = scheme.to_ascii_lowercase();
        if rest.contains('#') {
            return Err(bad("a fragment has no meaning here; encode '#' as %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // An '@' behind the hosts is the end of a login that was not encoded, and the login must not pass for a host.
        if rest
            .split_once('/')
            .is_some_and(|(_, path)| path.contains('@'))
            || query.contains('@')
        {
            return Err(bad(
                "an '@' behind the hosts is written %40, and a '/' or '?' in a login %2F or %3F",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(l, h)| (Some(l), h));
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, "")))
        {
            None => (None, None),
            Some((user, "")) => (Some(decode(user)?), None),
            Some((user, password)) => (Some(decode(user)?), Some(decode(password)?.into())),
        };
        let hosts = match hosts {
            "" => Vec::new(),
            hosts => {
                let hosts = hosts.split(',').zip(1..);
                hosts
                    .map(|(text, number)| host(text, number))
                    .collect::<Result<_>>()?
            }
        };
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if options.contains_key(&name) {
                return Err(bad(format!("option {name:?} is given twice")));
            }
            options.insert(name, decode(value)?.into());
        }
        Ok(Self {
            scheme,
            user,
            password,
            hosts,
            path: decode(path)?.trim_matches('/').to_owned(),
            options,
        })
    }
}

fn bad(why: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("the registry URL cannot be read: {why}"),
    )
}

fn decode(text: &str) -> Result<String> {
    let text = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| bad("a percent-encoded part is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(bad("control characters are refused"));
    }
    Ok(text.into_owned())
}

/// Names the host by its number: what stands there may be a misplaced secret.
fn host(text: &str, number: usize) -> Result<(String, Option<u16>)> {
    let form = || {
        bad(format!(
            "host {number} is refused; write host, host:port or [address]:port"
        ))
    };
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, port)) => {
            let plain = ip.split_once('%').map_or(ip, |(ip, _)| ip);
            plain.parse::<std::net::Ipv6Addr>().map_err(|_| form())?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or_else(form)?),
            };
            (ip.to_owned(), port)
        }
        None => match text.split_once(':') {
            Some((name, port)) => (decode(name)?, Some(port)),
            None => (decode(text)?, None),
        },
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "[]@".contains(c)) {
        return Err(form());
    }
    let Some(port) = port else {
        return Ok((name, None));
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
            Ok((name, Some(number)))
        }
        _ => Err(bad(format!(
            "the port of host {number} is refused; allowed: 1 to 65535"
        ))),
    }
}

impl FromStr for RegistryUrl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(
                f,
                "{user}{}@",
                if self.password.is_some() { ":…" } else { "" }
            )?;
        }
        for (i, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let (open, close) = if host.contains(':') {
                ("[", "]")
            } else {
                ("", "")
            };
            write!(f, "{comma}{open}{host}{close}")?;
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        for (i, name) in self.options.keys().enumerate() {
            write!(f, "{}{name}=…", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryUrl({self})")
    }
}

/// Reads the options of a [`RegistryUrl`] and remembers which ones exist.
#[derive(Debug)]
#[must_use = "finish() refuses the options that were not read"]
pub struct Options<'a> {
    url: &'a RegistryUrl,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    /// The text of an option.
    pub fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        self.url.options.get(name).map(ExposeSecret::expose_secret)
    }

    /// An option whose value is a secret.
    pub fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        self.text(name).map(Into::into)
    }

    /// An option that is parsed; `allowed` completes the error "… is refused; allowed: ".
    ///
    /// # Errors
    /// `Config`, naming the option and what is allowed.
    pub fn parse<T: FromStr>(&mut self, name: &'static str, allowed: &str) -> Result<Option<T>> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| refused(name, allowed)))
            .transpose()
    }

    /// `true` or `false`; an option without a value is `true`.
    ///
    /// # Errors
    /// `Config` for any other value.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>> {
        match self.text(name) {
            None => Ok(None),
            Some("" | "true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(refused(name, "true, false")),
        }
    }

    /// A time of whole `ms`, `s`, `m` or `h`, such as `15s`; more than 0.
    ///
    /// # Errors
    /// `Config` for any other value.
    pub fn duration(&mut self, name: &'static str) -> Result<Option<Duration>> {
        self.text(name)
            .map(|text| {
                parse_duration(text)
                    .ok_or_else(|| refused(name, "a whole number of ms, s, m or h, such as 15s"))
            })
            .transpose()
    }

    /// Refuses what was not read.
    ///
    /// # Errors
    /// `Config`, naming the unknown option and the known ones.
    pub fn finish(mut self) -> Result<()> {
        self.known.sort_unstable();
        let Some(unknown) = self
            .url
            .options
            .keys()
            .find(|name| !self.known.contains(&name.as_str()))
        else {
            return Ok(());
        };
        let known = if self.known.is_empty() {
            "none".to_owned()
        } else {
            self.known.join(", ")
        };
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "{}:// has no option {unknown:?}; its options: {known}",
                self.url.scheme
            ),
        ))
    }
}

fn refused(name: &str, allowed: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("the value of option {name:?} is refused; allowed: {allowed}"),
    )
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..unit].parse().ok().filter(|&number| number > 0)?;
    let milliseconds = match &text[unit..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds.map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_part_is_read() {
        let url: RegistryUrl =
            "ETCD://root:p%40ss@a:2379,[::1]:2380,b/pre/fix/?ttl=15s&tls&ca=ca%20.pem"
                .parse()
                .unwrap();
        assert_eq!(url.scheme(), "etcd");
        assert_eq!(url.user(), Some("root"));
        assert_eq!(url.password().unwrap().expose_secret(), "p@ss");
        assert_eq!(
            url.hosts().collect::<Vec<_>>(),
            [("a", Some(2379)), ("::1", Some(2380)), ("b", None)]
        );
        assert_eq!(url.path(), "pre/fix");
        let mut options = url.options();
        assert_eq!(
            options.duration("ttl").unwrap(),
            Some(Duration::from_secs(15))
        );
        assert_eq!(options.flag("tls").unwrap(), Some(true));
        assert_eq!(options.text("ca"), Some("ca .pem"));
        options.finish().unwrap();
    }

    #[test]
    fn unknown_options_are_refused_by_name() {
        let url: RegistryUrl = "x://h?tll=1s".parse().unwrap();
        let mut options = url.options();
        options.duration("ttl").unwrap();
        let error = options.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error
                .to_string()
                .contains("no option \"tll\"; its options: ttl"),
            "{error}"
        );
    }

    #[test]
    fn secrets_stay_inside() {
        let url: RegistryUrl = "x://u:hunter2@h/p?token=hunter2".parse().unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "x://u:…@h/p?token=… RegistryUrl(x://u:…@h/p?token=…)"
        );
        for bad in [
            "x://u:hunter2@h:0",
            "x://u:hunter2@?a=hunter2&a=hunter2",
            "hunter2",
            "x://u:hunter2/x@h",
            "x://u:1/hunter2@h",
            "x://u:hunter2?x@h",
            "x://u:hunter2",
        ] {
            assert!(!format!("{:?}", bad.parse::<RegistryUrl>().unwrap_err()).contains("hunter2"));
        }
    }

    #[test]
    fn bad_urls_are_refused() {
        for bad in [
            "",
            "etcd",
            "://h",
            "1x://h",
            "x y://h",
            "x://h:0",
            "x://h:65536",
            "x://h:+1",
            "x://a,,b",
            "x://[::1",
            "x://[zz]:1",
            "x://[::1]1",
            "x://h#f",
            "x://h?a=%ff",
            "x://h%00",
            "x://h?a=1&a=2",
            "x://a:b:c",
        ] {
            assert_eq!(
                bad.parse::<RegistryUrl>().unwrap_err().kind(),
                ErrorKind::Config,
                "{bad}"
            );
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [
            ("1ms", 1),
            ("15s", 15_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)));
        }
        for bad in [
            "",
            "15",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "1d",
            "18446744073709551615h",
            "15 s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<RegistryUrl>();
            let _ = format!("x://{text}").parse::<RegistryUrl>();
        }
    }
}
