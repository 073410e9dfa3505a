//! The body of a request that may be sent again.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

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
    /// What was read before it was asked for.
    ahead: Option<Read>,
    sent: VecDeque<Bytes>,
    /// How many bytes may still be kept; `None` once it cannot be sent again.
    room: Option<usize>,
    ended: bool,
}

impl<B> Replay<B> {
    /// A body of which up to `limit` bytes are kept.
    pub fn new(body: B, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            body,
            sending: 0,
            ahead: None,
            sent: VecDeque::new(),
            room: Some(limit),
            ended: false,
        })))
    }

    /// The body from its beginning. What was handed out before yields no more.
    pub fn again(&self) -> RequestBody<B> {
        let mut kept = self.lock();
        kept.sending += 1;
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
        if self.room.is_some() {
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
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if kept.room.is_none() {
            // Nobody reads them again.
            kept.sent.clear();
            this.next = 0;
        }
        let read = ready!(kept.read(context));
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
            Some(_) => kept.room = None,
        }
        Poll::Ready(read)
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.replay.lock();
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
        hint.set_lower(again + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(again + upper);
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
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    type Parts = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Part>>>;
    type Part = Result<Frame<Bytes>, BoxError>;

    fn replay(limit: usize) -> Replay<Parts> {
        let parts = ["one", "two", "three"];
        let frames = parts.map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
        let body = StreamBody::new(tokio_stream::iter(Vec::from(frames)));
        Replay::new(body, limit)
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
        assert!(replay.can_be_sent_again());
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
        assert_eq!(next(&mut first).await, None);
        assert!(replay.lock().sent.is_empty());
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
        assert!(!replay.can_be_sent_again());
        assert!(again.frame().await.is_none());
    }
}
