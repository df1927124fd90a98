//! One stream of a lane: lines out, answers in, what was answered noted in the store, all at the same time.

use std::pin::pin;
use std::time::Duration;

use at_client::Wire;
use at_client::wire::{Said, WireError};
use at_protocol::directory::VerifiedRecord;
use at_protocol::peer::Opening;
use tokio::time::{Instant, sleep_until};

use super::{More, Pair, outcome};
use crate::node::Node;
use crate::peers::AskError;
use crate::peers::nodes::Stream;
use crate::peers::window::Window;
use crate::store::{Outcome, StoreError};

/// How long a stream stays open with nothing to send.
const IDLE: Duration = Duration::from_secs(10);
/// How long no answer may come while some are due.
const SILENCE: Duration = Duration::from_secs(30);

/// How a stream ended.
pub(super) struct Ended {
    /// Whether anything was settled on it.
    pub(super) moved: bool,
    /// What was wrong, unless there was nothing more to send.
    pub(super) why: Option<AskError>,
}

/// Sends what waits, and what comes to wait meanwhile, until there is nothing more for a while, or something
/// goes wrong: then what is not settled is sent again, from the first of it, on another stream.
///
/// # Errors
/// The store failed.
pub(super) async fn carry(
    node: &Node,
    pair: &Pair,
    more: &More,
    record: &VerifiedRecord,
) -> Result<Ended, StoreError> {
    let links = match node.links() {
        Ok(links) => links,
        Err(error) => return Ok(Ended { moved: false, why: Some(error) }),
    };
    let stream = match links.nodes().open(record).await {
        Ok(stream) => stream,
        Err(error) => {
            // It may have moved.
            links.suspect(&pair.1);
            return Ok(Ended { moved: false, why: Some(AskError::Unreachable(error.to_string())) });
        }
    };
    let mut wire = Wire::begin(stream);
    wire.say(&Opening::Notify { from: pair.0.clone(), to: pair.1.clone() });
    let progress = Progress { pair, window: Window::default(), is_admitted: false };
    let mut carrier = Carrier { node, more, wire, progress, moved: false };
    let why = carrier.run().await?;
    if !carrier.progress.is_admitted {
        // Perhaps it is served elsewhere now.
        links.suspect(&pair.1);
    }
    Ok(Ended { moved: carrier.moved, why })
}

struct Carrier<'a> {
    node: &'a Node,
    more: &'a More,
    wire: Wire<Stream>,
    progress: Progress<'a>,
    moved: bool,
}

/// How far it has come.
struct Progress<'a> {
    pair: &'a Pair,
    window: Window,
    /// Whether the other end has let us in.
    is_admitted: bool,
}

impl Carrier<'_> {
    async fn run(&mut self) -> Result<Option<AskError>, StoreError> {
        let (mut ended, mut heard, mut look) = (None, Instant::now(), true);
        loop {
            if ended.is_none() && look && self.progress.window.room() > 0 {
                look = self.fill().await?;
                continue;
            }
            if let Some(settled) = self.progress.window.settle() {
                self.moved = true;
                let mut settling = pin!(self.node.store.settle(&self.progress.pair.0, settled));
                // Answers are heard while the store is at it.
                loop {
                    tokio::select! {
                        settled = settling.as_mut() => break settled?,
                        said = self.wire.next(), if ended.is_none() => {
                            heard = Instant::now();
                            ended = self.progress.hear(said);
                        }
                    }
                }
                self.progress.window.settled();
                continue;
            }
            if ended.is_some() {
                return Ok(ended);
            }
            let is_due = self.progress.is_due();
            tokio::select! {
                said = self.wire.next() => {
                    heard = Instant::now();
                    ended = self.progress.hear(said);
                }
                () = self.more.told() => {
                    if self.more.take() {
                        look = true;
                        heard = if is_due { heard } else { Instant::now() };
                    }
                }
                () = sleep_until(heard + if is_due { SILENCE } else { IDLE }) => {
                    if !is_due {
                        return Ok(None);
                    }
                    self.progress.window.fail();
                    ended = Some(AskError::Timeout);
                }
            }
        }
    }

    /// Reads on in the queue, as far as there is room; whether there may be more.
    async fn fill(&mut self) -> Result<bool, StoreError> {
        let (node, window) = (self.node, &mut self.progress.window);
        let (from, to) = self.progress.pair;
        let page = node.store.waiting(from, to, window.reached(), window.room()).await?;
        let now = node.now();
        for one in &page {
            match one.line() {
                _ if one.expires <= now => window.skip(one, Outcome::Expired),
                Some(line) => {
                    self.wire.say(&line);
                    window.send(one);
                }
                None => window.skip(one, Outcome::Errored),
            }
        }
        Ok(!page.is_empty())
    }
}

impl Progress<'_> {
    /// Whether something is to be heard.
    fn is_due(&self) -> bool {
        self.window.is_waiting() || !self.is_admitted
    }

    /// Takes an answer; gives what ends the stream.
    fn hear(&mut self, said: Result<Said, WireError>) -> Option<AskError> {
        let answer = match said {
            Ok(Said::Answer(answer)) => answer,
            // Nobody is monitored here.
            Ok(Said::Notification(_)) => return None,
            Err(error) => {
                self.window.fail();
                return Some(AskError::Unreachable(error.to_string()));
            }
        };
        match answer.map_err(AskError::from) {
            Ok(_) if self.is_admitted => {
                self.window.answer(Outcome::Delivered);
                None
            }
            Ok(_) => {
                self.is_admitted = true;
                None
            }
            // The other end closes now, and has taken nothing behind it.
            Err(error) if self.is_admitted => {
                let why = error.to_string();
                let id = self.window.oldest().unwrap_or_default().to_owned();
                match outcome(self.pair, &id, Err(error)) {
                    Outcome::Retrying => self.window.fail(),
                    decided @ (Outcome::Delivered | Outcome::Errored | Outcome::Expired) => {
                        self.window.answer(decided);
                    }
                }
                Some(AskError::Unreachable(why))
            }
            Err(error) => {
                self.window.fail();
                Some(error)
            }
        }
    }
}
