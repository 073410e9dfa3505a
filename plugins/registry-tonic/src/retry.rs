//! What became of one sending, and whether the call may be sent again.

use std::time::Duration;

use h2::Reason;
use http::Response as HttpResponse;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use registry_core::{Outcome, Pick};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::connection::http2_error;
use crate::response::{Pushback, ResponseBody, Verdict, broken, is_broken};

/// What a caller gets.
pub(crate) type Answer = Result<HttpResponse<Body>, Status>;

/// What a call does after a sending.
pub(crate) enum Sent {
    /// It has its answer.
    Answer(Answer),
    /// It goes to another instance; this is the answer if there is none. Whether the instance asked for a pause, which
    /// is over.
    Elsewhere(Answer, bool),
    /// No instance has seen it.
    Unseen,
}

/// What became of one sending.
pub(crate) struct Sending {
    result: Result<HttpResponse<Incoming>, Status>,
    /// Where the answer's end is still to be reported.
    pick: Option<Pick>,
    /// Whether it never came to the instance's program.
    pub(crate) unseen: bool,
    /// Whether another instance may do better.
    pub(crate) retriable: bool,
    /// How long the instance asks to wait before that.
    pub(crate) pushback: Option<Duration>,
}

impl Sending {
    /// There was an answer.
    pub(crate) fn answered(response: HttpResponse<Incoming>, pick: Pick) -> Self {
        let verdict = Verdict::read(response.headers());
        let ended = response.body().is_end_stream();
        let mut this = Self {
            pick: Some(pick),
            unseen: false,
            retriable: false,
            pushback: None,
            result: Ok(response),
        };
        if let Some(verdict) = verdict {
            this.report(verdict.outcome());
            this.retriable =
                verdict.code == Code::Unavailable && verdict.pushback != Some(Pushback::Never);
            if let Some(Pushback::After(pause)) = verdict.pushback {
                this.pushback = Some(pause);
            }
        } else if ended {
            // Without a status, which every answer has.
            this.report(Outcome::Failure);
        }
        this
    }

    /// There was none.
    pub(crate) fn lost<T>(error: TrySendError<T>, pick: Pick) -> Self {
        let unsent = error.message().is_some();
        let error = error.into_error();
        let http2 = http2_error(&error);
        // The peer says of a stream that it has not looked at it (RFC 9113, 8.7).
        let refused = http2.is_some_and(|error| {
            let refused = error.reason() == Some(Reason::REFUSED_STREAM);
            error.is_remote() && (error.is_go_away() || refused)
        });
        // Such as a request that could not be encoded: no fault of the instance.
        let ours = http2.is_some_and(|error| error.is_reset() && !error.is_remote());
        let retriable = is_broken(&error);
        let status = match retriable || unsent || refused {
            true => broken(&pick, &error),
            false => Status::from_error(Box::new(error)),
        };
        let mut this = Self {
            pick: Some(pick),
            unseen: unsent || refused,
            retriable,
            pushback: None,
            result: Err(status),
        };
        if unsent || refused || ours {
            // Dropped, it says nothing.
            this.pick = None;
        } else {
            this.report(Outcome::Failure);
        }
        this
    }

    pub(crate) fn into_answer(mut self, deadline: Option<Instant>) -> Answer {
        let pick = self.pick.take();
        self.result.map(|response| {
            response.map(|body| match pick {
                Some(pick) => Body::new(ResponseBody::new(body, pick, deadline)),
                None => Body::new(body),
            })
        })
    }

    fn report(&mut self, outcome: Outcome) {
        if let Some(pick) = self.pick.take() {
            pick.report(outcome);
        }
    }
}
