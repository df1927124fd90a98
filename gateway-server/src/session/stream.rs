//! The ends of a stream: a connection whose bytes go to another as they are (atProtocol wire reference
//! §4.22).

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Connection, Flow, READ, Stop, now, read, write};
use crate::streams::{Receiving, Sending};

/// What a connection has to do with a stream.
pub(super) enum End {
    /// It has announced one, which nobody has taken yet.
    Offered {
        sending: Box<Sending>,
        /// Until when somebody may take it.
        until: Instant,
    },
    /// It takes one.
    Taken(Receiving),
}

/// What happened to a stream while its connection waited.
enum Event {
    /// Somebody takes what this connection sends.
    Wanted(mpsc::Sender<Vec<u8>>),
    /// Nobody does, or another has its id now.
    Forgotten,
    /// It was ended before anybody took it.
    Done,
    /// Bytes for this connection.
    Bytes(Vec<u8>),
    /// There will be none any more.
    Ended,
}

impl End {
    /// The next event. Cancel-safe.
    async fn event(&mut self) -> Event {
        match self {
            Self::Offered { sending, until } => tokio::select! {
                taken = &mut sending.taken => taken.map_or(Event::Forgotten, Event::Wanted),
                done = &mut sending.done => done.map_or(Event::Forgotten, |()| Event::Done),
                () = tokio::time::sleep_until(*until) => Event::Forgotten,
            },
            Self::Taken(receiving) => receiving.recv().await.map_or(Event::Ended, Event::Bytes),
        }
    }

    /// What the sender is told when somebody has ended the stream that it offers.
    pub(super) fn farewell(&mut self) -> Option<String> {
        match self {
            Self::Offered { sending, .. } => sending.done.try_recv().is_ok().then(|| done(sending)),
            Self::Taken(_) => None,
        }
    }
}

fn done(sending: &Sending) -> String {
    format!("stream:done {}\n", sending.id())
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    /// Waits as the others do, and for what happens to the stream. What the connection watches waits
    /// meanwhile: it has no place among the bytes.
    pub(super) async fn wait_with_stream(
        &mut self,
        mut end: Box<End>,
        deadline: std::time::Instant,
        mut stop: Pin<&mut Stop<'_>>,
    ) -> Flow {
        let event = tokio::select! {
            event = end.event() => Some(event),
            read = read(&mut self.stream, &mut self.lines) => match read {
                Ok(size) if size > 0 => None,
                Ok(_) | Err(_) => return Flow::Break(()),
            },
            () = tokio::time::sleep_until(deadline.into()) => None,
            () = stop.as_mut() => return Flow::Break(()),
        };
        self.streaming = Some(end);
        match event {
            Some(event) => self.on_stream(event, stop).await,
            None => Flow::Continue(()),
        }
    }

    /// Does what an event asks for.
    async fn on_stream(&mut self, event: Event, stop: Pin<&mut Stop<'_>>) -> Flow {
        match event {
            Event::Bytes(bytes) => {
                // It is not idle.
                self.session.stay(now());
                write(&mut self.stream, &bytes, self.node.config.limits.node.write).await
            }
            Event::Ended => self.close().await,
            Event::Done => {
                if let Some(End::Offered { sending, .. }) = self.streaming.take().map(|end| *end) {
                    self.say(&done(&sending)).await?;
                }
                self.close().await
            }
            Event::Forgotten => {
                self.streaming = None;
                Flow::Continue(())
            }
            Event::Wanted(pipe) => match self.streaming.take().map(|end| *end) {
                Some(End::Offered { sending, .. }) => self.forward(*sending, pipe, stop).await,
                Some(End::Taken(_)) | None => Flow::Break(()),
            },
        }
    }

    /// From now on all that comes goes to the receiver, until either end leaves or the receiver has it all.
    async fn forward(
        &mut self,
        mut sending: Sending,
        pipe: mpsc::Sender<Vec<u8>>,
        mut stop: Pin<&mut Stop<'_>>,
    ) -> Flow {
        self.say(&format!("stream:ack {}\n", sending.id())).await?;
        self.flush().await?;
        let idle = self.node.config.streams.idle;
        let early = self.lines.pending().to_vec();
        self.lines.clear_pending();
        if !early.is_empty() && pipe.send(early).await.is_err() {
            return Flow::Break(());
        }
        let mut bytes = vec![0; READ];
        loop {
            let next = async {
                // First a place for the bytes: who reads no more than can go on holds its peer back.
                let place = pipe.reserve().await.ok()?;
                let size = self.stream.read(&mut bytes).await.ok().filter(|size| *size > 0)?;
                Some((place, size))
            };
            tokio::select! {
                // Whoever says that all has arrived leaves after it: both may be seen at once.
                biased;
                arrived = &mut sending.done => {
                    if arrived.is_ok() {
                        self.say(&done(&sending)).await?;
                    }
                    return self.close().await;
                }
                read = next => match read {
                    Some((place, size)) => place.send(bytes[..size].to_vec()),
                    None => return self.close().await,
                },
                () = pipe.closed() => return self.close().await,
                () = tokio::time::sleep(idle) => return self.close().await,
                () = stop.as_mut() => return Flow::Break(()),
            }
        }
    }
}
