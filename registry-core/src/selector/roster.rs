//! Who a picker chooses among.

use super::{Candidate, Member, PickRequest, Slot};

/// Slots and their members, in one block of memory.
pub(super) struct Roster(Box<[(Slot, Member)]>);

impl Roster {
    pub(super) fn new(candidates: &[Candidate<'_>]) -> Self {
        Self(
            candidates
                .iter()
                .map(|candidate| (candidate.slot, candidate.member))
                .collect(),
        )
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Who is at this position, if the request admits them.
    #[inline]
    pub(super) fn admitted(&self, at: usize, request: &PickRequest<'_>) -> Option<Slot> {
        let (slot, member) = *self.0.get(at)?;
        request.admits(member).then_some(slot)
    }

    /// The first from `start` on that the request admits.
    #[inline]
    pub(super) fn first_admitted(&self, start: usize, request: &PickRequest<'_>) -> Option<Slot> {
        self.admitted(start, request)
            .or_else(|| self.after(start, request))
    }

    #[cold]
    fn after(&self, start: usize, request: &PickRequest<'_>) -> Option<Slot> {
        let (before, after) = self.0.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .find(|(_, member)| request.admits(*member))
            .map(|(slot, _)| *slot)
    }
}
