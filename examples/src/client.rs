//! An HTTP client that finds its servers through a balancer.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use registry_plugins::{Balancer, Instance, Outcome, PickError};
use tokio::time::Instant;

/// How long one server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Calls a greeter, whichever answers.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    greeters: Balancer,
}

/// A call that was answered.
#[derive(Debug)]
pub struct Reply {
    /// Who answered.
    pub by: Arc<Instance>,
    /// What it said.
    pub text: String,
    /// From the first attempt to the answer.
    pub took: Duration,
    /// Who was tried before.
    pub retried: Vec<Attempt>,
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Attempt {
    /// Who was called.
    pub who: Arc<Instance>,
    /// What happened.
    pub error: reqwest::Error,
}

/// A call that nobody answered.
#[derive(Debug)]
pub struct Unanswered {
    /// Why there was nobody to try, or nobody left.
    pub reason: PickError,
    /// Who was tried.
    pub tried: Vec<Attempt>,
}

impl Client {
    /// A client of these greeters.
    ///
    /// # Errors
    /// What reqwest says when it cannot be set up.
    pub fn new(greeters: Balancer) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { http, greeters })
    }

    /// Greets one of the servers. A greeting may be repeated without harm, so where one server fails, the next is
    /// tried, until each was tried once.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn greet(&self, guest: &str) -> Result<Reply, Unanswered> {
        let began = Instant::now();
        let mut members = Vec::new();
        let mut tried = Vec::new();
        loop {
            let pick = match self.greeters.pick_excluding(&members) {
                Ok(pick) => pick,
                Err(reason) => return Err(Unanswered { reason, tried }),
            };
            let who = pick.instance().clone();
            match self
                .get(&format!("http://{}/{guest}", pick.address()))
                .await
            {
                Ok(text) => {
                    pick.report(Outcome::Success);
                    return Ok(Reply {
                        by: who,
                        text,
                        took: began.elapsed(),
                        retried: tried,
                    });
                }
                Err(error) => {
                    members.push(pick.member());
                    pick.report(if error.is_connect() {
                        Outcome::Unreachable
                    } else {
                        Outcome::Failure
                    });
                    tried.push(Attempt { who, error });
                }
            }
        }
    }

    async fn get(&self, url: &str) -> reqwest::Result<String> {
        self.http
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.error.is_connect() {
            "refused the connection"
        } else {
            "did not answer well"
        })
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        for attempt in &self.tried {
            write!(f, "; {} {attempt}", attempt.who.id)?;
        }
        Ok(())
    }
}

impl Error for Unanswered {}
