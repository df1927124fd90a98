//! Telling the directory where this node's atSigns are served, by signed records.
//!
//! A node with a grant signs a record for each of its tenants and registers it: at the start, when a tenant is
//! added, when what it says has changed, and after half of its life. What is said when is [`plan`]'s to
//! decide. A record is kept in the store before the directory sees it, so that numbers never fall.
//!
//! Whose newest record names another node has moved there: it is not served here any more, whatever is in the
//! store.

mod desk;
mod plan;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use at_client::tls::ClientTls;
use at_protocol::directory::{
    Address, Distrust, EXTENDED, Grant, InvalidAddress, Location, Registrar, Registrars, SignedRecord,
    record_answer, record_question, registration, registration_answer,
};
use at_protocol::{AtSign, Timestamp};
use futures_util::future::try_join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{ListenConfig, NodeConfig};
use crate::identity::{self, Concern, Identity};
use crate::node::Node;
use crate::store::StoreError;
use crate::tenant::label;
use desk::Desk;
pub(crate) use desk::DeskError;
pub(crate) use plan::Place;
use plan::{Heard, Plan, Turn, Voice};

/// Lines that are said before the first answer is waited for: a quarter of a megabyte, and a hundred thousand
/// atSigns take four hundred round trips.
const AT_ONCE: usize = 256;
/// The longest pause after a first failure, which doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of all.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Speaks for a node's atSigns.
pub(crate) struct Announcer {
    config: NodeConfig,
    domain: Option<String>,
    identity: RwLock<Identity>,
    trusted: Registrars,
    directory: Address,
    tls: ClientTls,
    quic: u16,
    news: Mutex<News>,
    told: Notify,
    /// What was wrong with the grant when it was looked at last.
    concerns: Mutex<Vec<Concern>>,
}

/// What has happened since the last look.
#[derive(Default)]
struct News {
    hosts_others: bool,
    says_otherwise: bool,
    records: Vec<SignedRecord>,
}

/// Where a node's atSigns live.
pub(crate) trait Household: Send + Sync {
    /// Who is served now.
    fn hosted(&self) -> Vec<AtSign>;
    /// The port at which an atSign is served.
    fn port_of(&self, atsign: &AtSign) -> u16;
    /// Serves an atSign no more: this record says that another node does.
    fn retire(&self, record: &SignedRecord);
}

/// What became of one record.
#[derive(Debug)]
pub(crate) enum Registered {
    /// The directory has it.
    Taken,
    /// The directory has another one, of the same number or a higher one.
    Newer(Box<SignedRecord>),
    /// The directory does not take it, for another reason.
    NotNow(String),
}

/// Why a round of announcements failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Announcer {
    /// Speaks in the name of `identity`, whose node listens as `listen` says and on the port `quic`, to a
    /// directory.
    pub(crate) fn new(
        config: NodeConfig,
        listen: &ListenConfig,
        identity: Identity,
        (directory, tls): (Address, &ClientTls),
        quic: u16,
    ) -> Self {
        Self {
            trusted: config.trusted(),
            domain: listen.domain.clone(),
            config,
            identity: RwLock::new(identity),
            directory,
            tls: tls.speaking(EXTENDED),
            quic,
            news: Mutex::new(News { hosts_others: true, ..News::default() }),
            told: Notify::new(),
            concerns: Mutex::default(),
        }
    }

    /// Somebody was added, or has gone.
    pub(crate) fn hosts_others(&self) {
        self.note(|news| news.hosts_others = true);
    }

    /// Says what is wrong with the grant, once each time that changes, for a node that hosts these.
    pub(crate) fn worry(&self, hosted: &[AtSign], now: Timestamp) {
        let concerns = self.identity().concerns(hosted, &self.trusted, now);
        let mut known = self.concerns.lock().unwrap_or_else(PoisonError::into_inner);
        for concern in concerns.iter().filter(|concern| !known.contains(concern)) {
            tracing::warn!("{concern}");
        }
        *known = concerns;
    }

    /// Reads the grant again, which may have been renewed.
    pub(crate) fn refresh(&self) {
        let grant = match identity::grant(&self.config) {
            Ok(grant) => grant,
            Err(error) => {
                tracing::warn!(%error, "the grant stays as it was read last");
                return;
            }
        };
        let mut identity = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        if grant.as_ref() == identity.grant() {
            return;
        }
        tracing::info!("another grant: all records are made anew");
        identity.set_grant(grant);
        drop(identity);
        self.note(|news| news.says_otherwise = true);
    }

    /// The record, of those that are kept, by which an atSign has moved to another node.
    pub(crate) fn elsewhere(&self, kept: &[SignedRecord], now: Timestamp) -> HashMap<AtSign, SignedRecord> {
        let moved = kept.iter().filter(|record| !self.is_ours(record) && self.believes(record, now));
        moved.map(|record| (record.atsign.clone(), record.clone())).collect()
    }

    /// Notes the record by which an atSign has come to be served here.
    pub(crate) fn learn(&self, record: &SignedRecord) {
        self.note(|news| {
            news.records.push(record.clone());
            news.hosts_others = true;
        });
    }

    /// The grant by which this node may serve an atSign.
    pub(crate) fn grant_for(&self, atsign: &AtSign, now: Timestamp) -> Option<Grant> {
        self.identity().good_grant(now).filter(|grant| grant.covers(atsign)).cloned()
    }

    /// Whether another node may serve an atSign by this grant.
    pub(crate) fn may_serve(&self, grant: &Grant, atsign: &AtSign, now: Timestamp) -> Result<(), Distrust> {
        self.trusted.grants(grant, atsign, now).or_else(|why| match self.own_registrar() {
            Some(own) => own.grants(grant, atsign, now),
            None => Err(why),
        })
    }

    /// Has those who send from here know where an atSign is served now.
    pub(crate) async fn tell_others(&self, node: &Node, record: &SignedRecord) {
        if let Ok(links) = node.links()
            && !self.trusted.is_empty()
            && let Err(why) = links.directory().tell(record.clone()).await
        {
            tracing::debug!(atsign = %record.atsign, %why, "the directory is asked");
        }
    }

    /// Whether a record is this node's.
    pub(crate) fn is_own(&self, record: &SignedRecord) -> bool {
        self.is_ours(record)
    }

    /// Whether a record is to be believed now.
    pub(crate) fn trusts(&self, record: &SignedRecord, now: Timestamp) -> bool {
        self.believes(record, now)
    }

    /// Signs that an atSign is served at the address that all share; `None` if the node may not.
    pub(crate) fn record(&self, atsign: &AtSign, seq: u64, now: Timestamp) -> Option<SignedRecord> {
        let (Place { address, quic }, grant) = (self.place(atsign, self.quic)?, self.grant_for(atsign, now)?);
        Some(self.sign(atsign, Location { address, quic, seq, not_after: plan::end(&grant, now) }, grant))
    }

    /// Asks the directory for its record of an atSign.
    pub(crate) async fn ask(&self, atsign: &AtSign) -> Result<Option<SignedRecord>, DeskError> {
        let mut desk = Desk::open(&self.directory, &self.tls).await?;
        let answers = desk.ask(&[record_question(atsign)]).await?;
        desk.end().await;
        Ok(answers.first().and_then(|answer| record_answer(answer).ok()).flatten())
    }

    /// Registers one record at once.
    pub(crate) async fn register(&self, record: &SignedRecord) -> Result<Registered, DeskError> {
        let mut desk = Desk::open(&self.directory, &self.tls).await?;
        let answers = desk.ask(&[registration(record), record_question(&record.atsign)]).await?;
        desk.end().await;
        let [registered, found] = answers.as_slice() else {
            return Ok(Registered::NotNow("the directory answers something else".to_owned()));
        };
        let refused = match registration_answer(registered) {
            Ok(_) => return Ok(Registered::Taken),
            Err(refused) => refused,
        };
        Ok(match record_answer(found).ok().flatten() {
            Some(found) if found == *record => Registered::Taken,
            Some(found) if found.at.seq >= record.at.seq => Registered::Newer(Box::new(found)),
            Some(_) | None => Registered::NotNow(refused.to_string()),
        })
    }

    /// Announces, until `stop`.
    pub(crate) async fn run(&self, node: &Node, household: &impl Household, stop: &CancellationToken) {
        let mut plan = Plan::default();
        let mut kept = match node.store.signed_records().await {
            Ok(kept) => kept.into_iter().map(|record| (record.atsign.clone(), record)).collect(),
            Err(error) => {
                tracing::warn!(%error, "the directory tells what was said of old");
                HashMap::new()
            }
        };
        let (mut desk, mut failures) = (None, 0_u32);
        loop {
            self.take_news(&mut plan, &mut kept, household, node.now());
            let due = plan.due(AT_ONCE, node.now());
            let pause = if due.is_empty() {
                if let Some(desk) = desk.take() {
                    Desk::end(desk).await;
                }
                plan.rest(node.now())
            } else {
                match self.round(&mut plan, &mut desk, &due, node, household).await {
                    Ok(()) => {
                        failures = 0;
                        continue;
                    }
                    Err(error) => {
                        desk = None;
                        if failures == 0 {
                            tracing::warn!(%error, directory = %self.directory, "not announced for now");
                        } else {
                            tracing::debug!(%error, failures, "not announced for now");
                        }
                        failures = failures.saturating_add(1);
                        Some(pause(failures, crate::random::byte()))
                    }
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // While the directory is down, news do not make it come back sooner.
                () = self.told.notified(), if failures == 0 => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn take_news(
        &self,
        plan: &mut Plan,
        kept: &mut HashMap<AtSign, SignedRecord>,
        household: &impl Household,
        now: Timestamp,
    ) {
        let news = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
        if news.hosts_others {
            plan.host(household.hosted(), |atsign| kept.remove(atsign), self, now);
            // Those who come later may have been elsewhere meanwhile.
            kept.clear();
        }
        news.records.iter().for_each(|record| plan.learn(record, self));
        if news.says_otherwise {
            plan.begin_anew(now);
        }
    }

    /// Says one word about each of some atSigns.
    async fn round(
        &self,
        plan: &mut Plan,
        desk: &mut Option<Desk>,
        due: &[AtSign],
        node: &Node,
        household: &impl Household,
    ) -> Result<(), RoundError> {
        let (mut lines, mut said, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for atsign in due {
            let place = self.place(atsign, household.port_of(atsign));
            let turn = place.map_or(Turn::Silence, |place| plan.turn(atsign, &place, self, node.now()));
            match turn {
                Turn::Ask => {
                    lines.push(record_question(atsign));
                    said.push((atsign, None));
                }
                Turn::Register { record, is_new } => {
                    lines.push(registration(&record));
                    if is_new {
                        new.push(SignedRecord::clone(&record));
                    }
                    said.push((atsign, Some(record)));
                }
                Turn::Silence => plan.silence(atsign),
                Turn::Elsewhere(record) => {
                    plan.silence(atsign);
                    node.store.keep_signed_record(SignedRecord::clone(&record)).await?;
                    household.retire(&record);
                }
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        try_join_all(new.iter().map(|record| node.store.keep_signed_record(record.clone()))).await?;
        new.iter().for_each(|record| plan.learn(record, self));
        let desk = match desk {
            Some(desk) => desk,
            None => desk.insert(Desk::open(&self.directory, &self.tls).await?),
        };
        let answers = desk.ask(&lines).await?;
        for ((atsign, record), answer) in said.into_iter().zip(answers) {
            let heard = match record {
                Some(record) => match registration_answer(&answer) {
                    Ok(seq) => {
                        tracing::debug!(%atsign, seq, "announced");
                        Heard::Taken(record)
                    }
                    Err(error) => {
                        tracing::debug!(%atsign, %error, "asking for what it knows");
                        Heard::Refused
                    }
                },
                None => {
                    // What is no record is none.
                    let found = record_answer(&answer).ok().flatten();
                    if let Some(found) = found.clone().filter(|found| self.believes(found, node.now())) {
                        node.store.keep_signed_record(found).await?;
                    }
                    Heard::Has(found.map(Box::new))
                }
            };
            if plan.hear(atsign, heard, self, crate::random::byte(), node.now()) {
                tracing::warn!(
                    %atsign, directory = %self.directory,
                    "the directory does not take the record, though it knows none that is newer; does it trust \
                     the registrar?"
                );
            }
        }
        Ok(())
    }

    /// Where others find an atSign that is served at `port`; `None` if its host's name is too strange.
    fn place(&self, atsign: &AtSign, port: u16) -> Option<Place> {
        let host = match (&self.domain, &self.config.host) {
            (Some(domain), _) => format!("{}.{domain}", label(atsign)),
            (None, Some(host)) => host.clone(),
            (None, None) => return None,
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let address: Result<Address, InvalidAddress> = format!("{host}:{port}").parse();
        address.ok().map(|address| Place { address, quic: self.quic })
    }

    /// The registrar of this node's own grant: another node that has a grant of the same may rightly serve what
    /// this one has.
    fn own_registrar(&self) -> Option<Registrars> {
        let key = self.identity().grant()?.registrar.clone();
        Some(Registrars::new(vec![Registrar { key, atsigns: Vec::new() }]))
    }

    fn note(&self, what: impl FnOnce(&mut News)) {
        what(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.told.notify_one();
    }

    fn identity(&self) -> RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Voice for Announcer {
    fn is_ours(&self, record: &SignedRecord) -> bool {
        *record.node() == self.identity().public()
    }

    fn believes(&self, record: &SignedRecord, now: Timestamp) -> bool {
        std::iter::once(&self.trusted)
            .chain(self.own_registrar().as_ref())
            .any(|trusted| trusted.verify(record.clone(), now).is_ok())
    }

    fn grant(&self, atsign: &AtSign, now: Timestamp) -> Option<Grant> {
        self.grant_for(atsign, now)
    }

    fn sign(&self, atsign: &AtSign, at: Location, grant: Grant) -> SignedRecord {
        self.identity().sign(atsign, at, grant)
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The pause after so many failures, at least one: anything up to what is due, so that many nodes do not come
/// back together.
fn pause(failures: u32, random: u8) -> Duration {
    let due = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
    due * u32::from(random) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_anything_up_to_a_minute() {
        assert_eq!([1, 2, 3].map(|failures| pause(failures, 255).as_secs()), [1, 2, 4]);
        assert_eq!(pause(u32::MAX, 255), LONGEST_PAUSE);
        assert_eq!(pause(9, 0), Duration::ZERO);
    }
}
