//! One connection: the driver of the pure session, over any stream.
//!
//! An idle connection holds no buffer: bytes are read into the stack and only an unfinished line stays.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use at_protocol::line::{Line, LineSplitter};
use at_protocol::response::{ErrorCode, Failure, Response};
use at_protocol::session::server::{Action, Challenge, Identity, OwnerAuth, Proof, ServerSession};
use at_protocol::{AtSign, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::access::Principal;
use crate::admission::{Held, SMALL, Seat, Source, Verdict};
use crate::listen::FULL;
use crate::monitors::Line as Pushed;
use crate::node::Node;
use crate::peers::Certificate;
use crate::sessions::Guard;
use crate::verbs::{Effect, Evidence, Request, perform, verify};
use crate::visits::Visited;
use watching::Watching;

/// Bytes that are read at once.
const READ: usize = 8 * 1024;
/// Bytes that are written at once, if there are several answers: what a TLS record holds (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// How long an answer waits at most for those to the lines that came with its own.
const HOLD: Duration = Duration::from_millis(20);
/// How often a waiting connection asks how crowded it has become: the shortest time that an authenticated
/// one may be idle (atProtocol wire reference §2.5).
const RECHECK: Duration = Duration::from_secs(60);
/// A line has a second more for so many of its bytes: a bad mobile link.
const LINE_RATE: usize = 16 * 1024;

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

/// Who has been let in before the session begins, in a stream between nodes.
pub(crate) struct Entered {
    /// Whose atServer is spoken to.
    pub(crate) tenant: AtSign,
    /// Who speaks, proved by its node; nobody in particular else.
    pub(crate) peer: Option<AtSign>,
    /// What has arrived behind the stream's first line.
    pub(crate) lines: LineSplitter,
    /// Where the node is.
    pub(crate) address: Option<SocketAddr>,
}

/// Serves one connection until either side ends it, or `stop`.
pub async fn serve<S>(mut stream: S, node: Arc<Node>, caller: Caller, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let seat = caller.tenant.as_ref().map(|tenant| node.admission.seat(tenant));
    let Some(seat) = seat.map_or(Some(None), |seat| seat.map(Some)) else {
        // Without a greeting (atProtocol wire reference §2.4); who does not read it has left.
        drop(timeout(Duration::from_secs(1), stream.write_all(FULL.as_bytes())).await);
        return;
    };
    let id = format!("_{}", crate::random::uuid());
    let open = node.sessions().open(&id, caller.address, node.now());
    if let Some(tenant) = &caller.tenant {
        open.is(tenant, &Principal::Anonymous);
    }
    let session = ServerSession::new(id, caller.tenant, now());
    let lines = LineSplitter::new(session.line_limit());
    let begun = Begun { seat, address: caller.address, certificate: caller.certificate, session, lines };
    let mut connection = Connection::new(stream, node, Principal::Anonymous, begun, &open);
    connection.serve(ServerSession::greeting(), &stop).await;
}

/// Serves a session of who was let in already, as [`serve`] does.
pub(crate) async fn serve_entered<S>(
    mut stream: S,
    node: Arc<Node>,
    entered: Entered,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Entered { tenant, peer, mut lines, address } = entered;
    let seat = node.admission.seat(&tenant).filter(|seat| !seat.is_on_trial());
    let Some(seat) = seat else {
        drop(timeout(Duration::from_secs(1), stream.write_all(FULL.as_bytes())).await);
        return;
    };
    let id = format!("_{}", crate::random::uuid());
    let open = node.sessions().open(&id, address, node.now());
    let principal = peer.map_or(Principal::Anonymous, Principal::Peer);
    open.is(&tenant, &principal);
    let session = ServerSession::entered(id, tenant, identity(&principal), now());
    lines.set_limit(session.line_limit());
    let Action::Send(welcome) = session.answer(&Response::Data("success".to_owned())) else { return };
    let begun = Begun { seat: Some(seat), address, certificate: None, session, lines };
    Connection::new(stream, node, principal, begun, &open).serve(&welcome, &stop).await;
}

/// What a connection begins with.
struct Begun {
    seat: Option<Seat>,
    address: Option<SocketAddr>,
    certificate: Option<Certificate>,
    session: ServerSession,
    lines: LineSplitter,
}

struct Connection<'a, S> {
    stream: S,
    lines: LineSplitter,
    /// What was said and not sent yet.
    unsent: String,
    /// When the unfinished line began.
    line_since: Option<Instant>,
    /// Memory for a long line.
    room: Option<Held>,
    /// The place with the tenant, once that is decided.
    seat: Option<Seat>,
    source: Option<Source>,
    /// By when the first whole line must have come, or who is on trial have proved that it is the owner.
    silent_until: Option<Instant>,
    /// How long it stays open after its last answer.
    stay: Duration,
    /// When the time of the enrollment is over to which the connection is bound.
    granted_until: Option<Instant>,
    session: ServerSession,
    node: Arc<Node>,
    principal: Principal,
    watching: Option<Box<Watching>>,
    streaming: Option<Box<stream::End>>,
    certificate: Option<Certificate>,
    open: &'a Guard,
}

/// The server stops.
type Stop<'a> = WaitForCancellationFuture<'a>;

/// What ends a connection, by `?`.
type Flow = ControlFlow<()>;

impl<'a, S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'a, S> {
    fn new(stream: S, node: Arc<Node>, principal: Principal, begun: Begun, open: &'a Guard) -> Self {
        let Begun { seat, address, certificate, session, lines } = begun;
        Self {
            stream,
            lines,
            unsent: String::new(),
            line_since: None,
            room: None,
            seat,
            source: address.map(|address| Source::from(address.ip())),
            stay: Duration::ZERO,
            granted_until: None,
            silent_until: Some(now() + node.config.limits.node.login),
            session,
            node,
            principal,
            watching: None,
            streaming: None,
            certificate,
            open,
        }
    }

    /// However it ends, nothing is left to be said; what is cut ends in the middle of whatever it does.
    async fn serve(&mut self, greeting: &str, stop: &CancellationToken) {
        let open = self.open;
        tokio::select! {
            biased;
            () = open.cut() => {}
            ControlFlow::Break(()) = self.run(greeting, stop) => {}
        }
    }

    async fn run(
        &mut self,
        greeting: &str,
        stop: &CancellationToken,
    ) -> ControlFlow<(), std::convert::Infallible> {
        if self.say(greeting).await.is_break() {
            return ControlFlow::Break(());
        }
        // Made once: all connections share the list of those who wait for it.
        let mut stop = pin!(stop.cancelled());
        loop {
            let step = match self.lines.next_line() {
                // On the heap, so that an idle connection has no room for what verbs need.
                Ok(Some(line)) => Box::pin(self.line(line)).await,
                Ok(None) if !self.unsent.is_empty() => self.flush().await,
                Ok(None) => self.wait(stop.as_mut()).await,
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
    async fn wait(&mut self, mut stop: Pin<&mut Stop<'_>>) -> Flow {
        let Some(deadline) = self.patience() else { return Flow::Break(()) };
        if self.lines.pending().len() > SMALL && self.room.is_none() {
            return Box::pin(self.make_room(deadline, stop)).await;
        }
        if let Some(end) = self.streaming.take() {
            // On the heap, so that a connection without a stream has no room for it.
            return Box::pin(self.wait_with_stream(end, deadline, stop)).await;
        }
        let mut alarm = pin!(tokio::time::sleep_until(deadline.into()));
        loop {
            let pushed = async {
                match (&mut self.watching, self.session.tenant()) {
                    (Some(watching), Some(tenant)) => watching.next(&self.node, tenant).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                read = read(&mut self.stream, &mut self.lines) => return match read {
                    Ok(size) if size > 0 => Flow::Continue(()),
                    Ok(_) | Err(_) => Flow::Break(()),
                },
                pushed = pushed => match pushed {
                    Ok(lines) => Box::pin(self.push(&lines)).await?,
                    Err(error) => {
                        tracing::warn!(%error, "a monitor cannot be served");
                        return Flow::Break(());
                    }
                },
                // It may have been no more than the time to look again.
                () = alarm.as_mut() => return Flow::Continue(()),
                () = stop.as_mut() => return Flow::Break(()),
            }
        }
    }

    /// Until when to wait; `None` if that is over.
    fn patience(&mut self) -> Option<Instant> {
        let (now, limits) = (now(), &self.node.config.limits.node);
        let pending = self.lines.pending().len();
        self.line_since = self.line_since.filter(|_| pending > 0).or((pending > 0).then_some(now));
        if pending == 0 {
            self.room = None;
        }
        let for_size = Duration::from_secs(u64::try_from(pending / LINE_RATE).unwrap_or(u64::MAX));
        let line_until = self.line_since.map(|since| since + limits.line + for_size);
        let crowding = self.node.admission.crowding(self.session.tenant());
        let idle_until = Some(self.session.deadline(crowding));
        // A monitor is not to see more; others are told so at their next command.
        let granted_until = self.granted_until.filter(|_| self.watching.is_some());
        let bounds = [idle_until, self.silent_until, granted_until, line_until];
        let deadline = bounds.into_iter().flatten().min()?;
        (deadline > now).then(|| deadline.min(now + RECHECK))
    }

    /// Reads no more of a long line before there is memory for the rest of it.
    async fn make_room(&mut self, deadline: Instant, stop: Pin<&mut Stop<'_>>) -> Flow {
        let is_authenticated = *self.session.who() != Identity::Anonymous;
        let room = self.node.admission.room();
        let held = tokio::select! {
            held = room.wait(self.session.line_limit(), is_authenticated) => held,
            () = tokio::time::sleep_until(deadline.into()) => {
                let busy = Failure::closing(ErrorCode::BufferLimit, "the server has no room for a long line now");
                let action = self.session.answer(&Response::Error(busy));
                return Box::pin(self.perform(action)).await;
            }
            () = stop => return Flow::Break(()),
        };
        self.room = Some(held);
        Flow::Continue(())
    }

    async fn push(&mut self, lines: &[Arc<Pushed>]) -> Flow {
        for line in lines {
            self.say(&line.text).await?;
        }
        self.flush().await
    }

    async fn line(&mut self, line: Line) -> Flow {
        if !self.seat.as_ref().is_some_and(Seat::is_on_trial) {
            self.silent_until = None;
        }
        let proof = crate::random::uuid();
        know_blocked(&self.node, self.session.tenant(), &line).await;
        let was_decided = self.session.tenant().is_some();
        let mut action = self.session.on_line(line, &proof, self.node.as_ref(), now());
        if let (false, Some(tenant)) = (was_decided, self.session.tenant()) {
            self.open.is(tenant, &self.principal);
            self.seat = self.node.admission.seat(tenant);
            match &self.seat {
                None => action = Action::SendAndClose(FULL.to_owned()),
                Some(seat) if seat.is_on_trial() => {
                    self.silent_until = Some(now() + self.node.config.limits.node.login);
                }
                Some(_) => {}
            }
        }
        if let (Some(tenant), Some(claim)) = (self.session.tenant(), self.session.challenged(&proof)) {
            self.node.note_visit(tenant, Some(claim), Visited::From, None, self.node.now());
        }
        let flow = self.perform(action).await;
        self.lines.set_limit(self.session.line_limit());
        flow
    }

    async fn perform(&mut self, action: Action) -> Flow {
        let action = match action {
            Action::Apply { tenant, verb, .. } => {
                let node = Arc::clone(&self.node);
                let (session, who) = (self.session.id(), &self.principal);
                let request = Request { node: &node, session, tenant: &tenant, who, now: node.now() };
                let effect = {
                    let mut performing = pin!(perform(&request, verb));
                    if self.unsent.is_empty() {
                        performing.await
                    } else if let Ok(effect) = timeout(HOLD, performing.as_mut()).await {
                        effect
                    } else {
                        // The answers before it have waited long enough.
                        let unsent = std::mem::take(&mut self.unsent);
                        write(&mut self.stream, unsent.as_bytes(), node.config.limits.node.write).await?;
                        performing.await
                    }
                };
                self.take(effect)
            }
            Action::Verify { tenant, challenge, proof } => {
                let (said, claim) =
                    (Visited::of(&proof), challenge.as_ref().map(|asked| asked.claim.clone()));
                self.flush().await?;
                let verdict = self.hear(&tenant, challenge, proof).await;
                if verdict.is_ok() {
                    self.node.note_visit(&tenant, claim.as_ref(), said, None, self.node.now());
                }
                self.principal = verdict.as_ref().cloned().unwrap_or(Principal::Anonymous);
                self.streaming = None;
                self.open.is(&tenant, &self.principal);
                self.rebind_monitor();
                self.granted_until = self.ends(self.principal.expires());
                if let Some(seat) = &mut self.seat {
                    seat.is(self.principal.is_owner());
                    self.silent_until = self.silent_until.filter(|_| seat.is_on_trial());
                }
                self.session.on_verdict(verdict.map(|principal| identity(&principal)))
            }
            decided @ (Action::Send(_) | Action::SendAndClose(_) | Action::Close) => decided,
        };
        match action {
            Action::Send(text) => self.reply(&text).await,
            Action::SendAndClose(text) => {
                self.say(&text).await?;
                self.flush().await?;
                tokio::time::sleep(self.stay).await;
                self.close().await
            }
            Action::Close => self.close().await,
            Action::Apply { .. } | Action::Verify { .. } => Flow::Break(()),
        }
    }

    /// Checks a proof, unless there were too many wrong ones.
    async fn hear(
        &mut self,
        tenant: &AtSign,
        challenge: Option<Challenge>,
        proof: Proof,
    ) -> Result<Principal, Response> {
        let node = Arc::clone(&self.node);
        let logins = node.admission.logins();
        // An answer to no challenge is no guess.
        let source = self.source.filter(|_| challenge.is_some());
        if let Some(source) = source {
            match logins.before(source, tenant, now()) {
                Verdict::After(wait) => tokio::time::sleep(wait).await,
                Verdict::Refused => {
                    let message = "too many failed logins from this address, wait a minute";
                    return Err(Response::Error(Failure::new(ErrorCode::NotAuthenticated, message)));
                }
            }
        }
        let request = self.request(&node, tenant);
        let evidence = Evidence { certificate: self.certificate.as_ref() };
        let verdict = verify(&request, challenge, proof, &evidence).await;
        if let Some(source) = source {
            match &verdict {
                Ok(_) => logins.succeeded(source, tenant),
                Err(_) => logins.failed(source, tenant, now()),
            }
        }
        verdict
    }

    fn request<'r>(&'r self, node: &'r Node, tenant: &'r AtSign) -> Request<'r> {
        Request { node, session: self.session.id(), tenant, who: &self.principal, now: node.now() }
    }

    /// A monitor sees what its connection may see now, not what it could see once.
    fn rebind_monitor(&mut self) {
        self.watching = self.watching.take().filter(|_| self.principal.is_owner());
        if let Some(watching) = &mut self.watching {
            watching.subscription.rebind(self.principal.clone());
        }
    }

    /// The instant of a moment of the node's time.
    fn ends(&self, moment: Option<Timestamp>) -> Option<Instant> {
        let left = moment?.as_millis().saturating_sub(self.node.now().as_millis());
        now().checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    fn take(&mut self, effect: Effect) -> Action {
        match effect {
            Effect::Answer(response) => self.session.answer(&response),
            Effect::Farewell(response, stay) => {
                self.stay = stay;
                let said = self.session.answer(&response);
                if let Action::Send(text) = said { Action::SendAndClose(text) } else { said }
            }
            Effect::Watch(subscription, behind) => {
                self.watching = Some(Box::new(Watching { subscription: *subscription, behind }));
                self.session.start_monitoring();
                Action::Send(String::new())
            }
            Effect::Offer(sending) => {
                let until = tokio::time::Instant::now() + self.node.config.streams.pending;
                self.streaming = Some(Box::new(stream::End::Offered { sending, until }));
                Action::Send(String::new())
            }
            Effect::Receive(receiving) => {
                self.streaming = Some(Box::new(stream::End::Taken(receiving)));
                Action::Send(String::new())
            }
            Effect::Leave => {
                let said = self.streaming.as_mut().and_then(|end| end.farewell());
                said.map_or(Action::Close, Action::SendAndClose)
            }
            Effect::Bind(enrolled, response) => {
                self.session.bind(enrolled.id.clone());
                self.granted_until = self.ends(enrolled.expires);
                self.principal = Principal::Enrolled(enrolled);
                self.rebind_monitor();
                self.session.answer(&response)
            }
        }
    }

    /// Sends an answer, for which there must be room until the other end has taken it.
    async fn reply(&mut self, text: &str) -> Flow {
        if text.len() <= SMALL || self.room.is_some() {
            return self.say(text).await;
        }
        let is_authenticated = *self.session.who() != Identity::Anonymous;
        let Some(_held) = self.node.admission.room().take(text.len(), is_authenticated) else {
            let message = "the server has no room for a long answer now, ask again later";
            let busy = Failure::new(ErrorCode::BufferLimit, message);
            return match self.session.answer(&Response::Error(busy)) {
                Action::Send(text) | Action::SendAndClose(text) => self.say(&text).await,
                Action::Close | Action::Apply { .. } | Action::Verify { .. } => Flow::Break(()),
            };
        };
        self.say(text).await?;
        self.flush().await
    }

    /// Says something with the next write. Answers to lines that came together go together, whole, as many
    /// as one record holds.
    async fn say(&mut self, text: &str) -> Flow {
        if self.unsent.len() + text.len() > RECORD {
            self.flush().await?;
        }
        self.unsent.push_str(text);
        Flow::Continue(())
    }

    /// Sends what was said.
    async fn flush(&mut self) -> Flow {
        let unsent = std::mem::take(&mut self.unsent);
        write(&mut self.stream, unsent.as_bytes(), self.node.config.limits.node.write).await
    }

    async fn close(&mut self) -> Flow {
        self.flush().await?;
        // A courtesy to the other end: the connection ends either way.
        drop(timeout(Duration::from_secs(1), self.stream.shutdown()).await);
        Flow::Break(())
    }
}

/// The runtime's clock, which tests can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Reads whom the tenant turns away before somebody says who he is: the session itself cannot wait.
async fn know_blocked(node: &Node, tenant: Option<&AtSign>, line: &Line) {
    let (Some(tenant), Line::Text(text)) = (tenant, line) else { return };
    // No other verb begins so.
    if text.starts_with(['f', 'F'])
        && let Err(error) = node.blocklist(tenant).await
    {
        tracing::warn!(%tenant, %error, "not known whom to turn away, so everybody is");
    }
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

/// Sends in one write. Who does not take it in time is sent away.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], patience: Duration) -> Flow {
    if bytes.is_empty() {
        return Flow::Continue(());
    }
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    match timeout(patience, write).await {
        Ok(Ok(())) => Flow::Continue(()),
        Ok(Err(_)) | Err(_) => Flow::Break(()),
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

mod stream;
#[cfg(test)]
mod tests;
mod watching;
