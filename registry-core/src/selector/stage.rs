//! The order of filters.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// Where a selector stands in the order of filters, from the outside to the inside.
///
/// Each works on what the one outside of it left: outliers are found among the instances that may be called, tiers and
/// zones count those that are healthy, a subset is taken within a zone, and weights that grow are the last word.
/// [`Discovery::balancer`](crate::Discovery::balancer) refuses any other order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The status of instances: always outside of all, built into the balancer.
    Status,
    /// [`Only`](super::Only); also more than once.
    Instances,
    /// [`OutlierEjection`](super::OutlierEjection).
    Ejection,
    /// [`Tiers`](super::Tiers).
    Tiers,
    /// [`ZonePreference`](super::ZonePreference).
    Zone,
    /// [`Subset`](super::Subset) or [`Aperture`](super::Aperture).
    Subset,
    /// [`SlowStart`](super::SlowStart).
    SlowStart,
    /// [`Sticky`](super::Sticky).
    Sticky,
    /// What chooses among those that are left.
    Algorithm,
}

impl Stage {
    /// Whether a selector of this stage may stand directly inside of one of the `outer` stage.
    ///
    /// # Errors
    /// `Config`, with the order.
    pub fn inside(self, outer: Self) -> Result<()> {
        if self > outer || self == outer && self == Self::Instances {
            return Ok(());
        }
        Err(refused(format!(
            "{self} cannot stand inside of {outer}; the order from the outside is: filters of instances, outlier \
             ejection, priority tiers, zone preference, subset or aperture, slow start, stickiness, algorithm"
        )))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Status => "the status of instances",
            Self::Instances => "a filter of instances",
            Self::Ejection => "outlier ejection",
            Self::Tiers => "priority tiers",
            Self::Zone => "zone preference",
            Self::Subset => "a subset",
            Self::SlowStart => "slow start",
            Self::Sticky => "stickiness",
            Self::Algorithm => "an algorithm",
        })
    }
}

/// A setting of a selector is refused.
pub(super) fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// Refuses a setting outside of its range.
pub(super) fn within<T: PartialOrd + fmt::Debug>(
    what: &str,
    value: T,
    least: T,
    most: T,
) -> Result<()> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(refused(format!(
        "{what} of {value:?} is refused; allowed: {least:?} to {most:?}"
    )))
}
