//! Streams that another node has opened: for whom it speaks, and what it says.

use std::net::SocketAddr;
use std::sync::Arc;

use at_client::Found;
use at_protocol::crypto::Ed25519Public;
use at_protocol::line::{Line, LineSplitter, MAX_AUTHENTICATED};
use at_protocol::peer::{Opening, WINDOW};
use at_protocol::response::{ErrorStyle, Failure, Prompt, Response};
use at_protocol::verb::Verb;
use at_protocol::{AtSign, ErrorCode};
use atedge_service::tls::node_key;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::AskError;
use super::fences::Turn;
use crate::access::{Principal, may};
use crate::admission::{Held, SMALL};
use crate::node::Node;
use crate::session::{Caller, Entered, serve_entered};
use crate::store::Notification;
use crate::verbs::{Request, copy_fits, notification};

/// Bytes that are read at once.
const READ: usize = 32 * 1024;
/// Bytes of lines that are committed together.
const BATCH: usize = 1024 * 1024;
/// Longest opening: two atSigns of the longest, and what is around them.
const LONGEST_OPENING: usize = 1024;
/// How errors are written to nodes.
const PLAIN: ErrorStyle = ErrorStyle { json: false, owner: false };

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

impl Visitor {
    /// The node that has made a connection for one stream, if it has shown its key.
    pub(crate) fn of(node: Arc<Node>, caller: &Caller) -> Option<Self> {
        let shown = caller.certificate.as_ref()?.0.first()?;
        let key = Ed25519Public::from_bytes(node_key(shown)?).ok()?;
        Some(Self { node, key, address: caller.address, known: CancellationToken::new() })
    }

    /// Serves one stream until either side ends it, or `stop`.
    pub(crate) async fn serve<S>(&self, mut stream: S, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let limits = &self.node.config.limits.node;
        let mut lines = LineSplitter::new(LONGEST_OPENING);
        let opening = tokio::select! {
            opening = timeout(limits.login, first_line(&mut stream, &mut lines)) => opening,
            () = stop.cancelled() => return,
        };
        let Ok(Some(line)) = opening else { return };
        let admitted = match line.parse::<Opening>() {
            Ok(opening) => self.admit(&opening).await.map(|()| opening),
            Err(error) => Err(Failure::new(ErrorCode::InvalidSyntax, error.to_string())),
        };
        let opening = match admitted {
            Ok(opening) => opening,
            Err(failure) => {
                tracing::info!(node = %self.key, line, why = failure.message, "a stream is refused");
                return say(&mut stream, &refusal(failure), limits.write).await.unwrap_or(());
            }
        };
        self.known.cancel();
        lines.set_limit(MAX_AUTHENTICATED);
        match opening {
            Opening::Ask { from, to } => {
                let entered = Entered { tenant: to, peer: from, lines, address: self.address };
                serve_entered(stream, Arc::clone(&self.node), entered, stop).await;
            }
            Opening::Notify { from, to } => {
                let turn = self.node.fences.enter((from.clone(), to.clone())).await;
                Inlet { node: &self.node, from, to, turn, stream, lines, room: None }
                    .serve(self, &stop)
                    .await;
            }
        }
    }

    /// Whether the node may speak for whom it says, to whom it says.
    async fn admit(&self, opening: &Opening) -> Result<(), Failure> {
        let (node, to) = (&self.node, opening.to());
        if !node.is_hosted(to) {
            return Err(Failure::new(ErrorCode::SecondaryNotFound, format!("{to} is not hosted here")));
        }
        let Some(from) = opening.from() else { return Ok(()) };
        let refused = |message| Err(Failure::new(ErrorCode::NotAuthenticated, message));
        match node.speaks_for(&self.key, from).await {
            Ok(true) => {}
            Ok(false) => return refused(format!("the node {} does not speak for {from}", self.key)),
            Err(error) => return refused(format!("it is not known which node speaks for {from}: {error}")),
        }
        if node.is_blocked(to, from).await? {
            return Err(Failure::new(ErrorCode::Blocked, "Unable to connect"));
        }
        Ok(())
    }
}

impl Node {
    /// Whether the node that has proved this key serves an atSign, as its signed record says.
    pub(crate) async fn speaks_for(&self, key: &Ed25519Public, atsign: &AtSign) -> Result<bool, AskError> {
        let links = self.links()?;
        let is_so = |found: &Found| found.node() == Some(key);
        if links.find(atsign).await.is_ok_and(|found| is_so(&found)) {
            return Ok(true);
        }
        // It may have moved there a moment ago.
        links.suspect(atsign);
        links.find(atsign).await.map(|found| is_so(&found))
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

fn refusal(failure: Failure) -> String {
    Response::Error(failure).render(PLAIN, &Prompt::Anonymous)
}

/// Notifications of one atSign to another, as they come in over a stream.
struct Inlet<'a, S> {
    node: &'a Node,
    from: AtSign,
    to: AtSign,
    turn: Turn,
    stream: S,
    lines: LineSplitter,
    /// Memory for a long line.
    room: Option<Held>,
}

/// Lines that came together, up to the first that cannot be taken.
#[derive(Default)]
struct Batch {
    taken: Vec<Notification>,
    bytes: usize,
    refused: Option<Failure>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.refused.is_some() || self.taken.len() == WINDOW || self.bytes >= BATCH
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Inlet<'_, S> {
    /// Takes lines until the other end is through, something fails, a newer stream comes, or `stop`.
    async fn serve(mut self, visitor: &Visitor, stop: &CancellationToken) {
        let patience = self.node.config.limits.node.write;
        let id = format!("_{}", crate::random::uuid());
        let open = self.node.sessions().open(&id, visitor.address, self.node.now());
        let who = Principal::Peer(self.from.clone());
        open.is(&self.to, &who);
        let seat = self.node.admission.seat(&self.to).filter(|seat| !seat.is_on_trial());
        let prompt = Prompt::Authenticated(self.from.clone());
        let success = Response::Data("success".to_owned()).render(PLAIN, &prompt);
        let welcome = match &seat {
            Some(_) => success.clone(),
            None => refusal(Failure::new(ErrorCode::InboundLimit, "no more connections for this atSign")),
        };
        if self.turn.is_over() || say(&mut self.stream, &welcome, patience).await.is_err() || seat.is_none() {
            return;
        }
        loop {
            let mut batch = self.gather(&id, &who);
            if batch.taken.is_empty() && batch.refused.is_none() {
                let Self { node, turn, stream, lines, room, .. } = &mut self;
                let more = tokio::select! {
                    more = Self::read(node, stream, lines, room) => more,
                    () = open.cut() => return,
                    () = turn.ended() => return,
                    () = stop.cancelled() => return,
                };
                if more { continue } else { return }
            }
            let count = batch.taken.len();
            // Whatever comes meanwhile waits: who has begun to commit does not leave before it knows.
            if let Err(failure) = self.commit(batch.taken).await {
                return say(&mut self.stream, &refusal(failure), patience).await.unwrap_or(());
            }
            let mut answers = success.repeat(count);
            let is_over = batch.refused.is_some();
            if let Some(failure) = batch.refused.take() {
                answers += &refusal(failure);
            }
            if say(&mut self.stream, &answers, patience).await.is_err() || is_over {
                return;
            }
        }
    }

    /// The lines that are here, up to what is committed together.
    fn gather(&mut self, session: &str, who: &Principal) -> Batch {
        let mut batch = Batch::default();
        let request = Request { node: self.node, session, tenant: &self.to, who, now: self.node.now() };
        while !batch.is_full() {
            let line = match self.lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(too_long) => {
                    batch.refused = Some(Failure::closing(ErrorCode::BufferLimit, too_long.to_string()));
                    break;
                }
            };
            match taken(&request, &self.from, line) {
                Ok(notification) => {
                    batch.bytes += notification.value.as_ref().map_or(0, String::len);
                    batch.taken.push(notification);
                }
                Err(failure) => batch.refused = Some(failure),
            }
        }
        if self.lines.pending().len() <= SMALL {
            self.room = None;
        }
        batch
    }

    async fn commit(&self, batch: Vec<Notification>) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.node.is_blocked(&self.to, &self.from).await? {
            return Err(Failure::new(ErrorCode::Blocked, "Unable to connect"));
        }
        if self.node.is_hosted(&self.to)
            && self.node.store.receive_all(&self.to, batch, self.node.now()).await?
        {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::SecondaryNotFound, format!("{} is not hosted here", self.to)))
    }

    /// Reads some more; `false` at the end. Cancel-safe.
    async fn read(node: &Node, stream: &mut S, lines: &mut LineSplitter, room: &mut Option<Held>) -> bool {
        if lines.pending().len() > SMALL && room.is_none() {
            *room = Some(node.admission.room().wait(MAX_AUTHENTICATED, true).await);
        }
        let mut read = [0; READ];
        match stream.read(&mut read).await {
            Ok(size) if size > 0 => {
                lines.feed(&read[..size]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

/// What a line brings, if it may.
fn taken(request: &Request<'_>, from: &AtSign, line: Line) -> Result<Notification, Failure> {
    let invalid = |message: String| Failure::new(ErrorCode::InvalidSyntax, message);
    let Line::Text(text) = line else { return Err(invalid("invalid command".to_owned())) };
    let verb: Verb = text.parse().map_err(|error| invalid(format!("{error}")))?;
    may(request.who, request.tenant, &verb)?;
    let Verb::Notify(notify) = verb else {
        return Err(invalid("a stream for notifications takes nothing else".to_owned()));
    };
    let received = notification(request, from, *notify)?;
    copy_fits(&received)?;
    Ok(received)
}
