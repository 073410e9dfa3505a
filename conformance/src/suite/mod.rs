//! The cases, one topic per file.

mod deregister;
mod faults;
mod limits;
mod liveness;
mod lookup;
mod register;
mod scale;
mod security;
mod watch;

use crate::case::Case;

/// Every case, in the order of the topics.
pub fn cases() -> impl Iterator<Item = Case> {
    [
        register::CASES,
        deregister::CASES,
        lookup::CASES,
        watch::CASES,
        liveness::CASES,
        faults::CASES,
        faults::wire::CASES,
        limits::CASES,
        security::CASES,
        scale::CASES,
    ]
    .concat()
    .into_iter()
}
