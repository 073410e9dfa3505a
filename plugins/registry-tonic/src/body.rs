//! Bodies: of a request that may be sent again, and of a response whose end is reported.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// The body of a request of which what was sent is kept up to a limit, so that it can be sent again.
#[derive(Clone, Debug)]
pub(crate) struct Replay(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    body: tonic::body::Body,
    /// Which sending may read.
    sending: usize,
    sent: VecDeque<Bytes>,
    /// How many bytes may still be kept; `None` once it cannot be sent again.
    room: Option<usize>,
    ended: bool,
}

impl Replay {
    pub(crate) fn new(body: tonic::body::Body, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            body,
            sending: 0,
            sent: VecDeque::new(),
            room: Some(limit),
            ended: false,
        })))
    }

    /// The body from its beginning. What was handed out before yields no more.
    pub(crate) fn again(&self) -> RequestBody {
        let mut kept = self.lock();
        kept.sending += 1;
        RequestBody {
            sending: kept.sending,
            next: 0,
            replay: self.clone(),
        }
    }

    pub(crate) fn can_be_sent_again(&self) -> bool {
        self.lock().room.is_some()
    }

    /// It will not be sent again.
    pub(crate) fn settle(&self) {
        self.lock().room = None;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, data: &Bytes) {
        self.room = self.room.and_then(|room| room.checked_sub(data.len()));
        if self.room.is_some() {
            self.sent.push_back(data.clone());
        }
    }
}

/// One sending of a [`Replay`].
#[derive(Debug)]
pub(crate) struct RequestBody {
    replay: Replay,
    sending: usize,
    /// How many parts of what is kept this one has sent.
    next: usize,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut kept = this.replay.lock();
        if kept.sending != this.sending {
            return Poll::Ready(Some(Err(Status::cancelled("the call was sent elsewhere"))));
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
        if kept.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut kept.body).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => kept.ended = true,
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => {
                    kept.keep(data);
                    this.next = kept.sent.len();
                }
                None => kept.room = None,
            },
            Poll::Ready(Some(Err(_))) => (kept.room, kept.ended) = (None, true),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.replay.lock();
        self.next == kept.sent.len() && (kept.ended || kept.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn replay(limit: usize) -> Replay {
        let parts = ["one", "two", "three"];
        let frames =
            parts.map(|part| Ok::<_, Status>(Frame::data(Bytes::from_static(part.as_bytes()))));
        let body = StreamBody::new(tokio_stream::iter(frames));
        Replay::new(tonic::body::Body::new(body), limit)
    }

    async fn next(body: &mut RequestBody) -> Option<Bytes> {
        let frame = body.frame().await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    async fn rest(body: RequestBody) -> Bytes {
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
        assert_eq!(error.code(), tonic::Code::Cancelled);
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
}
