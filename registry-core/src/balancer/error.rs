//! Why there is nobody to pick.

use std::fmt;
use std::sync::Arc;

use crate::instance::ServiceName;
use crate::selector::Member;

/// Why there is nobody to pick: of which service, and what became of its instances. Cheap to make and to clone.
#[derive(Clone)]
pub struct PickError {
    kind: PickErrorKind,
    scene: Arc<Scene>,
}

/// The kinds of [`PickError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PickErrorKind {
    /// The registry has not answered yet.
    NotReady,
    /// The service has no instance.
    NoInstances,
    /// The service has instances, and none may be called: their status, their weight or the selector forbids it.
    NoneEligible,
    /// Everybody who may be called is excluded by the request.
    Excluded,
}

/// What an error tells, made with each build so that a pick need not.
#[derive(Debug)]
pub(super) struct Scene {
    service: ServiceName,
    instances: usize,
    left_out: Vec<(&'static str, usize)>,
}

impl Scene {
    pub(super) fn new(
        service: ServiceName,
        instances: usize,
        left_out: &[(Member, &'static str)],
    ) -> Self {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for (_, why) in left_out {
            match counts.iter_mut().find(|(reason, _)| reason == why) {
                Some((_, count)) => *count += 1,
                None => counts.push((why, 1)),
            }
        }
        Self {
            service,
            instances,
            left_out: counts,
        }
    }
}

impl PickError {
    pub(super) const fn new(kind: PickErrorKind, scene: Arc<Scene>) -> Self {
        Self { kind, scene }
    }

    /// What kind of reason.
    pub const fn kind(&self) -> PickErrorKind {
        self.kind
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.scene.service
    }

    /// How many instances are left out for which reason, such as `("draining", 2)`.
    pub fn left_out(&self) -> &[(&'static str, usize)] {
        &self.scene.left_out
    }
}

impl fmt::Display for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scene {
            service,
            instances,
            left_out,
        } = &*self.scene;
        match self.kind {
            PickErrorKind::NotReady => write!(
                f,
                "service {service}: the registry has not answered yet; wait with pick_within, or try again"
            ),
            PickErrorKind::NoInstances => write!(
                f,
                "service {service} has no instance; is a server registered under this name?"
            ),
            PickErrorKind::NoneEligible => {
                write!(f, "service {service}: none of {instances} may be called")?;
                for (i, (why, count)) in left_out.iter().enumerate() {
                    let before = if i == 0 { ": " } else { ", " };
                    write!(f, "{before}{count} {why}")?;
                }
                Ok(())
            }
            PickErrorKind::Excluded => write!(
                f,
                "service {service}: all that may be called of {instances} are excluded by the request"
            ),
        }
    }
}

impl fmt::Debug for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `main` prints of an error.
        write!(f, "{self}")
    }
}

impl std::error::Error for PickError {}
