//! Whether a peer speaks HTTP/2, told by its first words.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Something to read from and to write to.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The length of a frame's header.
const HEADER: usize = 9;
/// The type of the frame that every peer begins with.
const SETTINGS: u8 = 4;

/// Passes on all, and tells when the peer's first frame has come or what came in its place. HTTP/2 is ready for
/// requests before that, and a request to a peer that speaks something else would be lost.
pub(crate) struct Greeting {
    wire: Box<dyn Wire>,
    heard: Vec<u8>,
    tell: Option<oneshot::Sender<Result<(), String>>>,
}

impl Greeting {
    pub(crate) fn new(wire: Box<dyn Wire>) -> (Self, oneshot::Receiver<Result<(), String>>) {
        let (tell, told) = oneshot::channel();
        let this = Self {
            wire,
            heard: Vec::with_capacity(HEADER),
            tell: Some(tell),
        };
        (this, told)
    }

    fn hear(&mut self, new: &[u8]) -> io::Result<()> {
        let missing = HEADER - self.heard.len();
        self.heard.extend_from_slice(&new[..missing.min(new.len())]);
        let Some(&[_, _, _, kind, _, stream @ ..]) = self.heard.first_chunk::<HEADER>() else {
            return Ok(());
        };
        let settings = kind == SETTINGS && stream == [0; 4];
        let verdict = settings.then_some(()).ok_or_else(|| {
            let said = String::from_utf8_lossy(new);
            let said: String = said.chars().take(40).collect();
            format!("the peer does not speak HTTP/2, it said {said:?}; is this address that of a gRPC server?")
        });
        if let Some(tell) = self.tell.take() {
            // Whoever made the connection may have given up.
            let _ = tell.send(verdict.clone());
        }
        verdict.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

impl AsyncRead for Greeting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.wire).poll_read(context, buffer))?;
        if self.tell.is_some() {
            self.hear(&buffer.filled()[before..])?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}
