//! One connection: the driver of the pure session, over any stream.
//!
//! An idle connection holds no buffer: bytes are read into the stack and only an unfinished line stays.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use at_protocol::line::{Line, LineSplitter};
use at_protocol::session::server::{Action, Identity, OwnerAuth, ServerSession};
use at_protocol::{AtSign, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::access::Principal;
use crate::monitors::{Line as Pushed, Subscription};
use crate::node::Node;
use crate::peers::Certificate;
use crate::sessions::Guard;
use crate::store::StoreError;
use crate::verbs::{Effect, Evidence, Request, perform, verify};

/// Bytes that are read at once.
const READ: usize = 8 * 1024;
/// Stored notifications that a monitor reads at once.
const REPLAY: usize = 64;

/// What is known of who connects before a word is said.
#[derive(Debug, Default)]
pub struct Caller {
    /// The tenant that the port or the host name decided.
    pub tenant: Option<AtSign>,
    /// The certificate that was shown.
    pub certificate: Option<Certificate>,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
}

/// Serves one connection until either side ends it, or `stop`.
pub async fn serve<S>(stream: S, node: Arc<Node>, caller: Caller, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let now = now();
    let id = format!("_{}", crate::random::uuid());
    let open = node.sessions().open(&id, caller.address, node.now());
    if let Some(tenant) = &caller.tenant {
        open.is(tenant, &Principal::Anonymous);
    }
    let session = ServerSession::new(id, caller.tenant, now);
    let mut connection = Connection {
        stream,
        lines: LineSplitter::new(session.line_limit()),
        buffered: 0,
        granted_until: None,
        silent_until: Some(now + node.config.limits.node.login),
        session,
        node,
        principal: Principal::Anonymous,
        watching: None,
        certificate: caller.certificate,
        open: &open,
    };
    // However it ends, nothing is left to be said; what is cut ends in the middle of whatever it does.
    tokio::select! {
        biased;
        () = open.cut() => {}
        ControlFlow::Break(()) = connection.run(&stop) => {}
    }
}

struct Connection<'a, S> {
    stream: S,
    lines: LineSplitter,
    /// Bytes of unfinished line that the node was told of.
    buffered: usize,
    /// By when the first whole line must have come.
    silent_until: Option<Instant>,
    /// When the time of the enrollment is over to which the connection is bound.
    granted_until: Option<Instant>,
    session: ServerSession,
    node: Arc<Node>,
    principal: Principal,
    watching: Option<Box<Watching>>,
    certificate: Option<Certificate>,
    open: &'a Guard,
}

/// What a monitor still has to be told.
struct Watching {
    subscription: Subscription,
    /// Whether the store has more that was not sent yet.
    behind: bool,
}

/// What ends a connection, by `?`.
type Flow = ControlFlow<()>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    async fn run(&mut self, stop: &CancellationToken) -> ControlFlow<(), std::convert::Infallible> {
        if self.send(ServerSession::greeting()).await.is_break() {
            return ControlFlow::Break(());
        }
        loop {
            let step = match self.lines.next_line() {
                // On the heap, so that an idle connection has no room for what verbs need.
                Ok(Some(line)) => Box::pin(self.line(line)).await,
                Ok(None) => self.wait(stop).await,
                Err(too_long) => {
                    let action = self.session.on_too_long(too_long);
                    Box::pin(self.perform(action)).await
                }
            };
            if step.is_break() {
                return ControlFlow::Break(());
            }
        }
    }

    /// Waits for bytes, for something to push, for the end of patience.
    async fn wait(&mut self, stop: &CancellationToken) -> Flow {
        self.account()?;
        let bounds = [Some(self.session.deadline()), self.silent_until, self.granted_until];
        let deadline = bounds.into_iter().flatten().min().expect("a session always has a deadline");
        let tenant = self.session.tenant().cloned();
        let pushed = async {
            match (&mut self.watching, tenant) {
                (Some(watching), Some(tenant)) => watching.next(&self.node, &tenant).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            read = read(&mut self.stream, &mut self.lines) => match read {
                Ok(size) if size > 0 => Flow::Continue(()),
                Ok(_) | Err(_) => Flow::Break(()),
            },
            pushed = pushed => match pushed {
                Ok(lines) => self.push(&lines).await,
                Err(error) => {
                    tracing::warn!(%error, "a monitor cannot be served");
                    Flow::Break(())
                }
            },
            () = tokio::time::sleep_until(deadline.into()) => Flow::Break(()),
            () = stop.cancelled() => Flow::Break(()),
        }
    }

    /// Tells the node how much of an unfinished line is held here.
    fn account(&mut self) -> Flow {
        let pending = self.lines.pending().len();
        let fits = self.node.note_buffered(self.buffered, pending);
        self.buffered = pending;
        if fits {
            return Flow::Continue(());
        }
        tracing::warn!("unfinished lines fill the node's buffers, a connection is closed");
        Flow::Break(())
    }

    async fn push(&mut self, lines: &[Arc<Pushed>]) -> Flow {
        for line in lines {
            self.send(&line.text).await?;
        }
        Flow::Continue(())
    }

    async fn line(&mut self, line: Line) -> Flow {
        self.silent_until = None;
        let proof = crate::random::uuid();
        let was_decided = self.session.tenant().is_some();
        let action = self.session.on_line(line, &proof, self.node.as_ref(), now());
        if let (false, Some(tenant)) = (was_decided, self.session.tenant()) {
            self.open.is(tenant, &self.principal);
        }
        let flow = self.perform(action).await;
        self.lines.set_limit(self.session.line_limit());
        flow
    }

    async fn perform(&mut self, action: Action) -> Flow {
        let action = match action {
            Action::Apply { tenant, verb, .. } => {
                let node = Arc::clone(&self.node);
                let request = self.request(&node, &tenant);
                let effect = perform(&request, verb).await;
                self.take(effect)
            }
            Action::Verify { tenant, challenge, proof } => {
                let node = Arc::clone(&self.node);
                let request = self.request(&node, &tenant);
                let evidence = Evidence { certificate: self.certificate.as_ref() };
                let verdict = verify(&request, challenge, proof, &evidence).await;
                self.principal = verdict.as_ref().cloned().unwrap_or(Principal::Anonymous);
                self.open.is(&tenant, &self.principal);
                self.watching = self.watching.take().filter(|_| self.principal.is_owner());
                self.granted_until = self.ends(self.principal.expires());
                self.session.on_verdict(verdict.map(|principal| identity(&principal)))
            }
            decided @ (Action::Send(_) | Action::SendAndClose(_) | Action::Close) => decided,
        };
        match action {
            Action::Send(text) => self.send(&text).await,
            Action::SendAndClose(text) => {
                self.send(&text).await?;
                self.close().await
            }
            Action::Close => self.close().await,
            Action::Apply { .. } | Action::Verify { .. } => Flow::Break(()),
        }
    }

    fn request<'a>(&'a self, node: &'a Node, tenant: &'a AtSign) -> Request<'a> {
        Request { node, session: self.session.id(), tenant, who: &self.principal, now: node.now() }
    }

    /// The instant of a moment of the node's time.
    fn ends(&self, moment: Option<Timestamp>) -> Option<Instant> {
        let left = moment?.as_millis().saturating_sub(self.node.now().as_millis());
        now().checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    fn take(&mut self, effect: Effect) -> Action {
        match effect {
            Effect::Answer(response) => self.session.answer(&response),
            Effect::Farewell(response) => {
                let said = self.session.answer(&response);
                if let Action::Send(text) = said { Action::SendAndClose(text) } else { said }
            }
            Effect::Watch(subscription, behind) => {
                self.watching = Some(Box::new(Watching { subscription: *subscription, behind }));
                self.session.start_monitoring();
                Action::Send(String::new())
            }
            Effect::Bind(enrolled, response) => {
                self.session.bind(enrolled.id.clone());
                self.granted_until = self.ends(enrolled.expires);
                self.principal = Principal::Enrolled(enrolled);
                self.session.answer(&response)
            }
        }
    }

    /// Sends in one write. Who does not take it in time is sent away.
    async fn send(&mut self, text: &str) -> Flow {
        if text.is_empty() {
            return Flow::Continue(());
        }
        let write = async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.flush().await
        };
        match timeout(self.node.config.limits.node.write, write).await {
            Ok(Ok(())) => Flow::Continue(()),
            Ok(Err(_)) | Err(_) => Flow::Break(()),
        }
    }

    async fn close(&mut self) -> Flow {
        // A courtesy to the other end: the connection ends either way.
        drop(timeout(Duration::from_secs(1), self.stream.shutdown()).await);
        Flow::Break(())
    }
}

impl<S> Drop for Connection<'_, S> {
    fn drop(&mut self) {
        self.node.note_buffered(self.buffered, 0);
    }
}

/// The runtime's clock, which tests can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn identity(principal: &Principal) -> Identity {
    match principal {
        Principal::Anonymous => Identity::Anonymous,
        Principal::Peer(peer) => Identity::Peer(peer.clone()),
        Principal::Activation => Identity::Owner(OwnerAuth::Cram),
        Principal::Owner => Identity::Owner(OwnerAuth::PkamLegacy),
        Principal::Enrolled(enrolled) => Identity::Owner(OwnerAuth::Apkam(enrolled.id.clone())),
    }
}

/// Feeds what has arrived to `lines`; 0 at the end of the stream. Cancel-safe.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, lines: &mut LineSplitter) -> io::Result<usize> {
    poll_fn(|context| {
        let mut bytes = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        Pin::new(&mut *stream).poll_read(context, &mut buffer).map_ok(|()| {
            lines.feed(buffer.filled());
            buffer.filled().len()
        })
    })
    .await
}

impl Watching {
    /// The next lines that are to be sent: what the store has, then what is new. Cancel-safe.
    async fn next(&mut self, node: &Node, tenant: &AtSign) -> Result<Vec<Arc<Pushed>>, StoreError> {
        loop {
            if self.behind {
                let page = node.store.received_after(tenant, self.subscription.seen, REPLAY, node.now());
                let page = page.await?;
                self.behind = !page.is_empty();
                let lines = page.iter().map(|notification| Arc::new(Pushed::of(notification)));
                let wanted: Vec<_> = lines.filter(|line| self.subscription.wants(line)).collect();
                if !wanted.is_empty() {
                    return Ok(wanted);
                }
                continue;
            }
            match self.subscription.lines.recv().await {
                Ok(line) if self.subscription.wants(&line) => return Ok(vec![line]),
                Ok(_) => {}
                // The ring has moved on without us, or is gone: the store has it all.
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Err(StoreError::Closed),
            }
        }
    }
}

#[cfg(test)]
mod tests;
