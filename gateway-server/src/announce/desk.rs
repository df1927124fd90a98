//! A connection to the directory on which many records are registered, one after the other without waiting.

use std::io;
use std::time::Duration;

use at_client::tls::{ClientTls, DialError, dial};
use at_protocol::directory::{Address, EXTENDED, LONGEST_EXTENDED};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// How long connecting may take, and each answer: a directory delays by 3 s what it does not know.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer: a line, which has a bound at the other end, and the prompt before it.
const LONGEST: u64 = LONGEST_EXTENDED as u64 + 64;

/// A directory that takes records.
pub(super) struct Desk {
    reads: BufReader<ReadHalf<TlsStream<TcpStream>>>,
    writes: WriteHalf<TlsStream<TcpStream>>,
}

/// Why a directory was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeskError {
    /// It cannot be reached.
    #[error("cannot reach the directory: {0}")]
    Dial(#[from] DialError),
    /// It is one of old.
    #[error("the directory {0} takes no signed records; does it run a program that does?")]
    Old(Address),
    /// It ended the connection.
    #[error("the directory broke off: {0}")]
    Io(#[from] io::Error),
    /// It does not answer.
    #[error("the directory did not answer within {PATIENCE:?}")]
    Silent,
}

impl Desk {
    /// Connects. `tls` offers what directories of today speak.
    pub(super) async fn open(directory: &Address, tls: &ClientTls) -> Result<Self, DeskError> {
        let mut stream = dial(directory, tls, PATIENCE).await?;
        if stream.get_ref().1.alpn_protocol() != Some(EXTENDED) {
            return Err(DeskError::Old(directory.clone()));
        }
        let prompt = timeout(PATIENCE, stream.read_u8()).await.map_err(|_| DeskError::Silent)??;
        if prompt != b'@' {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let (reads, writes) = split(stream);
        Ok(Self { reads: BufReader::new(reads), writes })
    }

    /// Says all lines and gives as many answers, without the prompts.
    pub(super) async fn ask(&mut self, lines: &[String]) -> Result<Vec<String>, DeskError> {
        let Self { reads, writes } = self;
        let said = async {
            for line in lines {
                writes.write_all(line.as_bytes()).await?;
            }
            writes.flush().await.map_err(DeskError::from)
        };
        let heard = async {
            let mut answers = Vec::with_capacity(lines.len());
            while answers.len() < lines.len() {
                let mut line = String::new();
                let mut bounded = (&mut *reads).take(LONGEST);
                timeout(PATIENCE, bounded.read_line(&mut line)).await.map_err(|_| DeskError::Silent)??;
                let answer = line.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof);
                let answer = answer.map_err(io::Error::from)?.trim_end().trim_start_matches('@');
                answers.push(answer.to_owned());
            }
            Ok(answers)
        };
        // At the same time: neither side may wait for the other to read.
        let ((), answers) = tokio::try_join!(said, heard)?;
        Ok(answers)
    }

    /// Takes leave, which is a courtesy.
    pub(super) async fn end(mut self) {
        let farewell = async {
            self.writes.write_all(b"@exit\n").await?;
            self.writes.shutdown().await
        };
        if let Ok(Err(error)) = timeout(PATIENCE, farewell).await {
            tracing::trace!(%error, "the directory did not wait for the farewell");
        }
    }
}
