//! One call, tried on one instance after the other.

use super::Balancer;
use super::budget::RetryBudget;
use super::error::PickError;
use super::pick::Pick;
use crate::selector::{Member, PickRequest};

/// Most attempts of one call.
const MOST: usize = 8;

/// The attempts of one call, each on an instance that was not tried before. Ends when the attempts, the instances or
/// the budget are used up.
///
/// Repeat only what may be done twice, or what the instance never saw.
///
/// ```no_run
/// # async fn call(_: &registry_core::Address) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example(balancer: registry_core::Balancer, budget: registry_core::RetryBudget) {
/// for pick in balancer.attempts(3).budget(&budget) {
///     let reply = call(pick.address()).await;
///     pick.report(&reply);
///     if reply.is_ok() {
///         break;
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Attempts<'a> {
    balancer: &'a Balancer,
    request: PickRequest<'a>,
    budget: Option<&'a RetryBudget>,
    tried: [Member; MOST],
    made: usize,
    most: usize,
    error: Option<PickError>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(balancer: &'a Balancer, most: usize) -> Self {
        Self {
            balancer,
            request: PickRequest::default(),
            budget: None,
            tried: [Member(0); MOST],
            made: 0,
            most: most.min(MOST),
            error: None,
        }
    }

    /// Picks as this request asks. Whom it excludes is not excluded: that is what this keeps.
    pub const fn request(mut self, request: PickRequest<'a>) -> Self {
        self.request = request;
        self
    }

    /// Tries again only while this budget allows it.
    pub const fn budget(mut self, budget: &'a RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Why there was nobody left to try; `None` where the attempts or the budget are used up.
    pub const fn error(&self) -> Option<&PickError> {
        self.error.as_ref()
    }
}

impl Iterator for Attempts<'_> {
    type Item = Pick;

    fn next(&mut self) -> Option<Pick> {
        if self.made == self.most {
            return None;
        }
        if let Some(budget) = self.budget {
            if self.made == 0 {
                budget.deposit();
            } else if !budget.withdraw() {
                self.most = self.made;
                return None;
            }
        }
        let request = PickRequest {
            exclude: &self.tried[..self.made],
            ..self.request
        };
        match self.balancer.pick_with(&request) {
            Ok(pick) => {
                self.tried[self.made] = pick.member();
                self.made += 1;
                Some(pick)
            }
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}
