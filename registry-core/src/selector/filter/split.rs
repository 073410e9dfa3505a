//! Calls shared out among groups of instances.

use crate::selector::{Built, Candidate, Context, PickRequest, Picker, Selector, Slot, hash};

/// A group, and its share of the calls; with a share of 0 it is there for retries that find nobody else.
pub(super) struct Group<'a> {
    pub(super) share: f64,
    /// Why nobody of it is chosen, where the share is 0.
    pub(super) standby: &'static str,
    pub(super) candidates: Vec<Candidate<'a>>,
}

/// A picker for each group, and one that draws among them: by the key where the request has one, so that calls of one
/// key stay in one group.
pub(super) fn build(inner: &impl Selector, groups: Vec<Group<'_>>, context: &Context<'_>) -> Built {
    let mut split = Split { parts: Vec::new() };
    let mut all = Built::new(Split { parts: Vec::new() }, &[]);
    let sum: f64 = groups.iter().map(|group| group.share).sum();
    let mut until = 0.0;
    for group in groups
        .into_iter()
        .filter(|group| !group.candidates.is_empty())
    {
        let built = inner.build(&group.candidates, context);
        let weights: f32 = built.shares.iter().map(|(_, weight)| weight).sum();
        let part = if sum > 0.0 { group.share / sum } else { 0.0 };
        until += part;
        let scale = part as f32 / weights.max(f32::MIN_POSITIVE);
        let shares = built.shares.into_iter();
        all.shares
            .extend(shares.map(|(slot, weight)| (slot, weight * scale)));
        all.left_out.extend(built.left_out);
        if part == 0.0 {
            let standby = group.candidates.iter();
            all.left_out
                .extend(standby.map(|one| (one.member, group.standby)));
        }
        if let Some(again) = built.again {
            all = all.again(again);
        }
        split.parts.push(Part {
            until: (until * 4_294_967_296.0) as u64,
            picker: built.picker,
        });
    }
    all.picker(|_| match split.parts.len() {
        1 => split.parts.remove(0).picker,
        _ => Box::new(split),
    })
}

struct Split {
    parts: Vec<Part>,
}

struct Part {
    /// Of 2³², those before included.
    until: u64,
    picker: Box<dyn Picker>,
}

impl Picker for Split {
    fn pick(&self, request: &PickRequest<'_>) -> Option<Slot> {
        // Another one than the pickers inside make of the same key.
        let drawn = hash::pair(request.spread(), 0x5011) >> 32;
        let mut parts = self.parts.iter();
        let chosen = parts.find(|part| drawn < part.until);
        chosen
            .and_then(|part| part.picker.pick(request))
            .or_else(|| self.elsewhere(request))
    }
}

impl Split {
    #[cold]
    fn elsewhere(&self, request: &PickRequest<'_>) -> Option<Slot> {
        self.parts.iter().find_map(|part| part.picker.pick(request))
    }
}
