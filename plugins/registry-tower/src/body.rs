//! The body of a request that may be sent again.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;

/// The body of a request of which what was sent is kept up to a limit, so that it can be sent again.
pub struct Replay<B>(Arc<Mutex<Kept<B>>>);

type Read = Result<Frame<Bytes>, BoxError>;

struct Kept<B> {
    body: B,
    /// Which sending may read.
    sending: usize,
    /// Whom the body wakes.
    waker: Option<Waker>,
    /// What was read before it was asked for.
    ahead: Option<Read>,
    sent: VecDeque<Bytes>,
    /// How many bytes may still be kept; `None` once it cannot be sent again.
    room: Option<usize>,
    ended: bool,
    /// Whether something of the latest sending was read.
    begun: bool,
    failed: bool,
}

impl<B> Replay<B> {
    /// A body of which up to `limit` bytes are kept.
    pub fn new(body: B, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            body,
            sending: 0,
            waker: None,
            ahead: None,
            sent: VecDeque::new(),
            room: Some(limit),
            ended: false,
            begun: false,
            failed: false,
        })))
    }

    /// The body from its beginning. What was handed out before yields no more.
    pub fn again(&self) -> RequestBody<B> {
        let mut kept = self.lock();
        kept.sending += 1;
        kept.begun = false;
        // What was handed out before learns that it ends.
        if let Some(waker) = kept.waker.take() {
            waker.wake();
        }
        RequestBody {
            sending: kept.sending,
            next: 0,
            replay: Self(self.0.clone()),
        }
    }

    /// Whether all that was sent is kept: it has no trailers, and is not longer than the limit so far.
    pub fn can_be_sent_again(&self) -> bool {
        self.lock().room.is_some()
    }

    /// It will not be sent again.
    pub fn settle(&self) {
        self.lock().room = None;
    }

    /// Whether who it was sent to last has read of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.lock().begun
    }

    /// Whether it failed by itself while it was sent.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, Kept<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Kept<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Read>> {
        if let Some(read) = self.ahead.take() {
            return Poll::Ready(Some(read));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let whole = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        let read = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended = !matches!(read, Some(Ok(_)));
        Poll::Ready(read.map(|read| match read {
            Ok(frame) => Ok(frame.map_data(whole)),
            Err(error) => Err(error.into()),
        }))
    }

    fn keep(&mut self, data: &Bytes) {
        self.room = self.room.and_then(|room| room.checked_sub(data.len()));
        if self.room.is_some() && !data.is_empty() {
            self.sent.push_back(data.clone());
        }
    }
}

/// One sending of a [`Replay`]: the body of the requests that the inner service gets.
pub struct RequestBody<B> {
    replay: Replay<B>,
    sending: usize,
    /// How many parts of what is kept this one has sent.
    next: usize,
}

impl<B> Body for RequestBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut kept = this.replay.lock();
        if kept.sending != this.sending {
            return Poll::Ready(Some(Err("the request was sent elsewhere".into())));
        }
        if let Some(data) = kept.sent.get(this.next).cloned() {
            kept.begun = true;
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if kept.room.is_none() {
            // Nobody reads them again.
            kept.sent.clear();
            this.next = 0;
        }
        let read = match kept.read(context) {
            Poll::Ready(read) => read,
            Poll::Pending => {
                kept.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        };
        kept.begun |= read.is_some();
        match read.as_ref().map(|read| read.as_ref().map(Frame::data_ref)) {
            None => {}
            Some(Ok(Some(data))) => {
                kept.keep(data);
                this.next = kept.sent.len();
                // Known to be the last, it ends the stream itself: HTTP/2 then sends one frame less.
                if let Poll::Ready(ahead) = kept.read(context) {
                    kept.ahead = ahead;
                }
            }
            // Trailers, or an error.
            Some(other) => {
                kept.failed = other.is_err();
                kept.room = None;
            }
        }
        Poll::Ready(read)
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.replay.lock();
        // Elsewhere it may have ended.
        if kept.sending != self.sending {
            return false;
        }
        let rest = kept.ahead.is_some() || !(kept.ended || kept.body.is_end_stream());
        self.next == kept.sent.len() && !rest
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.replay.lock();
        let ahead = match &kept.ahead {
            Some(Ok(frame)) => frame.data_ref(),
            _ => None,
        };
        let again = kept.sent.iter().skip(self.next).chain(ahead);
        let again = again.map(Bytes::len).sum::<usize>() as u64;
        let rest = match kept.ended {
            true => SizeHint::with_exact(0),
            false => kept.body.size_hint(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(again.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(again.saturating_add(upper));
        }
        hint
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::time::timeout;

    use super::*;

    type Parts = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Part>>>;
    type Part = Result<Frame<Bytes>, BoxError>;

    fn parts() -> Parts {
        let parts = ["one", "two", "three"];
        let frames = parts.map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
        StreamBody::new(tokio_stream::iter(Vec::from(frames)))
    }

    fn replay(limit: usize) -> Replay<Parts> {
        Replay::new(parts(), limit)
    }

    async fn next(body: &mut RequestBody<Parts>) -> Option<Bytes> {
        let frame = body.frame().await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    async fn rest(body: RequestBody<Parts>) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn it_is_sent_again_from_its_beginning() {
        let replay = replay(100);
        let mut first = replay.again();
        assert_eq!(next(&mut first).await.unwrap(), "one");
        assert_eq!(next(&mut first).await.unwrap(), "two");
        assert!(replay.can_be_sent_again() && replay.has_begun());
        let mut second = replay.again();
        assert!(!replay.has_begun());
        assert_eq!(next(&mut second).await.unwrap(), "one");
        assert!(replay.has_begun());
        assert_eq!(rest(replay.again()).await, "onetwothree");
        assert_eq!(rest(replay.again()).await, "onetwothree");
        let error = first.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the request was sent elsewhere");
    }

    #[tokio::test]
    async fn what_is_longer_than_the_limit_is_sent_once() {
        let replay = replay(7);
        let mut first = replay.again();
        next(&mut first).await.unwrap();
        next(&mut first).await.unwrap();
        assert!(replay.can_be_sent_again());
        assert_eq!(next(&mut first).await.unwrap(), "three");
        assert!(!replay.can_be_sent_again());
        // What is over the limit is not kept until then either.
        assert_eq!(replay.lock().sent.len(), 2);
        assert_eq!(next(&mut first).await, None);
        assert!(replay.lock().sent.is_empty());
        assert!(first.is_end_stream());
    }

    #[tokio::test]
    async fn a_second_sending_that_is_settled_midway_is_whole() {
        let replay = replay(100);
        next(&mut replay.again()).await.unwrap();
        let mut second = replay.again();
        assert_eq!(next(&mut second).await.unwrap(), "one");
        replay.settle();
        assert_eq!(rest(second).await, "twothree");
        assert!(replay.lock().sent.is_empty());
    }

    #[tokio::test]
    async fn its_length_is_told_where_it_is_known() {
        let replay = Replay::new(Full::new(Bytes::from_static(b"all")), 100);
        let mut first = replay.again();
        assert_eq!(first.size_hint().exact(), Some(3));
        first.frame().await.unwrap().unwrap();
        assert_eq!(first.size_hint().exact(), Some(0));
        assert!(first.is_end_stream());
        let second = replay.again();
        assert_eq!(second.size_hint().exact(), Some(3));
        assert!(!second.is_end_stream());
        let empty = Replay::new(Full::<Bytes>::default(), 100).again();
        assert!(empty.is_end_stream());
    }

    #[tokio::test]
    async fn its_last_part_ends_it() {
        let replay = replay(100);
        let mut body = replay.again();
        for _ in 0..2 {
            next(&mut body).await.unwrap();
            assert!(!body.is_end_stream());
        }
        assert_eq!(next(&mut body).await.unwrap(), "three");
        assert!(body.is_end_stream());
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sending_that_waits_learns_that_it_was_sent_elsewhere() {
        let body = StreamBody::new(tokio_stream::pending::<Part>());
        let replay = Replay::new(body, 100);
        let mut first = replay.again();
        let limit = Duration::from_secs(10);
        let waits = tokio::spawn(async move { first.frame().await });
        // It waits once it has run as far as it can.
        tokio::task::yield_now().await;
        let _second = replay.again();
        let woken = timeout(limit, waits).await.expect("it was woken");
        let error = woken.unwrap().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the request was sent elsewhere");
    }

    #[tokio::test]
    async fn a_sending_does_not_end_because_another_one_has() {
        let replay = replay(7);
        let mut first = replay.again();
        for _ in 0..2 {
            next(&mut first).await.unwrap();
        }
        let mut second = replay.again();
        for _ in 0..3 {
            next(&mut second).await.unwrap();
        }
        assert!(second.is_end_stream());
        assert!(!first.is_end_stream());
    }

    #[tokio::test]
    async fn a_length_that_is_hardly_known_is_no_overflow() {
        struct Long;

        impl Body for Long {
            type Data = Bytes;
            type Error = BoxError;

            fn poll_frame(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Read>> {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
            }

            fn size_hint(&self) -> SizeHint {
                SizeHint::with_exact(u64::MAX)
            }
        }

        let replay = Replay::new(Long, 100);
        replay.again().frame().await.unwrap().unwrap();
        assert_eq!(replay.again().size_hint().exact(), Some(u64::MAX));
    }

    #[tokio::test]
    async fn parts_without_data_are_not_kept() {
        let empty = || Ok(Frame::data(Bytes::new()));
        let body: Parts = StreamBody::new(tokio_stream::iter(vec![empty(), empty()]));
        let replay = Replay::new(body, 100);
        rest(replay.again()).await;
        assert!(replay.lock().sent.is_empty() && replay.can_be_sent_again());
    }

    #[tokio::test]
    async fn a_body_that_has_ended_or_failed_is_not_asked_again() {
        let broken: Part = Err("broken".into());
        for last in [None, Some(broken)] {
            let mut last = Some(last);
            let parts = std::iter::from_fn(move || last.take().expect("it was asked again"));
            let body = StreamBody::new(tokio_stream::iter(parts));
            let mut body = Replay::new(body, 100).again();
            let failed: Option<Part> = body.frame().await;
            assert!(failed.is_none_or(|read| read.is_err()));
            assert!(body.frame().await.is_none());
            assert_eq!(body.size_hint().exact(), Some(0));
        }
    }

    #[tokio::test]
    async fn trailers_are_sent_once() {
        let parts = [
            Ok(Frame::data(Bytes::from_static(b"one"))),
            Ok(Frame::trailers(http::HeaderMap::new())),
        ];
        let body: Parts = StreamBody::new(tokio_stream::iter(Vec::from(parts)));
        let replay = Replay::new(body, 100);
        assert_eq!(next(&mut replay.again()).await.unwrap(), "one");
        let mut again = replay.again();
        assert_eq!(next(&mut again).await.unwrap(), "one");
        assert!(!again.is_end_stream() && replay.can_be_sent_again());
        assert!(again.frame().await.unwrap().unwrap().is_trailers());
        assert!(!replay.can_be_sent_again() && !replay.has_failed());
    }

    #[tokio::test]
    async fn an_error_comes_after_what_came_before_it() {
        let parts = [
            Ok(Frame::data(Bytes::from_static(b"one"))),
            Err("broken".into()),
        ];
        let body: Parts = StreamBody::new(tokio_stream::iter(Vec::from(parts)));
        let replay = Replay::new(body, 100);
        assert_eq!(next(&mut replay.again()).await.unwrap(), "one");
        let mut again = replay.again();
        assert_eq!(next(&mut again).await.unwrap(), "one");
        assert!(!again.is_end_stream() && replay.can_be_sent_again());
        let error = again.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "broken");
        assert!(!replay.can_be_sent_again() && replay.has_failed());
        assert!(again.frame().await.is_none());
    }
}
