//! Text that was checked when it was made: names, ids and labels.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, excerpt};

/// Longest service name, instance id or label, in bytes.
pub(super) const MAX_BYTES: usize = 128;

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn parse(text: &str) -> Result<Self, Error> {
                let check: fn(&str) -> bool = $check;
                if (1..=MAX_BYTES).contains(&text.len()) && check(text) {
                    return Ok(Self(text.into()));
                }
                Err(Error::new(
                    ErrorKind::Invalid,
                    format!(concat!($what, " {:?} is refused; allowed: {} to {} bytes, ", $allowed), excerpt(text),  1, MAX_BYTES),
                ))
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(text: &str) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::parse(&text)
            }
        }

        impl From<&Self> for $name {
            fn from(text: &Self) -> Self {
                text.clone()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text! {
    /// The name of a service: 1 to 128 ASCII letters, digits, `.`, `_` or `-`, the first and the last
    /// one a letter or digit. Case counts.
    ServiceName,
    "service name",
    "ASCII letters, digits, '.', '_' and '-', a letter or digit at both ends",
    |text| {
        let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    }
}

text! {
    /// The id of an instance, unique within its service: 1 to 128 bytes of UTF-8 without control
    /// characters and `/`, without white space at the ends, and neither `.` nor `..`. Case counts.
    InstanceId,
    "instance id",
    "any characters but control characters and '/', no white space at the ends, not '.' or '..'",
    |text| is_label(text) && !text.contains('/') && text != "." && text != ".."
}

text! {
    /// A short text such as a version, a zone or a method: 1 to 128 bytes of UTF-8 without control
    /// characters, without white space at the ends.
    Label,
    "label",
    "any characters but control characters, no white space at the ends",
    is_label
}

fn is_label(text: &str) -> bool {
    text.trim() == text && !text.chars().any(char::is_control)
}

impl InstanceId {
    /// A new id, `<service>-` and 16 random hexadecimal digits; the service's name is cut where it
    /// would not fit.
    pub fn random(service: &ServiceName) -> Self {
        // Seeded by the operating system, not by the clock: hosts that boot together must not agree.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), service);
        let name = &service.as_str()[..service.as_str().len().min(MAX_BYTES - 17)];
        Self(format!("{name}-{random:016x}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_keep_to_their_alphabet_and_length() {
        for good in [
            "greeter",
            "go.micro.srv.greeter",
            "A_b-9",
            "x",
            &"a".repeat(128),
        ] {
            assert_eq!(ServiceName::try_from(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "a/b",
            "a b",
            "-a",
            "a.",
            "ä",
            "a\0",
            &"a".repeat(129),
        ] {
            let error = ServiceName::try_from(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("1 to 128 bytes"), "{error}");
        }
    }

    #[test]
    fn ids_may_be_almost_anything_that_fits_a_path_segment() {
        for good in [
            "host:app:8080",
            "a b",
            "a.b\\c Ω",
            "50%",
            "...",
            &"x".repeat(128),
        ] {
            assert!(InstanceId::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", " a", "a\n", &"Ω".repeat(65)] {
            assert!(InstanceId::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ids_differ_and_always_fit() {
        let service = ServiceName::try_from("s".repeat(128)).unwrap();
        let (a, b) = (InstanceId::random(&service), InstanceId::random(&service));
        assert_ne!(a, b);
        assert_eq!(InstanceId::try_from(a.as_str()).unwrap(), a);
    }
}
