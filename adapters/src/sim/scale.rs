//! A device on a serial line: it writes lines to a pseudo-terminal that an adapter opens by its path.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_serial::{SerialPort as _, SerialStream};

/// A scale that weighs when it is told to, and keeps what it was sent.
pub struct Scale {
    device: SerialStream,
    /// The end that adapters open; held open here, so that the line lives without them. A plain file,
    /// since a serial port locks it against them.
    _line: File,
    path: PathBuf,
}

/// The scale's line failed.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// No pseudo-terminal is to be had.
    #[error("cannot make a pseudo-terminal: {0}")]
    Make(tokio_serial::Error),
    /// The system did not name the pseudo-terminal.
    #[error("the pseudo-terminal has no name")]
    Nameless,
    /// Writing or reading failed.
    #[error("the serial line failed: {0}")]
    Line(#[from] std::io::Error),
}

impl Scale {
    /// A scale at the far end of a new pseudo-terminal. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system has no pseudo-terminal to give.
    pub fn new() -> Result<Self, ScaleError> {
        let (device, mut line) = SerialStream::pair().map_err(ScaleError::Make)?;
        line.set_exclusive(false).map_err(ScaleError::Make)?;
        let path = line.name().map(PathBuf::from).ok_or(ScaleError::Nameless)?;
        Ok(Self { device, _line: File::open(&path)?, path })
    }

    /// The path that an adapter opens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one line with its CR LF.
    ///
    /// # Errors
    /// The line failed.
    pub async fn say(&mut self, line: &str) -> Result<(), ScaleError> {
        self.device.write_all(format!("{line}\r\n").as_bytes()).await?;
        Ok(())
    }

    /// The next bytes that an adapter sent, at most 256.
    ///
    /// # Errors
    /// The line failed.
    pub async fn hear(&mut self) -> Result<Vec<u8>, ScaleError> {
        let mut buffer = [0; 256];
        let length = self.device.read(&mut buffer).await?;
        Ok(buffer[..length].to_vec())
    }
}
