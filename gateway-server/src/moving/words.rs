//! What two nodes say to each other while a tenant moves from one to the other: a line of JSON each.

use std::time::Duration;

use at_protocol::directory::{Grant, SignedRecord};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest line: the longest value of a record, each byte of which may be escaped, and room.
const LONGEST: u64 = 64 * 1024 * 1024;

/// What the node says that a tenant leaves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub(super) enum Leaving {
    /// May it move? That is all for now.
    Ask,
    /// May it move? Its rows follow if it may.
    Begin,
    /// It is yours: register a record with this number, and serve it.
    Take {
        /// The number.
        seq: u64,
    },
}

/// What the node says to which a tenant moves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub(super) enum Arriving {
    /// The stream is heard.
    Ready,
    /// It may come, by this grant.
    Welcome {
        /// What the registrar has granted.
        grant: Box<Grant>,
    },
    /// All rows are on disk.
    Stored {
        /// How many.
        rows: u64,
    },
    /// It is not served yet, but will be.
    Waiting {
        /// What for.
        why: String,
    },
    /// It is served here, by this record, which the directory has taken.
    Served {
        /// The record.
        record: Box<SignedRecord>,
    },
    /// It is not served here, and will not be.
    Refused {
        /// Why.
        why: String,
    },
}

/// Why the other side was not heard.
#[derive(Debug, thiserror::Error)]
pub(super) enum WordError {
    /// The connection broke.
    #[error("the connection to the other node broke: {0}")]
    Io(#[from] std::io::Error),
    /// It was silent.
    #[error("the other node said nothing for {PATIENCE:?}")]
    Silent,
    /// It said something else.
    #[error("the other node said something strange: {0}")]
    Strange(String),
}

/// Says one line.
pub(super) async fn say<S: AsyncWrite + Unpin>(
    stream: &mut S,
    word: &(impl Serialize + Sync),
) -> Result<(), WordError> {
    let mut line = serde_json::to_string(word).map_err(|error| WordError::Strange(error.to_string()))?;
    line.push('\n');
    let said = async {
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await
    };
    Ok(timeout(PATIENCE, said).await.map_err(|_| WordError::Silent)??)
}

/// Hears one line, without its end.
pub(super) async fn line<S: AsyncBufRead + Unpin>(stream: &mut S) -> Result<String, WordError> {
    let mut line = String::new();
    let mut bounded = stream.take(LONGEST);
    timeout(PATIENCE, bounded.read_line(&mut line)).await.map_err(|_| WordError::Silent)??;
    if line.pop() == Some('\n') {
        Ok(line)
    } else {
        Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
    }
}

/// Hears one word.
pub(super) async fn hear<S, T>(stream: &mut S) -> Result<T, WordError>
where
    S: AsyncBufRead + Unpin,
    T: for<'de> Deserialize<'de>,
{
    let line = line(stream).await?;
    serde_json::from_str(&line).map_err(|error| WordError::Strange(error.to_string()))
}
