//! A tenant that goes to another node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use at_client::pin::{any_node, key, pinned};
use at_client::tls::{ClientTls, DialError, dial};
use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, Distrust, SignedRecord};
use at_protocol::peer::{ALPN, Opening};
use rustls::client::ResolvesClientCert;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt as _, BufReader, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::words::{Arriving, Leaving, WordError, hear, say};
use super::{Doors, MoveError, Mover, export};
use crate::announce::{DeskError, Registered};
use crate::store::{Departure, StoreError};
use crate::tenant::label;

/// How long connecting may take, and each piece of a file.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a file that are read at once.
const PIECE: usize = 64 * 1024;
/// How long the other node may be out of reach after it was given a tenant, before that is taken back.
const GIVEN_UP_MS: u64 = 5 * 60 * 1000;
/// The pause before the other node, or the directory, is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// A connection to the node to which a tenant moves.
struct Destination {
    stream: BufStream<TlsStream<TcpStream>>,
    node: Ed25519Public,
}

/// Why a tenant does not move.
#[derive(Debug, thiserror::Error)]
enum LeaveError {
    #[error("this node has no grant of a registrar, or no directory; `atedge-server check` tells")]
    Unknown,
    #[error("{0} is not hosted here")]
    NotHosted(AtSign),
    #[error("{0} is this node itself")]
    Here(Address),
    #[error("cannot reach the other node: {0}")]
    Dial(#[from] DialError),
    #[error("{0} is no node of a fleet: it shows no key")]
    NoNode(Address),
    #[error("the other node may not serve it: {0}")]
    Ungranted(#[from] Distrust),
    #[error("the other node shows a grant that is another's")]
    AnothersGrant,
    #[error("the other node refuses: {0}")]
    Refused(String),
    #[error("the directory does not say that this node serves it, which nobody would believe then")]
    NotOurs,
    #[error(transparent)]
    Word(#[from] WordError),
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error("its rows cannot be read: {0}")]
    Export(#[from] MoveError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the other node says of one that was given to it.
enum Answer {
    Served(Box<SignedRecord>),
    Refused(String),
}

impl Mover {
    /// Moves one as far as it gets: until it is served there, or here again.
    ///
    /// # Errors
    /// The store failed; what was begun is gone on with after a restart.
    pub(crate) async fn leave(
        &self,
        atsign: &AtSign,
        state: Departure,
        doors: &impl Doors,
    ) -> Result<(), StoreError> {
        match state {
            Departure::Asked { to } => {
                tracing::info!(%atsign, %to, "it moves to another node");
                match self.give(atsign, &to, doors).await {
                    Ok((there, seq)) => {
                        let node = there.node.clone();
                        self.hand_over(atsign, &to, &node, seq, Some(there), doors).await
                    }
                    Err(error) => self.stay(atsign, error.to_string(), doors).await,
                }
            }
            Departure::Copying { .. } => {
                let why = "the server stopped while it was copied; ask again".to_owned();
                self.stay(atsign, why, doors).await
            }
            Departure::Given { to, node, seq, .. } => {
                doors.shut(atsign).await;
                self.node.store.freeze(atsign);
                self.hand_over(atsign, &to, &node, seq, None, doors).await
            }
            Departure::Claimed => self.claim(atsign, doors).await,
            Departure::Done { .. } | Departure::Refused { .. } => Ok(()),
        }
    }

    /// Copies all rows and gives the tenant away. Until the last moment it can stay.
    async fn give(
        &self,
        atsign: &AtSign,
        to: &Address,
        doors: &impl Doors,
    ) -> Result<(Destination, u64), LeaveError> {
        let (store, announcer) = (&self.node.store, &self.announcer);
        if !self.node.is_hosted(atsign) {
            return Err(LeaveError::NotHosted(atsign.clone()));
        }
        if announcer.grant_for(atsign, self.node.now()).is_none() {
            return Err(LeaveError::Unknown);
        }
        // Whether it may come is asked before anybody has to do without it.
        drop(self.ask(atsign, to, &Leaving::Ask).await?);
        store.set_departure(atsign, Some(Departure::Copying { to: to.clone() })).await?;
        doors.shut(atsign).await;
        store.freeze(atsign);
        store.reconcile().await?;
        let newest = announcer.ask(atsign).await?.filter(|newest| announcer.is_own(newest));
        let seq = newest.ok_or(LeaveError::NotOurs)?.at.seq.saturating_add(1);
        let file = self.folder.join(format!("{}.moving", label(atsign)));
        // One that was left behind by a crash is of no use.
        std::fs::remove_file(&file).ok();
        let sent = self.send(atsign, to, &file).await;
        std::fs::remove_file(&file).ok();
        let there = sent?;
        let given =
            Departure::Given { to: to.clone(), node: there.node.clone(), seq, since: self.node.now() };
        store.set_departure(atsign, Some(given)).await?;
        Ok((there, seq))
    }

    /// Sends all rows, which the other node has on disk then.
    async fn send(&self, atsign: &AtSign, to: &Address, file: &PathBuf) -> Result<Destination, LeaveError> {
        let count = export(self.node.store.as_ref(), atsign, file).await?;
        let mut there = self.ask(atsign, to, &Leaving::Begin).await?;
        let unread = |source| MoveError::File { file: file.clone(), source };
        let mut rows = BufReader::with_capacity(PIECE, tokio::fs::File::open(file).await.map_err(unread)?);
        loop {
            let piece = rows.fill_buf().await.map_err(unread)?;
            let length = piece.len();
            if length == 0 {
                break;
            }
            let written = timeout(PATIENCE, there.stream.write_all(piece)).await;
            written.map_err(|_| WordError::Silent)?.map_err(WordError::from)?;
            rows.consume(length);
        }
        timeout(PATIENCE, there.stream.flush())
            .await
            .map_err(|_| WordError::Silent)?
            .map_err(WordError::from)?;
        let word = hear(&mut there.stream).await?;
        if matches!(word, Arriving::Stored { rows } if rows == count) {
            Ok(there)
        } else {
            Err(strange(&word))
        }
    }

    /// Asks whether a tenant may come.
    async fn ask(&self, atsign: &AtSign, to: &Address, how: &Leaving) -> Result<Destination, LeaveError> {
        let mut there = self.visit(atsign, to, None).await?;
        say(&mut there.stream, how).await?;
        let word = hear(&mut there.stream).await?;
        if let Arriving::Refused { why } = word {
            return Err(LeaveError::Refused(why));
        }
        let Arriving::Welcome { grant } = word else { return Err(strange(&word)) };
        if grant.node != there.node {
            return Err(LeaveError::AnothersGrant);
        }
        self.announcer.may_serve(&grant, atsign, self.node.now())?;
        Ok(there)
    }

    /// Connects to the node at an address: to `node`, if that is known.
    async fn visit(
        &self,
        atsign: &AtSign,
        to: &Address,
        node: Option<&Ed25519Public>,
    ) -> Result<Destination, LeaveError> {
        let shown = Some(Arc::clone(&self.identity) as Arc<dyn ResolvesClientCert>);
        let tls = match node {
            Some(node) => pinned(node, shown, ALPN),
            None => any_node(shown, ALPN),
        };
        let stream = dial(to, &ClientTls::from(tls), PATIENCE).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let node = certificates.and_then(|chain| key(chain.first()?));
        let node = node.ok_or_else(|| LeaveError::NoNode(to.clone()))?;
        if node.as_bytes() == self.identity.public() {
            return Err(LeaveError::Here(to.clone()));
        }
        let mut there = Destination { stream: BufStream::new(stream), node };
        let opening = format!("{}\n", Opening::Move { atsign: atsign.clone() });
        there.stream.write_all(opening.as_bytes()).await.map_err(WordError::from)?;
        there.stream.flush().await.map_err(WordError::from)?;
        let word = hear(&mut there.stream).await?;
        if matches!(word, Arriving::Ready) { Ok(there) } else { Err(strange(&word)) }
    }

    /// Has the other node serve what it was given, however long that takes; or takes it back.
    async fn hand_over(
        &self,
        atsign: &AtSign,
        to: &Address,
        node: &Ed25519Public,
        seq: u64,
        mut there: Option<Destination>,
        doors: &impl Doors,
    ) -> Result<(), StoreError> {
        let mut heard = self.node.now();
        let mut is_said = false;
        loop {
            let met = match there.take() {
                Some(there) => Ok(there),
                None => self.visit(atsign, to, Some(node)).await,
            };
            let answer = match met {
                Ok(there) => self.take(there, seq, &mut heard).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(Answer::Served(record)) => {
                    if record.at.seq >= seq && record.node() == node {
                        return self.forget(atsign, record, doors).await;
                    }
                    tracing::warn!(%atsign, "the other node shows a record that is not its own");
                }
                Ok(Answer::Refused(why)) => return self.take_back(atsign, node, seq, why, doors).await,
                Err(error) => {
                    if !is_said {
                        tracing::warn!(%atsign, %to, %error, "the other node is asked again to serve it");
                    }
                    is_said = true;
                    if heard.plus_millis(GIVEN_UP_MS) <= self.node.now() {
                        let why = format!("the other node is not reached any more: {error}");
                        return self.take_back(atsign, node, seq, why, doors).await;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Says that the tenant is the other node's, and waits until that serves it.
    async fn take(
        &self,
        mut there: Destination,
        seq: u64,
        heard: &mut at_protocol::Timestamp,
    ) -> Result<Answer, LeaveError> {
        say(&mut there.stream, &Leaving::Take { seq }).await?;
        loop {
            let word = hear(&mut there.stream).await?;
            *heard = self.node.now();
            match word {
                Arriving::Served { record } => return Ok(Answer::Served(record)),
                Arriving::Refused { why } => return Ok(Answer::Refused(why)),
                Arriving::Waiting { why } => tracing::debug!(why, "the other node waits"),
                other @ (Arriving::Ready | Arriving::Welcome { .. } | Arriving::Stored { .. }) => {
                    return Err(strange(&other));
                }
            }
        }
    }

    /// Serves again what was given away, if the directory takes a record of ours before one of the other
    /// node's.
    async fn take_back(
        &self,
        atsign: &AtSign,
        node: &Ed25519Public,
        seq: u64,
        why: String,
        doors: &impl Doors,
    ) -> Result<(), StoreError> {
        tracing::warn!(%atsign, %node, why, "it is taken back");
        loop {
            let Some(record) = self.announcer.record(atsign, seq, self.node.now()) else {
                tracing::error!(%atsign, "this node may not serve it any more: another grant is needed");
                tokio::time::sleep(AGAIN * 30).await;
                continue;
            };
            match self.announcer.register(&record).await {
                Ok(Registered::Taken) => {
                    self.node.store.keep_signed_record(record).await?;
                    return self.stay(atsign, why, doors).await;
                }
                Ok(Registered::Newer(newer)) if self.announcer.is_own(&newer) => {
                    return self.stay(atsign, why, doors).await;
                }
                Ok(Registered::Newer(newer)) => return self.forget(atsign, newer, doors).await,
                Ok(Registered::NotNow(refused)) => {
                    tracing::warn!(%atsign, refused, "it is not served anywhere")
                }
                Err(error) => {
                    tracing::warn!(%atsign, %error, "it is not served anywhere until the directory answers")
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Serves one of the store though the directory has another node's record, which is said to be gone: by a
    /// record with the next number.
    async fn claim(&self, atsign: &AtSign, doors: &impl Doors) -> Result<(), StoreError> {
        let (store, announcer) = (&self.node.store, &self.announcer);
        if !store.tenants().await?.iter().any(|tenant| tenant.atsign == *atsign) {
            return self.stay(atsign, format!("{atsign} is not in this store"), doors).await;
        }
        loop {
            let why = match announcer.ask(atsign).await {
                Err(error) => error.to_string(),
                Ok(newest) => {
                    let seq = newest.map_or(1, |newest| newest.at.seq.saturating_add(1));
                    let Some(record) = announcer.record(atsign, seq, self.node.now()) else {
                        return self.stay(atsign, LeaveError::Unknown.to_string(), doors).await;
                    };
                    match announcer.register(&record).await {
                        Ok(Registered::Taken) => {
                            tracing::warn!(%atsign, seq, "it is served here, because the operator says so");
                            store.keep_signed_record(record.clone()).await?;
                            announcer.tell_others(&self.node, &record).await;
                            store.thaw(atsign);
                            let done = Departure::Done { record: Box::new(record) };
                            store.set_departure(atsign, Some(done)).await?;
                            return doors.open(atsign).await;
                        }
                        Ok(Registered::Newer(_)) => "another record was faster".to_owned(),
                        Ok(Registered::NotNow(why)) => why,
                        Err(error) => error.to_string(),
                    }
                }
            };
            tracing::warn!(%atsign, why, "the directory is told again that it is served here");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// It is served here again, or as before.
    async fn stay(&self, atsign: &AtSign, why: String, doors: &impl Doors) -> Result<(), StoreError> {
        tracing::warn!(%atsign, why, "it does not move");
        self.node.store.thaw(atsign);
        self.node.store.set_departure(atsign, Some(Departure::Refused { why })).await?;
        doors.open(atsign).await
    }

    /// The other node serves it: nothing of it stays.
    async fn forget(
        &self,
        atsign: &AtSign,
        record: Box<SignedRecord>,
        doors: &impl Doors,
    ) -> Result<(), StoreError> {
        let store = &self.node.store;
        tracing::info!(%atsign, node = %record.node(), seq = record.at.seq, "it has moved");
        store.keep_signed_record(SignedRecord::clone(&record)).await?;
        self.announcer.tell_others(&self.node, &record).await;
        store.remove_tenant(atsign).await?;
        store.thaw(atsign);
        store.set_departure(atsign, Some(Departure::Done { record })).await?;
        doors.open(atsign).await
    }
}

fn strange(word: &Arriving) -> LeaveError {
    WordError::Strange(format!("{word:?}")).into()
}
