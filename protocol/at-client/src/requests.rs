//! The connections on which a client asks: made when they are needed, and made anew when they break.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::response::{ErrorCode, RemoteError};
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio::time::Instant;

use crate::account::{ClientConfig, ConnectError};
use crate::backoff::Backoff;
use crate::dial::AtWire;
use crate::wire::{RequestError, WireError};

/// Why the atServer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, and so did the one after it.
    #[error("lost the atServer of {atsign}: {source}")]
    Broken {
        /// Whose atServer.
        atsign: AtSign,
        /// How.
        source: WireError,
    },
    /// The atServer refuses.
    #[error("the atServer of {atsign} refuses: {source}")]
    Refused {
        /// Whose atServer.
        atsign: AtSign,
        /// What it says.
        source: RemoteError,
    },
}

impl AskError {
    /// Whether asking again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_transient(),
            Self::Broken { .. } => true,
            Self::Refused { source, .. } => crate::refusal::is_transient(source),
        }
    }

    /// What the server said, if it has refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { source, .. } => source.code(),
            Self::Connect(_) | Self::Broken { .. } => None,
        }
    }
}

/// A connection beyond the first ends after so long without a request.
const IDLE: Duration = Duration::from_secs(60);

/// A few connections. Requests queue for them in the order of their calls; as long as the atServer is not reached, for
/// the first alone, so that it is not sought more than once. Where the others cannot be made, because it has room for
/// no more say, the first does.
pub(crate) struct Requests {
    lines: Box<[Mutex<Line>]>,
    /// A place for each request under way.
    places: Semaphore,
    is_reached: AtomicBool,
}

/// One connection and the pauses between its lives.
#[derive(Default)]
struct Line {
    wire: Option<AtWire>,
    backoff: Backoff,
    not_before: Option<Instant>,
    used: Option<Instant>,
}

impl Requests {
    /// At most so many connections, and one at least.
    pub(crate) fn new(connections: usize) -> Self {
        let lines: Box<[_]> = (0..connections.max(1)).map(|_| Mutex::default()).collect();
        Self { places: Semaphore::new(lines.len()), lines, is_reached: AtomicBool::new(false) }
    }

    /// Asks, over a new connection if need be, and once more if the connection breaks before the answer:
    /// every verb that clients say may be said twice.
    pub(crate) async fn ask(&self, config: &ClientConfig, line: &impl Display) -> Result<String, AskError> {
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let (mut is_first, mut connection) = self.free().await;
        let mut again = true;
        loop {
            let wire = match connection.up(config).await {
                Ok(wire) => wire,
                Err(_) if !is_first => {
                    (is_first, connection) = (true, self.lines[0].lock().await);
                    continue;
                }
                Err(error) => {
                    self.is_reached.store(false, Ordering::Relaxed);
                    return Err(error.into());
                }
            };
            match wire.request(line).await {
                Ok(answer) => {
                    connection.succeeded();
                    self.is_reached.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(RequestError::Refused(source)) => {
                    if source.code() == Some(ErrorCode::NotAuthenticated) {
                        connection.down();
                    } else {
                        connection.succeeded();
                    }
                    return Err(AskError::Refused { atsign: config.atsign.clone(), source });
                }
                Err(RequestError::Broken(source)) => {
                    connection.down();
                    self.is_reached.store(false, Ordering::Relaxed);
                    if !std::mem::take(&mut again) {
                        return Err(AskError::Broken { atsign: config.atsign.clone(), source });
                    }
                    tracing::debug!(atsign = %config.atsign, error = %source, "asking on a new connection");
                }
            }
        }
    }

    /// Connects, unless there is a connection.
    pub(crate) async fn connect(&self, config: &ClientConfig) -> Result<(), ConnectError> {
        self.lines[0].lock().await.up(config).await.map(|_| ())
    }

    /// A connection that nobody asks on, and whether it is the first, which is preferred. Others that were idle for long
    /// are ended.
    async fn free(&self) -> (bool, MutexGuard<'_, Line>) {
        let (first, others) = self.lines.split_first().expect("there is one at least");
        if self.is_reached.load(Ordering::Relaxed) {
            if let Ok(first) = first.try_lock() {
                others.iter().filter_map(|line| line.try_lock().ok()).for_each(|mut line| line.end_if_idle());
                return (true, first);
            }
            let mut free = others.iter().filter_map(|line| line.try_lock().ok());
            if let Some(line) = free.find(|line| line.may_be_up()) {
                return (false, line);
            }
        }
        (true, first.lock().await)
    }
}

impl Line {
    async fn up(&mut self, config: &ClientConfig) -> Result<&mut AtWire, ConnectError> {
        if self.wire.as_ref().is_none_or(AtWire::is_broken) {
            if let Some(not_before) = self.not_before {
                config.dialer.pause(not_before).await;
            }
            self.wire = match config.connect().await {
                Ok(wire) => Some(wire),
                Err(error) => {
                    self.down();
                    return Err(error);
                }
            };
        }
        Ok(self.wire.as_mut().expect("it was there, or was just made"))
    }

    /// Whether it need not wait before it is made.
    fn may_be_up(&self) -> bool {
        self.wire.is_some() || self.not_before.is_none_or(|not_before| not_before <= Instant::now())
    }

    fn end_if_idle(&mut self) {
        if self.used.is_some_and(|used| used.elapsed() >= IDLE) {
            (self.wire, self.used) = (None, None);
        }
    }

    fn succeeded(&mut self) {
        self.backoff.succeeded();
        self.used = Some(Instant::now());
    }

    fn down(&mut self) {
        self.wire = None;
        self.not_before = Some(Instant::now() + self.backoff.failed());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::stub::{Town, When, keys};

    #[tokio::test]
    async fn only_requests_that_meet_have_connections_of_their_own() {
        let town = Town::with(&["@alice"]).await;
        let (config, requests) = (town.config("@alice", keys("@alice")), Requests::new(3));
        for _ in 0..3 {
            requests.ask(&config, &"scan").await.unwrap();
        }
        assert_eq!(town.world().count("from:"), 1);
        let ask = || requests.ask(&config, &"scan");
        let (a, b, c, d, e) = tokio::join!(ask(), ask(), ask(), ask(), ask());
        assert!([a, b, c, d, e].iter().all(Result::is_ok));
        assert_eq!(town.world().count("from:"), 3);

        tokio::time::pause();
        tokio::time::advance(IDLE).await;
        tokio::time::resume();
        requests.ask(&config, &"scan").await.unwrap();
        let mut made = Vec::new();
        for line in &requests.lines {
            made.push(line.lock().await.wire.is_some());
        }
        assert_eq!(made, [true, false, false], "one that was idle for long is ended");
        assert_eq!(town.world().count("from:"), 3, "and the first stays");
    }

    #[tokio::test]
    async fn an_atserver_that_is_not_reached_is_sought_by_one_at_a_time() {
        let town = Town::with(&["@alice"]).await;
        let (config, requests) = (town.config("@alice", keys("@alice")), Requests::new(3));
        requests.ask(&config, &"scan").await.unwrap();
        {
            let (is_first, _busy) = requests.free().await;
            let second = timeout(Duration::ZERO, requests.free()).await;
            assert!(is_first && second.is_ok_and(|(is_first, _)| !is_first));
        }
        requests.lines[0].lock().await.wire = None;
        let nowhere = town.config("@nobody", keys("@nobody"));
        requests.ask(&nowhere, &"scan").await.unwrap_err();
        let _seeking = requests.free().await;
        assert!(timeout(Duration::ZERO, requests.free()).await.is_err());
    }

    #[tokio::test]
    async fn where_there_is_room_for_one_connection_it_does_for_all() {
        let town = Town::with(&["@alice"]).await;
        let (config, requests) = (town.config("@alice", keys("@alice")), Requests::new(2));
        requests.ask(&config, &"scan").await.unwrap();
        town.world().fault("from:", When::Before);
        let ask = || requests.ask(&config, &"scan");
        let (a, b) = tokio::join!(ask(), ask());
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(town.world().count("from:"), 2, "one was tried for");
        assert!(requests.lines[1].lock().await.wire.is_none());
    }
}
