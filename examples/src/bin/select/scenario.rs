//! What happens to whom, and who chooses.

use std::time::Duration;

use registry_plugins::{
    BoundedLoad, OutlierEjection, PeakEwma, PowerOfTwo, Random, RingHash, RoundRobin, Selector,
    SlowStart, ZonePreference,
};

/// Instances, three zones in turns.
pub(crate) const INSTANCES: usize = 10;
/// Who is slow, fails or is cold.
pub(crate) const AFFLICTED: usize = 3;
/// When the story begins, and how long calls are made.
pub(crate) const BEGINS: Duration = Duration::from_secs(10);
pub(crate) const LASTS: Duration = Duration::from_secs(60);

/// Makes a selector.
pub(crate) type Make = fn() -> Box<dyn Selector>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) title: &'static str,
    pub(crate) trouble: Trouble,
    pub(crate) selectors: &'static [(&'static str, Make)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// One takes 20 times as long, always.
    Slow,
    /// One answers with an error within a millisecond, always.
    Fails,
    /// One comes when the story begins, and takes 10 times as long for its first 300 calls.
    Cold,
    /// A zone is gone when the story begins; the registry notices 10 s later.
    ZoneLoss,
}

pub(crate) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        title: "One of ten instances is 20 times slower",
        trouble: Trouble::Slow,
        selectors: USUAL,
    },
    Scenario {
        title: "One of ten instances fails at once",
        trouble: Trouble::Fails,
        selectors: USUAL,
    },
    Scenario {
        title: "A cold instance comes: 10 times slower for its first 300 calls",
        trouble: Trouble::Cold,
        selectors: &[
            ROUND_ROBIN,
            POWER_OF_TWO,
            POWER_OF_TWO_SLOW_START,
            PEAK,
            PEAK_SLOW_START,
        ],
    },
    Scenario {
        title: "One of three zones is lost",
        trouble: Trouble::ZoneLoss,
        selectors: &[ROUND_ROBIN, POWER_OF_TWO, PEAK, PEAK_ZONE, RING, BOUNDED],
    },
];

const USUAL: &[(&str, Make)] = &[
    RANDOM,
    ROUND_ROBIN,
    POWER_OF_TWO,
    POWER_OF_TWO_EJECTION,
    PEAK,
    PEAK_EJECTION,
    RING,
    BOUNDED,
];

const RANDOM: (&str, Make) = ("random", || Box::new(Random::default()));
const ROUND_ROBIN: (&str, Make) = ("round robin", || Box::new(RoundRobin::default()));
const POWER_OF_TWO: (&str, Make) = ("power of two", || Box::new(PowerOfTwo::default()));
const POWER_OF_TWO_EJECTION: (&str, Make) = ("power of two, ejection", || {
    Box::new(OutlierEjection::new(PowerOfTwo::default()))
});
const POWER_OF_TWO_SLOW_START: (&str, Make) = ("power of two, slow start", || {
    Box::new(SlowStart::new(PowerOfTwo::default()))
});
const PEAK: (&str, Make) = ("peak EWMA", || Box::new(PeakEwma::default()));
const PEAK_EJECTION: (&str, Make) = ("peak EWMA, ejection", || {
    Box::new(OutlierEjection::new(PeakEwma::default()))
});
const PEAK_SLOW_START: (&str, Make) = ("peak EWMA, slow start", || {
    Box::new(SlowStart::new(PeakEwma::default()))
});
const PEAK_ZONE: (&str, Make) = ("zone preference, peak EWMA", || {
    Box::new(ZonePreference::new(PeakEwma::default()))
});
const RING: (&str, Make) = ("ring hash", || Box::new(RingHash::default()));
const BOUNDED: (&str, Make) = ("bounded load", || Box::new(BoundedLoad::default()));
