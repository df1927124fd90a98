//! Many strangers and one honest client: connections from other loopback addresses, and what the honest one
//! feels of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket, socket_with};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::wire::Wire;

/// Where strangers come from: another source than everybody else on this machine.
pub const STRANGERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Connects from an address of choice within 127.0.0.0/8.
///
/// # Errors
/// Nobody takes the connection, or this process may not have so many.
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&descriptor, &SocketAddr::from((from, 0)))?;
    connect(&descriptor, &to).with_context(|| format!("cannot connect to {to} from {from}"))?;
    let stream = TcpStream::from(descriptor);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same, without waiting whether anybody takes the connection.
///
/// # Errors
/// This process may not have so many.
pub fn begin_from(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let descriptor = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    bind(&descriptor, &SocketAddr::from((from, 0)))?;
    match connect(&descriptor, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(descriptor)),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {to} from {from}")),
    }
}

/// The first bytes of a TLS handshake, as a client writes them; good for any number of connections.
///
/// # Errors
/// Never with a sound configuration.
pub fn hello(config: &Arc<ClientConfig>) -> Result<Vec<u8>> {
    let mut client = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes)?;
    }
    Ok(bytes)
}

/// Whether the other end has closed; waits for it up to `patience`, and drops what it says meanwhile.
///
/// # Errors
/// The socket cannot be used at all.
pub fn is_closed_within(mut socket: &TcpStream, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut bytes = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(_) => return Ok(true),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// Says one byte on each socket, which may be gone.
pub fn trickle(sockets: &[TcpStream], byte: u8) {
    for mut socket in sockets {
        // Whether it was cut off is found out later.
        socket.write_all(&[byte]).ok();
    }
}

/// How long an honest client's requests took.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Asks the same thing again and again, each time `pause` after the answer before has come.
    ///
    /// # Errors
    /// An answer is none.
    pub fn of(wire: &mut Wire, line: &str, times: usize, pause: Duration) -> Result<Self> {
        let mut latencies = Self::default();
        for _ in 0..times {
            let began = Instant::now();
            let answer = wire.ask(line)?;
            latencies.note(began.elapsed());
            ensure!(answer.starts_with("data:"), "{line:.40} was answered {answer:.80}");
            std::thread::sleep(pause);
        }
        Ok(latencies)
    }

    /// Adds one.
    pub fn note(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Adds another's.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The time within which 99 of 100 were answered, in milliseconds.
    #[must_use]
    pub fn p99_ms(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        sorted.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// A figure with two digits behind the point.
#[must_use]
pub fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_a_hundred_counts() {
        let mut latencies = Latencies::default();
        (1..=100).rev().for_each(|ms| latencies.note(Duration::from_millis(ms)));
        assert_eq!(rounded(latencies.p99_ms()), 99.0);
        assert_eq!(Latencies::default().p99_ms(), 0.0);
    }
}
