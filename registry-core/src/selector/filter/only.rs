//! Instances of one kind only.

use std::fmt;

use crate::error::Result;
use crate::instance::Instance;
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage};

/// Leaves out all instances but those that something is true of: a version, a pair of metadata, an endpoint.
///
/// To the selectors inside of it, the others do not exist.
pub struct Only<S> {
    inner: S,
    why: &'static str,
    keep: Box<dyn Fn(&Instance) -> bool + Send + Sync>,
}

impl<S: Selector> Only<S> {
    /// Instances of which `keep` is true; of the others `why` says, in a few words, why they are left out.
    pub fn new(
        why: &'static str,
        keep: impl Fn(&Instance) -> bool + Send + Sync + 'static,
        inner: S,
    ) -> Self {
        Self {
            inner,
            why,
            keep: Box::new(keep),
        }
    }

    /// Instances of exactly this version.
    pub fn version(version: impl Into<String>, inner: S) -> Self {
        let version = version.into();
        let keep = move |instance: &Instance| {
            let theirs = instance.version.as_ref();
            theirs.is_some_and(|theirs| theirs.as_str() == version)
        };
        Self::new("other version", keep, inner)
    }

    /// Instances whose metadata has this value for this key.
    pub fn metadata(key: impl Into<String>, value: impl Into<String>, inner: S) -> Self {
        let (key, value) = (key.into(), value.into());
        let keep = move |instance: &Instance| instance.metadata.get(&key) == Some(&value);
        Self::new("other metadata", keep, inner)
    }

    /// Instances that have an endpoint of this name.
    pub fn endpoint(name: impl Into<String>, inner: S) -> Self {
        let name = name.into();
        let keep = move |instance: &Instance| {
            let mut endpoints = instance.endpoints.iter();
            endpoints.any(|endpoint| endpoint.name.as_str() == name)
        };
        Self::new("no such endpoint", keep, inner)
    }
}

impl<S: Selector> Selector for Only<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let keep = |candidate: &Candidate<'_>| (self.keep)(candidate.instance);
        let (kept, others): (Vec<_>, Vec<_>) = candidates.iter().copied().partition(keep);
        let all: Vec<_> = context.all.iter().copied().filter(keep).collect();
        let context = Context {
            all: &all,
            ..*context
        };
        let left_out = others.iter().map(|one| (one.member, self.why));
        self.inner
            .build(&kept, &context)
            .without(left_out.collect())
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        Stage::Instances.inside(outer)?;
        self.inner.validate(Stage::Instances)
    }
}

impl<S: fmt::Debug> fmt::Debug for Only<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Only")
            .field("else", &self.why)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
