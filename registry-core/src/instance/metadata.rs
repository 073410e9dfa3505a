//! Free pairs of text that travel with an instance.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, ErrorKind, Result, excerpt};

/// What an instance says about itself beyond the fields that have a meaning here: at most 256 pairs, sorted
/// by key.
///
/// A key has 1 to 128 printable ASCII characters without space and `=`, a value at most 4,096 bytes of UTF-8
/// without NUL. A backend may allow less, see [`Limits`](crate::Limits).
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Most pairs.
    pub const MAX_PAIRS: usize = 256;
    /// Longest key, in bytes.
    pub const MAX_KEY: usize = 128;
    /// Longest value, in bytes.
    pub const MAX_VALUE: usize = 4096;

    /// No pairs.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// `Invalid` when the key, the value or the number of pairs is outside the limits.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        let printable = key.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
        if !(1..=Self::MAX_KEY).contains(&key.len()) || !printable {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "metadata key {:?} is refused; allowed: 1 to {} printable ASCII characters without space and '='",
                    excerpt(&key),
                    Self::MAX_KEY
                ),
            ));
        }
        if value.len() > Self::MAX_VALUE || value.contains('\0') {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "metadata value is refused; allowed: at most {} bytes without NUL",
                    Self::MAX_VALUE
                ),
            )
            .with("key", key)
            .with("bytes", value.len()));
        }
        if self.0.len() == Self::MAX_PAIRS && !self.0.contains_key(&key) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "metadata is full; allowed: at most {} pairs",
                    Self::MAX_PAIRS
                ),
            ));
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_their_edges() {
        let mut metadata = Metadata::new();
        metadata.insert("k".repeat(128), "v".repeat(4096)).unwrap();
        for (key, value) in [("", ""), ("a=b", ""), ("a b", ""), ("ä", ""), ("k", "\0")] {
            assert_eq!(
                metadata.insert(key, value).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{key:?}"
            );
        }
        assert!(metadata.insert("k".repeat(129), "").is_err());
        assert!(metadata.insert("k", "v".repeat(4097)).is_err());
        for i in 0..255 {
            metadata.insert(i.to_string(), "").unwrap();
        }
        metadata.insert("0", "again").unwrap();
        assert!(metadata.insert("one-more", "").is_err());
        assert_eq!(metadata.len(), 256);
    }
}
