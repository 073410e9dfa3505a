//! The cases, one topic per file.

mod cluster;
mod deregister;
mod faults;
mod grpc;
mod health;
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
        register::owners::CASES,
        deregister::CASES,
        lookup::CASES,
        watch::CASES,
        watch::consumers::CASES,
        watch::others::CASES,
        liveness::CASES,
        health::CASES,
        grpc::CASES,
        faults::CASES,
        faults::wire::CASES,
        faults::store::CASES,
        faults::stranger::CASES,
        cluster::CASES,
        limits::CASES,
        security::CASES,
        security::access::CASES,
        scale::CASES,
    ]
    .concat()
    .into_iter()
}
