//! The caller's zone first.

use std::collections::BTreeMap;

use super::split::{self, Group};
use crate::error::Result;
use crate::instance::{Instance, Label, Status};
use crate::selector::{Built, Candidate, Context, Needs, Selector, Stage};

/// Calls instances of the caller's zone, as far as these can take it, and others for the rest.
///
/// A zone can take its part of all weights, `u`; the callers in it make their part of all calls, `c`. Those in a zone
/// of `u ≥ c` stay in it; else `u/c` of their calls do, and the others go to the zones that have room, in proportion
/// to the room (Envoy's zone-aware routing, also for zones that do not match). No instance is then called more than
/// any other, wherever its callers are.
///
/// The callers' zones are those of the service of [`Caller::key`](crate::Caller); without a key, or while that is
/// not known, callers are thought to be spread evenly over all zones. Without [`Caller::zone`](crate::Caller), or
/// when it has no instance, every instance is called.
#[derive(Clone, Copy, Debug)]
pub struct ZonePreference<S> {
    inner: S,
}

/// Instances and callers of one zone, as parts of all.
#[derive(Default)]
struct Zone<'a> {
    candidates: Vec<Candidate<'a>>,
    weight: f64,
    callers: f64,
}

impl<S: Selector> ZonePreference<S> {
    /// Prefers the zone that the [`Discovery`](crate::Discovery) was told, see
    /// [`DiscoveryConfig::caller`](crate::DiscoveryConfig::caller).
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Selector> Selector for ZonePreference<S> {
    fn build(&self, candidates: &[Candidate<'_>], context: &Context<'_>) -> Built {
        let Some(own) = &context.caller.zone else {
            return self.inner.build(candidates, context);
        };
        let mut zones: BTreeMap<Option<&Label>, Zone<'_>> = BTreeMap::new();
        for candidate in candidates {
            let zone = zones.entry(candidate.instance.zone.as_ref()).or_default();
            zone.candidates.push(*candidate);
            zone.weight += f64::from(candidate.weight);
        }
        if !zones.contains_key(&Some(own)) {
            return self.inner.build(candidates, context);
        }
        let calls = |peer: &&Instance| matches!(peer.status, Status::Up | Status::Warning);
        let peers: Vec<_> = context
            .peers
            .iter()
            .map(|peer| &**peer)
            .filter(calls)
            .collect();
        for peer in &peers {
            zones.entry(peer.zone.as_ref()).or_default().callers += 1.0;
        }
        let (weights, callers) = (
            zones.values().map(|zone| zone.weight).sum::<f64>(),
            peers.len() as f64,
        );
        let even = 1.0 / zones.len() as f64;
        for zone in zones.values_mut() {
            zone.weight /= weights;
            zone.callers = if peers.is_empty() {
                even
            } else {
                zone.callers / callers
            };
        }
        let home = zones.get(&Some(own));
        // A caller that is not among its peers yet adds little: it stays at home.
        let stays = home.map_or(1.0, |home| {
            if home.callers > 0.0 {
                (home.weight / home.callers).min(1.0)
            } else {
                1.0
            }
        });
        let room = |zone: &Zone<'_>| (zone.weight - zone.callers).max(0.0);
        let rooms: f64 = zones.values().map(room).sum();
        let groups = zones.into_iter().map(|(name, zone)| Group {
            share: if name == Some(own) {
                stays
            } else if stays < 1.0 {
                (1.0 - stays) * room(&zone) / rooms
            } else {
                0.0
            },
            standby: "other zone",
            candidates: zone.candidates,
        });
        let mut groups: Vec<_> = groups.collect();
        // Retries that find nobody look at home first.
        groups.sort_by(|one, other| other.share.total_cmp(&one.share));
        split::build(&self.inner, groups, context)
    }

    fn needs(&self) -> Needs {
        self.inner.needs().peers()
    }

    fn validate(&self, outer: Stage) -> Result<()> {
        Stage::Zone.inside(outer)?;
        self.inner.validate(Stage::Zone)
    }
}
