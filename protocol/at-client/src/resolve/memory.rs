//! What is known of where atSigns are served, and what of it is believed: pure, without the directory, or a
//! clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use at_protocol::directory::{Address, Distrust, Registrars, SignedRecord, VerifiedRecord};
use at_protocol::{AtSign, Timestamp};

use super::Found;

/// How long an answer is used without asking again; other SDKs do the same (wire reference §1.3).
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long the last good answer is used before a directory that is down, or not believed, is asked again.
const STALE: Duration = Duration::from_secs(10);

/// The answers that were believed, and the registrars by whom they are judged.
#[derive(Debug, Default)]
pub struct Memory {
    registrars: Option<Registrars>,
    known: HashMap<AtSign, Known>,
}

/// What was once answered. It is kept after it is stale, for when the directory is down.
#[derive(Debug)]
struct Known {
    address: Address,
    /// The newest record that was ever believed, which may be over.
    record: Option<Arc<VerifiedRecord>>,
    fresh_until: Instant,
}

impl Memory {
    /// Believes signed records only, wherever there are any; `kept` were believed before.
    #[must_use]
    pub fn trusting(
        registrars: Registrars,
        kept: impl IntoIterator<Item = SignedRecord>,
        now: Instant,
    ) -> Self {
        let mut known = HashMap::new();
        for record in kept {
            // What is over is still the newest that was seen.
            let Ok(record) = registrars.verify(record, Timestamp::from_millis(0)) else { continue };
            let address = record.at.address.clone();
            let (atsign, record) = (record.atsign.clone(), Some(Arc::new(record)));
            known.insert(atsign, Known { address, record, fresh_until: now });
        }
        Self { registrars: Some(registrars), known }
    }

    /// Whether signed records are asked for.
    #[must_use]
    pub fn is_trusting(&self) -> bool {
        self.registrars.is_some()
    }

    /// What is known of an atSign, if that may be used without asking. `wall` is the time of day.
    #[must_use]
    pub fn fresh(&self, atsign: &AtSign, now: Instant, wall: Timestamp) -> Option<Found> {
        self.known.get(atsign).filter(|known| now < known.fresh_until)?.found(wall)
    }

    /// What is known of an atSign, however old that is.
    #[must_use]
    pub fn last(&self, atsign: &AtSign, wall: Timestamp) -> Option<Found> {
        self.known.get(atsign)?.found(wall)
    }

    /// What serves while the directory does not answer, or not to be believed.
    pub fn stand_in(&mut self, atsign: &AtSign, now: Instant, wall: Timestamp) -> Option<Found> {
        let known = self.known.get_mut(atsign)?;
        let found = known.found(wall)?;
        known.fresh_until = now + STALE;
        Some(found)
    }

    /// The address of `atsign` did not serve.
    pub fn suspect(&mut self, atsign: &AtSign, now: Instant) {
        if let Some(known) = self.known.get_mut(atsign) {
            known.fresh_until = now;
        }
    }

    /// Whether an atSign is found by signed records only: one was believed before, or a registrar calls it its
    /// own.
    #[must_use]
    pub fn is_bound(&self, atsign: &AtSign) -> bool {
        let Some(registrars) = &self.registrars else { return false };
        registrars.govern(atsign) || self.record(atsign).is_some()
    }

    /// Checks a record that was said to be of `atsign`.
    ///
    /// # Errors
    /// It is not to be believed.
    pub fn check(
        &self,
        atsign: &AtSign,
        record: SignedRecord,
        wall: Timestamp,
    ) -> Result<Arc<VerifiedRecord>, Distrust> {
        if record.atsign != *atsign {
            return Err(Distrust::AnotherAtSign(record.atsign));
        }
        let Some(registrars) = &self.registrars else {
            return Err(Distrust::UnknownRegistrar(record.grant.registrar));
        };
        let record = registrars.verify(record, wall)?;
        if let Some(known) = self.record(atsign) {
            record.follows(known)?;
        }
        Ok(Arc::new(record))
    }

    /// Remembers an answer that was checked. Gives the record if that is one to be kept.
    pub fn remember(&mut self, atsign: &AtSign, found: &Found, now: Instant) -> Option<Arc<VerifiedRecord>> {
        let before = self.record(atsign);
        // Another look-up may have brought a newer one meanwhile.
        let is_newer = |record: &Arc<VerifiedRecord>| before.is_none_or(|old| record.at.seq >= old.at.seq);
        if !found.record.as_ref().map_or(before.is_none(), is_newer) {
            return None;
        }
        let kept = found.record.clone().filter(|record| before != Some(record));
        let (address, record) = (found.address.clone(), found.record.clone());
        self.known.insert(atsign.clone(), Known { address, record, fresh_until: now + FRESH });
        kept
    }

    /// The directory knows nobody of this name.
    pub fn forget(&mut self, atsign: &AtSign) {
        self.known.remove(atsign);
    }

    fn record(&self, atsign: &AtSign) -> Option<&Arc<VerifiedRecord>> {
        self.known.get(atsign)?.record.as_ref()
    }
}

impl Known {
    fn found(&self, wall: Timestamp) -> Option<Found> {
        match &self.record {
            Some(record) => record.holds_at(wall).then(|| Found::from(Arc::clone(record))),
            None => Some(Found { address: self.address.clone(), record: None }),
        }
    }
}
