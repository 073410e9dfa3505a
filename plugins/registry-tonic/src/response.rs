//! What an answer says about the instance, told when it has ended.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use registry_core::{Outcome, Pick};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::connection::http2_error;

/// What the headers or trailers of an answer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) code: Code,
    pub(crate) pushback: Option<Pushback>,
}

/// `grpc-retry-pushback-ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// The call is not to be sent again.
    Never,
    /// It may be sent again after this time.
    After(Duration),
}

impl Verdict {
    /// `None` where there is no status.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
        let pushback = headers.get("grpc-retry-pushback-ms").map(|value| {
            let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok());
            milliseconds.map_or(Pushback::Never, |ms| {
                Pushback::After(Duration::from_millis(ms))
            })
        });
        Some(Self { code, pushback })
    }

    /// Whether it speaks for the instance, whatever it says of the call.
    pub(crate) fn outcome(self) -> Outcome {
        match (self.code, self.pushback) {
            (
                Code::Unavailable
                | Code::ResourceExhausted
                | Code::Internal
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::DataLoss,
                pushback,
            ) => match pushback {
                Some(Pushback::After(retry_after)) => Outcome::Throttled { retry_after },
                _ => Outcome::Failure,
            },
            _ => Outcome::Success,
        }
    }
}

/// The body of an answer: reports how the call went when it has ended, and ends it at its deadline. Dropped before, the
/// call was cancelled.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Incoming,
    pick: Option<Pick>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(crate) fn new(body: Incoming, pick: Pick, deadline: Option<Instant>) -> Self {
        Self {
            body,
            pick: Some(pick),
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
        }
    }

    fn report(&mut self, outcome: Outcome) {
        if let Some(pick) = self.pick.take() {
            pick.report(outcome);
        }
    }

    fn broken(&mut self, error: hyper::Error) -> Status {
        let status = match &self.pick {
            Some(pick) if is_broken(&error) => broken(pick, &error),
            _ => Status::from_error(Box::new(error)),
        };
        self.report(Outcome::Failure);
        status
    }

    fn late(&mut self) -> Status {
        let status = self.pick.as_ref().map(|pick| {
            let instance = pick.instance();
            Status::deadline_exceeded(format!(
                "the answer of instance {} at {} did not end in time",
                instance.key(),
                instance.address
            ))
        });
        self.report(Outcome::Failure);
        status.unwrap_or_else(|| Status::deadline_exceeded("the answer did not end in time"))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(polled) = Pin::new(&mut this.body).poll_frame(context) else {
            if let Some(deadline) = &mut this.deadline {
                ready!(deadline.as_mut().poll(context));
                this.deadline = None;
                return Poll::Ready(Some(Err(this.late())));
            }
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let verdict = Verdict::read(trailers);
                    this.report(verdict.map_or(Outcome::Failure, Verdict::outcome));
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(this.broken(error))),
            None => {
                // Without trailers there was no status, which every answer has.
                this.report(Outcome::Failure);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the connection broke, and not one stream of it.
pub(crate) fn is_broken(error: &hyper::Error) -> bool {
    let io = error
        .source()
        .is_some_and(|source| source.is::<io::Error>());
    let gone = http2_error(error).is_some_and(h2::Error::is_go_away);
    io || gone || error.is_timeout() || error.is_closed()
}

/// What a caller is told of a connection that broke.
pub(crate) fn broken(pick: &Pick, error: &hyper::Error) -> Status {
    let instance = pick.instance();
    Status::unavailable(format!(
        "the connection to instance {} at {} broke while it had the call: {}",
        instance.key(),
        instance.address,
        crate::connection::chain(error)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: &'static str, pushback: Option<&'static str>) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", status.parse().unwrap());
        if let Some(pushback) = pushback {
            headers.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
        }
        Verdict::read(&headers).unwrap()
    }

    #[test]
    fn a_status_speaks_for_the_instance_or_for_the_call() {
        for (status, pushback, outcome) in [
            ("0", None, Outcome::Success),
            ("5", None, Outcome::Success),
            ("14", None, Outcome::Failure),
            ("13", Some("-1"), Outcome::Failure),
            (
                "8",
                Some("1500"),
                Outcome::Throttled {
                    retry_after: Duration::from_millis(1500),
                },
            ),
        ] {
            assert_eq!(verdict(status, pushback).outcome(), outcome, "{status}");
        }
        assert_eq!(Verdict::read(&HeaderMap::new()), None);
    }

    #[test]
    fn a_pushback_that_is_no_time_forbids_it() {
        for text in ["-1", "soon", ""] {
            assert_eq!(verdict("14", Some(text)).pushback, Some(Pushback::Never));
        }
    }
}
