//! WebSocket messages as a stream of lines, and back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Longest message, in bytes: the longest line of a stranger. A longer line, once authenticated, comes over
/// TLS, since a message is in memory before it can be counted.
pub(super) const MAX_MESSAGE: usize = at_protocol::line::MAX_ANONYMOUS;
/// Bytes that are read at once: a connection has them all the time.
const READ: usize = 4 * 1024;

/// A WebSocket as the session sees it: each text message that comes is a line, or several, and each write is
/// one message. Pings are answered as they are read.
pub(super) struct Lines<S> {
    socket: WebSocketStream<S>,
    /// What was received and not read yet.
    received: Bytes,
    /// Whether a line end is still to be read after that.
    owed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lines<S> {
    /// A connection on which the WebSocket has been agreed.
    pub(super) async fn new(stream: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { socket, received: Bytes::new(), owed: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Lines<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let fits = self.received.len().min(buffer.remaining());
            buffer.put_slice(&self.received.split_to(fits));
            if self.received.is_empty() && self.owed && buffer.remaining() > 0 {
                buffer.put_slice(b"\n");
                self.owed = false;
            }
            if !buffer.filled().is_empty() || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Text(text))) => {
                    self.owed = !text.ends_with('\n');
                    self.received = text.into();
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not a text message",
                    )));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lines<S> {
    /// The session writes whole texts.
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let text =
            std::str::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(io::Error::other)?;
        Pin::new(&mut self.socket).start_send(Message::text(text)).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(io::Error::other)
    }
}
