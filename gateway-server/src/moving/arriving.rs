//! A tenant that comes from another node.

use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Grant, SignedRecord};
use tokio::io::{AsyncBufRead, AsyncWrite, BufStream};
use tokio::time::timeout;

use super::file::{Counted, Reading};
use super::words::{Arriving, Leaving, WordError, hear, line, say};
use super::{Doors, Mover, Visit};
use crate::announce::Registered;
use crate::store::{Arrival, Row, StoreError};

/// Rows, and bytes of them, that are committed together: few enough that nobody else waits for long.
const ROWS: usize = 200;
const BYTES: usize = 1024 * 1024;
/// The pause before the directory is told again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a stream waits for another one that brings the same: less than the other node's patience.
const TURN: Duration = Duration::from_secs(10);
/// How long what was copied is kept for the other node to say that it is ours.
const KEPT_MS: u64 = 60 * 60 * 1000;

/// How far one that was given to us is.
enum Settled {
    /// It is served.
    Served(Box<SignedRecord>),
    /// The directory is not reached.
    NotYet(String),
    /// Somebody else serves it.
    Lost(String),
    /// There is nothing of it.
    Unknown,
}

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error(transparent)]
    Word(#[from] WordError),
    #[error("it sends rows of {0}")]
    Another(AtSign),
    #[error("it sends what are no rows: {0}")]
    NoRows(String),
    #[error("it begins again in the middle")]
    Again,
    #[error("it came by another way meanwhile")]
    Overtaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mover {
    /// Serves a stream by which a tenant moves here.
    pub(crate) async fn receive(&self, visit: Visit, doors: &impl Doors) {
        let Visit { atsign, from, stream } = visit;
        let mut stream = BufStream::new(stream);
        if let Err(error) = self.converse(&atsign, &from, &mut stream, doors).await {
            tracing::warn!(%atsign, node = %from, %error, "a move to this node broke off");
        }
    }

    async fn converse<S>(
        &self,
        atsign: &AtSign,
        from: &Ed25519Public,
        stream: &mut S,
        doors: &impl Doors,
    ) -> Result<(), VisitError>
    where
        S: AsyncBufRead + AsyncWrite + Unpin + Send,
    {
        say(stream, &Arriving::Ready).await?;
        let seq = match hear(stream).await? {
            Leaving::Take { seq } => seq,
            first @ (Leaving::Ask | Leaving::Begin) => {
                let grant = match self.may_come(atsign, from).await? {
                    Ok(grant) => Box::new(grant),
                    Err(why) => {
                        tracing::warn!(%atsign, node = %from, why, "a move to this node is refused");
                        return Ok(say(stream, &Arriving::Refused { why }).await?);
                    }
                };
                let welcome = Arriving::Welcome { grant };
                if matches!(first, Leaving::Ask) {
                    return Ok(say(stream, &welcome).await?);
                }
                self.copy(atsign, from, &welcome, stream).await?;
                match hear(stream).await? {
                    Leaving::Take { seq } => seq,
                    Leaving::Ask | Leaving::Begin => return Err(VisitError::Again),
                }
            }
        };
        self.take_over(atsign, from, seq).await?;
        loop {
            let word = match self.settle(atsign, doors).await? {
                Settled::NotYet(why) => {
                    say(stream, &Arriving::Waiting { why }).await?;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Settled::Served(record) => Arriving::Served { record },
                Settled::Lost(why) => Arriving::Refused { why },
                Settled::Unknown => match self.served(atsign, seq).await? {
                    Some(record) => Arriving::Served { record },
                    None => {
                        Arriving::Refused { why: "nothing was copied there, or it was given up".to_owned() }
                    }
                },
            };
            return Ok(say(stream, &word).await?);
        }
    }

    /// The grant by which a tenant may move here from this node, or why it may not.
    async fn may_come(
        &self,
        atsign: &AtSign,
        from: &Ed25519Public,
    ) -> Result<Result<Grant, String>, StoreError> {
        let (node, announcer) = (&self.node, &self.announcer);
        if node.store.tenants().await?.iter().any(|tenant| tenant.atsign == *atsign) {
            return Ok(Err(format!("{atsign} is hosted there already")));
        }
        let Some(grant) = announcer.grant_for(atsign, node.now()) else {
            return Ok(Err(format!("its grant does not cover {atsign}")));
        };
        let given = node.store.arrivals().await?;
        let is_given =
            |(who, state): &(AtSign, Arrival)| who == atsign && matches!(state, Arrival::Given { .. });
        if given.iter().any(is_given) {
            return Ok(Err(format!("{atsign} was given to it before and is not served yet")));
        }
        Ok(match announcer.ask(atsign).await {
            Ok(Some(record)) if record.node() == from && announcer.trusts(&record, node.now()) => Ok(grant),
            Ok(_) => Err(format!("the directory does not say that the node {from} serves {atsign}")),
            Err(error) => Err(format!("it cannot ask who serves {atsign}: {error}")),
        })
    }

    /// Takes all rows, or keeps none.
    async fn copy<S>(
        &self,
        atsign: &AtSign,
        from: &Ed25519Public,
        welcome: &Arriving,
        stream: &mut S,
    ) -> Result<(), VisitError>
    where
        S: AsyncBufRead + AsyncWrite + Unpin + Send,
    {
        // A stream that broke a moment ago gives up what it brought.
        let entered = timeout(TURN, self.copying.enter(atsign)).await;
        let _turn = entered.map_err(|_| VisitError::Overtaken)?;
        let taken = self.take_rows(atsign, from, welcome, stream).await;
        if taken.is_err() {
            self.node.store.drop_arrival(atsign).await?;
        }
        taken
    }

    /// Takes all rows.
    async fn take_rows<S>(
        &self,
        atsign: &AtSign,
        from: &Ed25519Public,
        welcome: &Arriving,
        stream: &mut S,
    ) -> Result<(), VisitError>
    where
        S: AsyncBufRead + AsyncWrite + Unpin + Send,
    {
        let store = &self.node.store;
        if !store.arrive(atsign, Arrival::Copying { from: from.clone() }).await? {
            return Err(VisitError::Overtaken);
        }
        say(stream, welcome).await?;
        let (tenant, mut reading) = Reading::begin(&line(stream).await?).map_err(VisitError::NoRows)?;
        if tenant.atsign != *atsign {
            return Err(VisitError::Another(tenant.atsign));
        }
        let (mut rows, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
        let count = loop {
            let text = line(stream).await?;
            match reading.read(&text).map_err(VisitError::NoRows)? {
                Counted::Row(row) => rows.push(row),
                Counted::End(count) => break count,
            }
            bytes += text.len();
            if rows.len() >= ROWS || bytes >= BYTES {
                bytes = 0;
                self.add(atsign, std::mem::take(&mut rows)).await?;
            }
        };
        self.add(atsign, rows).await?;
        let stored = Arrival::Stored { from: from.clone(), since: self.node.now() };
        if !store.set_arrival(atsign, stored).await? {
            return Err(VisitError::Overtaken);
        }
        Ok(say(stream, &Arriving::Stored { rows: count }).await?)
    }

    async fn add(&self, atsign: &AtSign, rows: Vec<Row>) -> Result<(), VisitError> {
        if self.node.store.add_rows(atsign, rows).await? { Ok(()) } else { Err(VisitError::Overtaken) }
    }

    /// It is ours, says the other node: the record is made and kept by which it will be served.
    async fn take_over(&self, atsign: &AtSign, from: &Ed25519Public, seq: u64) -> Result<(), StoreError> {
        let _turn = self.settling.lock().await;
        let arrivals = self.node.store.arrivals().await?;
        let stored = |(who, state): &(AtSign, Arrival)| {
            who == atsign && matches!(state, Arrival::Stored { from: source, .. } if source == from)
        };
        if !arrivals.iter().any(stored) {
            return Ok(());
        }
        let Some(record) = self.announcer.record(atsign, seq, self.node.now()) else {
            tracing::warn!(%atsign, "the grant that covered it has ended");
            return Ok(());
        };
        let given = Arrival::Given { from: from.clone(), record: Box::new(record) };
        self.node.store.set_arrival(atsign, given).await?;
        Ok(())
    }

    /// Goes on with all that were given to this node, and gives up those that never were.
    pub(crate) async fn settle_all(&self, doors: &impl Doors) -> Result<(), StoreError> {
        for (atsign, state) in self.node.store.arrivals().await? {
            match state {
                Arrival::Given { .. } => match self.settle(&atsign, doors).await? {
                    Settled::NotYet(why) => {
                        tracing::warn!(%atsign, why, "it has moved here and is not served yet")
                    }
                    Settled::Served(_) | Settled::Lost(_) | Settled::Unknown => {}
                },
                Arrival::Stored { since, .. } if since.plus_millis(KEPT_MS) <= self.node.now() => {
                    self.node.store.drop_arrival(&atsign).await?;
                }
                Arrival::Stored { .. } | Arrival::Copying { .. } => {}
            }
        }
        Ok(())
    }

    /// Gives up what was being copied when the server stopped.
    pub(crate) async fn forget_copies(&self) -> Result<(), StoreError> {
        for (atsign, state) in self.node.store.arrivals().await? {
            if matches!(state, Arrival::Copying { .. }) {
                self.node.store.drop_arrival(&atsign).await?;
            }
        }
        Ok(())
    }

    /// Goes on with one that was given to this node: it is served once the directory has taken its record.
    async fn settle(&self, atsign: &AtSign, doors: &impl Doors) -> Result<Settled, StoreError> {
        let _turn = self.settling.lock().await;
        let store = &self.node.store;
        let arrivals = store.arrivals().await?;
        let given = arrivals.into_iter().find_map(|(who, state)| match state {
            Arrival::Given { record, .. } if who == *atsign => Some(record),
            Arrival::Given { .. } | Arrival::Stored { .. } | Arrival::Copying { .. } => None,
        });
        let Some(record) = given else { return Ok(Settled::Unknown) };
        if store.tenants().await?.iter().any(|tenant| tenant.atsign == *atsign) {
            tracing::warn!(%atsign, "it was added here while it moved: what was copied is given up");
            store.drop_arrival(atsign).await?;
            return Ok(Settled::Lost(format!("{atsign} was added there meanwhile")));
        }
        match self.announcer.register(&record).await {
            Ok(Registered::Taken) => {}
            Ok(Registered::Newer(other)) => {
                let why = format!("the directory has a record of the node {} meanwhile", other.node());
                tracing::warn!(%atsign, why, "what was copied here is given up");
                store.drop_arrival(atsign).await?;
                return Ok(Settled::Lost(why));
            }
            Ok(Registered::NotNow(why)) => return Ok(Settled::NotYet(why)),
            Err(error) => return Ok(Settled::NotYet(error.to_string())),
        }
        store.keep_signed_record(SignedRecord::clone(&record)).await?;
        if store.settle_in(atsign, self.node.now()).await? {
            tracing::info!(%atsign, seq = record.at.seq, "it has moved here");
        }
        self.announcer.learn(&record);
        doors.open(atsign).await?;
        Ok(Settled::Served(record))
    }

    /// The record by which a tenant is served here that came with this number, or a later one.
    async fn served(&self, atsign: &AtSign, seq: u64) -> Result<Option<Box<SignedRecord>>, StoreError> {
        if !self.node.is_hosted(atsign) {
            return Ok(None);
        }
        let kept = self.node.store.signed_records().await?.into_iter();
        let own = |record: &SignedRecord| {
            record.atsign == *atsign && record.at.seq >= seq && self.announcer.is_own(record)
        };
        Ok(kept.filter(own).max_by_key(|record| record.at.seq).map(Box::new))
    }
}
