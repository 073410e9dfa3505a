//! What an answer says of the instance, told when it has ended.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy;
use pin_project_lite::pin_project;
use registry_core::{Outcome, Pick};

/// What hyper's connector says of HTTPS, where it has no TLS; as text only.
const NO_TLS: &str = "invalid URL, scheme is not http";

/// What came of sending a request to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `None`: it says nothing of the instance.
    pub(crate) outcome: Option<Outcome>,
    /// The instance cannot have seen it.
    pub(crate) unseen: bool,
    /// Another one may do better.
    pub(crate) retriable: bool,
}

impl Verdict {
    pub(crate) const LATE: Self = Self::failed(Outcome::Failure);
    /// It went wrong on this side.
    pub(crate) const OURS: Self = Self {
        outcome: None,
        unseen: false,
        retriable: false,
    };

    const fn failed(outcome: Outcome) -> Self {
        Self {
            outcome: Some(outcome),
            unseen: false,
            retriable: true,
        }
    }

    /// Of an answer, by its head.
    pub(crate) fn answered<B>(response: &Response<B>) -> Self {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER);
        // A date is not read: clocks differ by more than such pauses are long.
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let outcome = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                seconds.map_or(Outcome::Failure, |seconds| Outcome::Throttled {
                    retry_after: Duration::from_secs(seconds),
                })
            }
            StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Failure,
            _ => Outcome::Success,
        };
        Self {
            outcome: Some(outcome),
            unseen: false,
            retriable: matches!(status.as_u16(), 502..=504),
        }
    }

    /// Of an error of the client.
    pub(crate) fn error(error: &(dyn StdError + 'static)) -> Self {
        let unseen = |outcome| Self {
            unseen: true,
            ..Self::failed(outcome)
        };
        for error in chain(error) {
            if is_connect(error) {
                return match chain(error).any(|error| error.to_string() == NO_TLS) {
                    true => Self::OURS,
                    false => unseen(Outcome::Unreachable),
                };
            }
            if was_never_written(error) {
                return unseen(Outcome::Failure);
            }
            if is_ours(error) {
                return Self::OURS;
            }
        }
        Self::failed(Outcome::Failure)
    }
}

/// An error and those that caused it.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Whether the client itself gave up waiting.
pub(crate) fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| {
        #[cfg(feature = "reqwest")]
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            return error.is_timeout();
        }
        let hyper = error.downcast_ref::<hyper::Error>();
        let io = error.downcast_ref::<io::Error>();
        hyper.is_some_and(hyper::Error::is_timeout)
            || io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}

fn is_connect(error: &(dyn StdError + 'static)) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let connect = error
        .downcast_ref::<legacy::Error>()
        .is_some_and(legacy::Error::is_connect);
    connect
        || error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                ConnectionRefused | HostUnreachable | NetworkUnreachable
            )
        })
}

/// Its connection ended before.
fn was_never_written(error: &(dyn StdError + 'static)) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_canceled)
}

/// Such as a body that failed, or a request that cannot be written: no fault of the instance.
fn is_ours(error: &(dyn StdError + 'static)) -> bool {
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return error.is_builder();
    }
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_user)
}

pin_project! {
    /// The body of an answer: reports how the request went when it has ended. Dropped before, the request was given up,
    /// which says nothing of the instance.
    pub struct ResponseBody<B> {
        #[pin]
        body: B,
        pick: Option<Pick>,
    }
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn new(body: B, mut pick: Option<Pick>) -> Self {
        if body.is_end_stream() {
            report(&mut pick, Outcome::Success);
        }
        Self { body, pick }
    }
}

fn report(pick: &mut Option<Pick>, outcome: Outcome) {
    if let Some(pick) = pick.take() {
        pick.report(outcome);
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = ready!(this.body.as_mut().poll_frame(context));
        match &polled {
            // Who knows the length stops there.
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            Some(Ok(_)) | None => report(this.pick, Outcome::Success),
            Some(Err(_)) => report(this.pick, Outcome::Failure),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{Full, StreamBody};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;
    use crate::error::{BoxError, CallError, CallErrorKind};

    fn answered(status: u16, retry_after: Option<&str>) -> Verdict {
        let mut response = Response::builder().status(status);
        if let Some(text) = retry_after {
            response = response.header(RETRY_AFTER, text);
        }
        Verdict::answered(&response.body(()).unwrap())
    }

    #[test]
    fn a_status_speaks_for_the_instance_or_for_the_request() {
        let throttled = Outcome::Throttled {
            retry_after: Duration::from_secs(7),
        };
        for (status, retry_after, outcome, retriable) in [
            (200, None, Outcome::Success, false),
            (302, None, Outcome::Success, false),
            (404, None, Outcome::Success, false),
            (501, None, Outcome::Success, false),
            (500, None, Outcome::Failure, false),
            (429, None, Outcome::Failure, false),
            (429, Some("7"), throttled, false),
            (502, None, Outcome::Failure, true),
            (503, Some("7"), throttled, true),
            (503, Some("soon"), Outcome::Failure, true),
            (504, Some("7"), Outcome::Failure, true),
        ] {
            let verdict = answered(status, retry_after);
            assert_eq!(verdict.outcome, Some(outcome), "{status}");
            assert_eq!(verdict.retriable, retriable, "{status}");
            assert!(!verdict.unseen);
        }
    }

    /// What a connection says that did not get this request through.
    async fn failed<B>(body: B, ended: bool) -> hyper::Error
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (io, _server) = tokio::io::duplex(1000);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io));
        let (mut send, connection) = handshake.await.unwrap();
        match ended {
            true => drop(connection),
            false => drop(tokio::spawn(connection)),
        }
        send.send_request(Request::post("/").body(body).unwrap())
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn a_request_that_was_never_written_was_seen_by_nobody() {
        let error = failed(Full::<Bytes>::default(), true).await;
        let verdict = Verdict::error(&error);
        assert!(verdict.unseen, "{error:?}");
        assert_eq!(verdict.outcome, Some(Outcome::Failure));
    }

    #[tokio::test]
    async fn a_body_that_fails_says_nothing_of_the_instance() {
        let broken = tokio_stream::iter([Err::<Frame<Bytes>, _>("broken")]);
        let error = failed(StreamBody::new(broken), false).await;
        assert_eq!(Verdict::error(&error), Verdict::OURS, "{error:?}");
    }

    #[tokio::test]
    async fn what_the_client_could_not_connect_to_has_not_seen_it() {
        let client = legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let dead = tokio::net::TcpSocket::new_v4().unwrap();
        dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = dead.local_addr().unwrap();
        let error = |url: String| client.get(url.parse().unwrap());
        let refused = error(format!("http://{address}/")).await.unwrap_err();
        let verdict = Verdict::error(&refused);
        assert!(verdict.unseen);
        assert_eq!(verdict.outcome, Some(Outcome::Unreachable));
        let no_tls = error(format!("https://{address}/")).await.unwrap_err();
        assert_eq!(Verdict::error(&no_tls), Verdict::OURS, "{no_tls:?}");
    }

    #[test]
    fn who_cannot_be_reached_has_not_seen_it() {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        };
        for kind in [ConnectionRefused, HostUnreachable, NetworkUnreachable] {
            // As clients wrap it.
            let wrapped = CallError::new(CallErrorKind::Broken, "").because(io::Error::from(kind));
            let verdict = Verdict::error(&wrapped);
            assert!(verdict.unseen && verdict.retriable, "{kind}");
            assert_eq!(verdict.outcome, Some(Outcome::Unreachable));
        }
        for kind in [BrokenPipe, ConnectionReset] {
            let verdict = Verdict::error(&io::Error::from(kind));
            assert_eq!(verdict, Verdict::LATE, "{kind}");
        }
    }
}
