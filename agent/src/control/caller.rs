//! Asks a running agent.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Answer, Ask};

/// How long an answer may take: that of a reload waits until adapters have stopped.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("no agent runs here ({}: {cause}). Start it (`systemctl start atedge-agent`), or say where it is (`--state`, `--socket`)", socket.display())]
    Down {
        /// Where it was asked.
        socket: PathBuf,
        /// The system's words.
        cause: io::Error,
    },
    /// The socket is not ours to open.
    #[error("{} is not yours to open: ask as root, as the agent's user, or as a member of its group (`usermod -aG atedge-agent USER`)", .0.display())]
    Forbidden(PathBuf),
    /// It was asked and did not answer, or not in words that we know.
    #[error("the agent at {} did not answer: {cause}", socket.display())]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// What happened.
        cause: io::Error,
    },
}

/// An agent that was asked, and what it says.
pub struct Call {
    socket: PathBuf,
    lines: BufReader<UnixStream>,
}

impl Call {
    /// Asks the agent at `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or not to us.
    pub fn new(socket: &Path, ask: &Ask) -> Result<Self, CallError> {
        let stream = UnixStream::connect(socket).map_err(|cause| {
            let socket = socket.to_owned();
            if cause.kind() == io::ErrorKind::PermissionDenied {
                CallError::Forbidden(socket)
            } else {
                CallError::Down { socket, cause }
            }
        })?;
        let mut call = Self { socket: socket.to_owned(), lines: BufReader::new(stream) };
        call.say(ask).map_err(|cause| call.silent(cause))?;
        Ok(call)
    }

    fn say(&mut self, ask: &Ask) -> io::Result<()> {
        let stream = self.lines.get_mut();
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{}", serde_json::to_string(ask)?)
    }

    fn silent(&self, cause: io::Error) -> CallError {
        CallError::Silent { socket: self.socket.clone(), cause }
    }

    /// The next line of an answer that goes on until the agent ends; waits for it as long as it takes.
    ///
    /// # Errors
    /// The agent hangs up in the middle, or says what is not understood.
    pub fn next_line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CallError> {
        let mut line = String::new();
        let read = self.lines.get_ref().set_read_timeout(None).and_then(|()| self.lines.read_line(&mut line));
        let parsed = read.and_then(|count| match count {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        });
        parsed.map_err(|cause| self.silent(cause))
    }

    /// The answer.
    ///
    /// # Errors
    /// It does not come, or is not understood.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<Answer<T>, CallError> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).and_then(|count| match count {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(serde_json::from_str(&line)?),
        });
        read.map_err(|cause| self.silent(cause))
    }
}
