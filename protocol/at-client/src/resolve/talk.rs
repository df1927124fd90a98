//! One connection to a directory.

use std::io;
use std::time::Duration;

use at_protocol::directory::{Address, EXTENDED};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::ResolveError;
use crate::tls::{ClientTls, dial};

/// How long one question may take, or connecting. A directory delays what it does not know by 3 s (wire
/// reference §1.1).
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is kept unused, well below the minute that directories allow at least.
const IDLE: Duration = Duration::from_secs(30);
/// Longest answer of old, in bytes: a DNS name, a port, and room.
const LONGEST: u64 = 512;
/// Longest answer with a record: its line has a bound at the other end, and room.
const LONGEST_RECORD: u64 = at_protocol::directory::LONGEST_EXTENDED as u64 + 64;

/// A connection that was greeted.
pub(super) struct Talk {
    stream: BufReader<TlsStream<TcpStream>>,
    directory: Address,
    used: Instant,
}

impl Talk {
    /// Connects and waits for the prompt.
    pub(super) async fn open(directory: &Address, tls: &ClientTls) -> Result<Self, ResolveError> {
        let stream = BufReader::new(dial(directory, tls, PATIENCE).await?);
        let mut talk = Self { stream, directory: directory.clone(), used: Instant::now() };
        let greeted = timeout(PATIENCE, talk.stream.read_u8()).await;
        match greeted.map_err(|_| talk.silent())?.map_err(|error| talk.broken(error))? {
            b'@' => Ok(talk),
            _ => Err(talk.broken(invalid("it does not begin with a prompt"))),
        }
    }

    /// Whether it takes more than the questions of old.
    pub(super) fn is_extended(&self) -> bool {
        self.stream.get_ref().get_ref().1.alpn_protocol() == Some(EXTENDED)
    }

    /// Whether it may still be open.
    pub(super) fn is_fresh(&self) -> bool {
        self.used.elapsed() < IDLE
    }

    /// Asks one question, a line with its end, and gives the line that answers it.
    pub(super) async fn ask(&mut self, question: &str) -> Result<String, ResolveError> {
        let longest = if self.is_extended() { LONGEST_RECORD } else { LONGEST };
        let stream = &mut self.stream;
        let answered = timeout(PATIENCE, async {
            stream.write_all(question.as_bytes()).await?;
            stream.flush().await?;
            let mut line = String::new();
            stream.take(longest).read_line(&mut line).await?;
            Ok(line)
        });
        let line = answered.await.map_err(|_| self.silent())?.map_err(|error| self.broken(error))?;
        self.used = Instant::now();
        if line.ends_with('\n') {
            Ok(line)
        } else {
            Err(self.broken(io::Error::new(io::ErrorKind::UnexpectedEof, "its answer does not end")))
        }
    }

    /// Takes leave, which is a courtesy.
    pub(super) async fn end(mut self) {
        if let Err(error) = self.stream.write_all(b"@exit\n").await {
            tracing::trace!(%error, "the directory did not wait for the farewell");
        }
    }

    fn silent(&self) -> ResolveError {
        ResolveError::Silent { directory: self.directory.clone() }
    }

    fn broken(&self, source: io::Error) -> ResolveError {
        ResolveError::Io { directory: self.directory.clone(), source }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
