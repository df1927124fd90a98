//! Streams that another node has opened: for whom it speaks, and what it says.

use std::net::SocketAddr;
use std::sync::Arc;

use at_client::pin;
use at_protocol::crypto::Ed25519Public;
use at_protocol::line::{Line, LineSplitter, MAX_AUTHENTICATED};
use at_protocol::peer::Opening;
use at_protocol::response::Failure;
use at_protocol::{AtSign, ErrorCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, Verdict};
use super::fences::Turn;
use super::inlet::{Inlet, refusal};
use crate::admission::{Held, SMALL};
use crate::moving::{Duplex, Visit};
use crate::node::Node;
use crate::session::{Caller, Entered, serve_entered};
use crate::store::Notification;

/// Bytes that are read at once.
const READ: usize = 32 * 1024;
/// Longest opening: two atSigns of the longest, and what is around them.
const LONGEST_OPENING: usize = 1024;

/// Another node, which has proved its key.
#[derive(Clone)]
pub(crate) struct Visitor {
    pub(crate) node: Arc<Node>,
    /// Its key.
    pub(crate) key: Ed25519Public,
    /// Where it is.
    pub(crate) address: Option<SocketAddr>,
    /// Whether it was found to speak for somebody.
    pub(crate) known: CancellationToken,
}

/// What became of a stream.
pub(crate) enum Served {
    /// It was let in, and served.
    Done,
    /// It was not.
    Refused,
    /// By it this atSign moves here: it is not served yet.
    Moves(AtSign),
}

impl Visitor {
    /// The node that has made a connection for one stream, if it has shown its key.
    pub(crate) fn of(node: Arc<Node>, caller: &Caller) -> Option<Self> {
        let shown = caller.certificate.as_ref()?.0.first()?;
        let key = pin::key(shown)?;
        Some(Self { node, key, address: caller.address, known: CancellationToken::new() })
    }

    /// Serves one stream until either side ends it, or `stop`.
    pub(crate) async fn serve<S>(&self, mut stream: S, stop: CancellationToken) -> Served
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let limits = &self.node.config.limits.node;
        let mut lines = LineSplitter::new(LONGEST_OPENING);
        let opening = tokio::select! {
            opening = timeout(limits.login, first_line(&mut stream, &mut lines)) => opening,
            () = stop.cancelled() => return Served::Done,
        };
        let Ok(Some(line)) = opening else { return Served::Refused };
        let admitted = match line.parse::<Opening>() {
            Ok(Opening::Move { atsign }) => return Served::Moves(atsign),
            Ok(opening) => self.admit(&opening).await.map(|()| opening),
            Err(error) => Err(Failure::new(ErrorCode::InvalidSyntax, error.to_string())),
        };
        let opening = match admitted {
            Ok(opening) => opening,
            Err(failure) => {
                tracing::info!(node = %self.key, line, why = failure.message, "a stream is refused");
                say(&mut stream, &refusal(failure), limits.write).await.unwrap_or(());
                return Served::Refused;
            }
        };
        if opening.from().is_some() {
            self.known.cancel();
        }
        match opening {
            Opening::Move { .. } => {}
            Opening::Ask { from, to } => {
                lines.set_limit(MAX_AUTHENTICATED);
                let entered = Entered { tenant: to, peer: from, lines, address: self.address };
                serve_entered(stream, Arc::clone(&self.node), entered, stop).await;
            }
            Opening::Notify { from, to } => {
                let turn = self.node.fences.enter((from.clone(), to.clone())).await;
                let inlet = Inlet::new(from, to, lines, self.node.config.notifications.ttln_ms());
                Receiving { node: &self.node, inlet, turn, stream, room: None }.serve(self, &stop).await;
            }
        }
        Served::Done
    }

    /// Has a stream served by which a tenant moves here.
    pub(crate) fn hand_on(self, atsign: AtSign, stream: impl Duplex + 'static) {
        if !self.node.gate.come(Visit { atsign, from: self.key.clone(), stream: Box::new(stream) }) {
            tracing::warn!(node = %self.key, "no place for another tenant that moves here");
        }
    }

    /// Whether the node may speak for whom it says, to whom it says.
    async fn admit(&self, opening: &Opening) -> Result<(), Failure> {
        let (node, to) = (&self.node, opening.to());
        if !node.is_hosted(to) {
            return Err(Failure::new(ErrorCode::SecondaryNotFound, format!("{to} is not hosted here")));
        }
        let Some(from) = opening.from() else { return Ok(()) };
        node.speaks_for(&self.key, from).await?;
        if node.is_blocked(to, from).await? {
            return Err(Failure::new(ErrorCode::Blocked, "Unable to connect"));
        }
        Ok(())
    }
}

impl Node {
    /// Whether the node that has proved this key serves an atSign, as its signed record says.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) async fn speaks_for(&self, key: &Ed25519Public, atsign: &AtSign) -> Result<(), Failure> {
        let mut claim = Claim::new(key.clone(), atsign.clone());
        loop {
            let found = match self.links() {
                Ok(links) => links.find(atsign).await,
                Err(error) => Err(error),
            };
            match claim.on_found(found) {
                Verdict::Holds => return Ok(()),
                Verdict::AskAnew => self.suspect(atsign),
                Verdict::Fails(failure) => return Err(failure),
            }
        }
    }

    fn suspect(&self, atsign: &AtSign) {
        if let Ok(links) = self.links() {
            links.suspect(atsign);
        }
    }
}

/// The first whole line; `None` if the stream ends before, or it is too long.
async fn first_line<S: AsyncRead + Unpin>(stream: &mut S, lines: &mut LineSplitter) -> Option<String> {
    let mut read = [0; LONGEST_OPENING];
    loop {
        let size = stream.read(&mut read).await.ok()?;
        lines.feed(&read[..size]);
        match lines.next_line() {
            Ok(Some(Line::Text(line))) => return Some(line),
            Ok(None) if size > 0 => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

async fn say<S: AsyncWrite + Unpin>(
    stream: &mut S,
    text: &str,
    patience: std::time::Duration,
) -> std::io::Result<()> {
    let written = timeout(patience, async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    });
    written.await?
}

/// Notifications of one atSign to another, as they come in over a stream.
struct Receiving<'a, S> {
    node: &'a Node,
    inlet: Inlet,
    turn: Turn,
    stream: S,
    /// Memory for a long line.
    room: Option<Held>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Receiving<'_, S> {
    /// Takes lines until the other end is through, something fails, a newer stream comes, or `stop`.
    async fn serve(mut self, visitor: &Visitor, stop: &CancellationToken) {
        let (node, (_, to)) = (self.node, self.inlet.pair());
        let patience = node.config.limits.node.write;
        let id = format!("_{}", crate::random::uuid());
        let open = node.sessions().open(&id, visitor.address, node.now());
        open.is(to, self.inlet.who());
        let seat = node.admission.seat(to).filter(|seat| !seat.is_on_trial());
        let welcome = match &seat {
            Some(_) => self.inlet.answers(1, None),
            None => refusal(Failure::new(ErrorCode::InboundLimit, "no more connections for this atSign")),
        };
        if self.turn.is_over() || say(&mut self.stream, &welcome, patience).await.is_err() || seat.is_none() {
            return;
        }
        loop {
            let batch = self.inlet.gather(node.now());
            if self.inlet.pending() <= SMALL {
                self.room = None;
            }
            if batch.is_empty() {
                let more = tokio::select! {
                    more = Self::read(node, &mut self.stream, &mut self.inlet, &mut self.room) => more,
                    () = open.cut() => return,
                    () = self.turn.ended() => return,
                    () = stop.cancelled() => return,
                };
                if more { continue } else { return }
            }
            let count = batch.taken.len();
            // Whatever comes meanwhile waits: who has begun to commit does not leave before it knows.
            let (committed, refused) = match self.commit(batch.taken).await {
                Ok(()) => (count, batch.refused),
                Err(failure) => (0, Some(failure)),
            };
            let is_over = refused.is_some();
            let answers = self.inlet.answers(committed, refused);
            if say(&mut self.stream, &answers, patience).await.is_err() || is_over {
                return;
            }
        }
    }

    async fn commit(&self, batch: Vec<Notification>) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let (node, (from, to)) = (self.node, self.inlet.pair());
        if node.is_blocked(to, from).await? {
            return Err(Failure::new(ErrorCode::Blocked, "Unable to connect"));
        }
        if node.is_hosted(to) && node.store.receive_all(to, batch, node.now()).await? {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::SecondaryNotFound, format!("{to} is not hosted here")))
    }

    /// Reads some more; `false` at the end. Cancel-safe.
    async fn read(node: &Node, stream: &mut S, inlet: &mut Inlet, room: &mut Option<Held>) -> bool {
        if inlet.pending() > SMALL && room.is_none() {
            *room = Some(node.admission.room().wait(MAX_AUTHENTICATED, true).await);
        }
        let mut read = [0; READ];
        match stream.read(&mut read).await {
            Ok(size) if size > 0 => {
                inlet.read(&read[..size]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}
