//! The way to the units: over a serial port, or over TCP in either of two framings.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::link::{Link, RtuLink, TcpLink};
use crate::serial::{self, DataBits, Parity, StopBits};

/// A connection that takes longer than this has failed.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the units are, and how they are spoken to.
pub(super) enum Way {
    Serial {
        port: PathBuf,
        baud: u32,
        parity: Parity,
        stop_bits: StopBits,
        timeout: Duration,
        echo: bool,
    },
    /// A serial line whose bytes a converter passes on.
    RtuOverTcp {
        address: String,
        baud: u32,
        timeout: Duration,
        echo: bool,
    },
    Tcp {
        address: String,
        timeout: Duration,
    },
}

impl Way {
    /// The port's path, or host and port.
    pub(super) fn peer(&self) -> String {
        match self {
            Self::Serial { port, .. } => port.display().to_string(),
            Self::RtuOverTcp { address, .. } | Self::Tcp { address, .. } => address.clone(),
        }
    }

    /// The `type` of its table.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Serial { .. } | Self::RtuOverTcp { .. } => "modbus-rtu",
            Self::Tcp { .. } => "modbus-tcp",
        }
    }

    pub(super) async fn open(&self) -> io::Result<Link> {
        match self {
            Self::Serial { port, baud, parity, stop_bits, timeout, echo } => {
                let line = serial::open(port, *baud, DataBits::Eight, *parity, *stop_bits)?;
                Ok(Link::Rtu(RtuLink::new(line, *baud, *timeout).with_echo(*echo)))
            }
            Self::RtuOverTcp { address, baud, timeout, echo } => {
                let stream = connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Link::Rtu(RtuLink::over_connection(stream, *baud, *timeout).with_echo(*echo)))
            }
            Self::Tcp { address, timeout } => Ok(Link::Tcp(TcpLink::new(connect(address).await?, *timeout)?)),
        }
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let connecting = timeout(CONNECT, TcpStream::connect(address));
    connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
