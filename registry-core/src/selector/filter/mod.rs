//! Selectors around other selectors: they leave candidates out or change weights.

mod aperture;
mod available;
mod ejections;
mod only;
mod outlier;
mod probe;
mod slow_start;
mod split;
mod subset;
mod tiers;
mod zone;

pub use aperture::Aperture;
pub(crate) use available::Available;
pub(crate) use available::may_be_called;
pub use only::Only;
pub use outlier::OutlierEjection;
pub use slow_start::SlowStart;
pub use subset::Subset;
pub use tiers::Tiers;
pub use zone::ZonePreference;
