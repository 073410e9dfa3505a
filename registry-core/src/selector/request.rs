//! What one call asks of a picker.

use tokio::time::Instant;

use super::{Member, hash};

/// What one call asks of a picker.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PickRequest<'a> {
    /// What calls that belong together have in common, for selectors that keep them together.
    pub hash: Option<u64>,
    /// Who must not be chosen: for a retry elsewhere.
    pub exclude: &'a [Member],
    /// When the call begins: set by the balancer where a selector reads latencies.
    pub now: Option<Instant>,
}

impl<'a> PickRequest<'a> {
    /// Sets what calls that belong together have in common, such as a user or a session. The hash of one key is the
    /// same in every process and release.
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.hash(hash::bytes(key.as_ref()))
    }

    /// The same for a hash of your own. It is mixed again before it is used.
    pub const fn hash(mut self, hash: u64) -> Self {
        self.hash = Some(hash);
        self
    }

    /// Sets who must not be chosen.
    pub const fn exclude(mut self, members: &'a [Member]) -> Self {
        self.exclude = members;
        self
    }

    /// Whether this member may be chosen.
    #[inline]
    pub fn admits(&self, member: Member) -> bool {
        self.exclude.is_empty() || !self.exclude.contains(&member)
    }

    /// The hash, well mixed; a random one where none is set.
    #[inline]
    pub(super) fn spread(&self) -> u64 {
        self.hash.map_or_else(|| fastrand::u64(..), hash::mix)
    }
}
