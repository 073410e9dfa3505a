//! What calls have in common.

use registry_core::PickRequest;

/// What calls that belong together have in common, such as a user or a session, for selectors that keep them together
/// ([`RingHash`](registry_core::RingHash), [`Sticky`](registry_core::Sticky) and others). In the extensions of a
/// request. Where its instance fails, a request that may be repeated leaves it, unless
/// [`attempts`](crate::ResolveConfig::attempts) is 1.
///
/// ```
/// use registry_tower::CallKey;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(CallKey::new("user-7"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallKey(u64);

impl CallKey {
    /// A key. The same in every process and release.
    pub fn new(key: impl AsRef<[u8]>) -> Self {
        Self(PickRequest::default().key(key).hash.unwrap_or_default())
    }

    /// What a request with these extensions asks of the selector.
    pub fn ask(extensions: &http::Extensions) -> PickRequest<'static> {
        let request = PickRequest::default();
        match extensions.get() {
            Some(Self(key)) => request.hash(*key),
            None => request,
        }
    }
}
