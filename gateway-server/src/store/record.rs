//! A record and the rules of its life (atProtocol wire reference §6).

use at_protocol::metadata::RecordMetadata;
use at_protocol::{AtSign, Metadata, Timestamp};

/// A value and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The value, which the server never interprets.
    pub value: String,
    /// What its owner says about it.
    pub metadata: Metadata,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// From when on it can be read.
    pub available: Option<Timestamp>,
    /// Until when it can be read.
    pub expires: Option<Timestamp>,
    /// When a copy wants to be fetched again.
    pub refresh: Option<Timestamp>,
    /// 0 at creation, one more at each change.
    pub version: u64,
}

impl Record {
    /// What an update makes of the record that was there `before`.
    #[must_use]
    pub fn written(before: Option<&Self>, value: String, metadata: &Metadata, now: Timestamp) -> Self {
        let before = before.filter(|before| !before.is_expired(now));
        let mut metadata = match before {
            Some(before) => metadata.merged_over(&before.metadata),
            None => metadata.merged_over(&Metadata::default()),
        };
        let positive = |millis: Option<u64>| millis.filter(|millis| *millis > 0);
        let born = positive(metadata.ttb).map(|ttb| now.plus_millis(ttb));
        let dies = positive(metadata.ttl).map(|ttl| born.unwrap_or(now).plus_millis(ttl));
        // What the owner asserts outranks what follows from lifetimes.
        let (available, expires) = (metadata.available_at.or(born), metadata.expires_at.or(dies));
        let (created, updated) = (metadata.created_at.take(), metadata.updated_at.take());
        let ttr = metadata.ttr.and_then(|ttr| u64::try_from(ttr).ok()).filter(|ttr| *ttr > 0);
        let refresh = ttr.map(|seconds| now.plus_millis(seconds.saturating_mul(1000)));
        Self {
            value,
            metadata,
            created: created.unwrap_or_else(|| before.map_or(now, |before| before.created)),
            updated: updated.unwrap_or(now),
            available,
            expires,
            refresh,
            version: before.map_or(0, |before| before.version + 1),
        }
    }

    /// What `update:meta` makes of it: the value stays, and with it what it is.
    #[must_use]
    pub fn described(&self, metadata: &Metadata, now: Timestamp) -> Self {
        let metadata = Metadata {
            is_binary: metadata.is_binary.or(self.metadata.is_binary),
            is_encrypted: metadata.is_encrypted.or(self.metadata.is_encrypted),
            ..metadata.clone()
        };
        Self::written(Some(self), self.value.clone(), &metadata, now)
    }

    /// Whether it can be read: born, and not expired.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        !self.is_expired(now) && self.available.is_none_or(|available| available <= now)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether this copy of somebody's record may answer a look-up.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.is_active(now)
            && (self.metadata.ttr == Some(-1) || self.refresh.is_some_and(|refresh| refresh > now))
    }

    /// The metadata as answers show it.
    #[must_use]
    pub fn shown(&self, owner: Option<&AtSign>) -> RecordMetadata {
        RecordMetadata {
            created_by: owner.cloned(),
            updated_by: owner.filter(|_| self.version > 0).cloned(),
            created_at: Some(self.created),
            updated_at: Some(self.updated),
            available_at: self.available,
            expires_at: self.expires,
            refresh_at: self.refresh,
            status: Some("active".to_owned()),
            version: Some(self.version),
            // Asserted times are shown as what they come to.
            set: Metadata { expires_at: None, available_at: None, ..self.metadata.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn record(metadata: Metadata) -> Record {
        Record::written(None, "v".into(), &metadata, at(1000))
    }

    #[test]
    fn a_record_is_born_lives_and_dies() {
        let record = record(Metadata { ttb: Some(10), ttl: Some(5), ..Metadata::default() });
        assert!(!record.is_active(at(1009)) && record.is_active(at(1010)) && record.is_active(at(1014)));
        assert!(record.is_expired(at(1015)) && !record.is_active(at(1015)));
    }

    #[test]
    fn a_change_keeps_the_birth_and_counts() {
        let first = record(Metadata { ttl: Some(100), ..Metadata::default() });
        let second = Record::written(Some(&first), "w".into(), &Metadata::default(), at(1050));
        assert_eq!((second.created, second.version, second.expires), (at(1000), 1, Some(at(1150))));
        let late = Record::written(Some(&first), "w".into(), &Metadata::default(), at(1100));
        assert_eq!((late.created, late.version, late.expires), (at(1100), 0, None));
    }

    #[test]
    fn asserted_times_are_taken_as_they_are() {
        let metadata = Metadata {
            created_at: Some(at(1)),
            updated_at: Some(at(2)),
            expires_at: Some(at(5000)),
            available_at: Some(at(2000)),
            ttl: Some(10),
            ..Metadata::default()
        };
        let first = record(metadata);
        assert_eq!((first.created, first.updated), (at(1), at(2)));
        assert!(!first.is_active(at(1999)) && first.is_active(at(4999)) && !first.is_active(at(5000)));
        let shown = first.shown(None);
        assert_eq!((shown.expires_at, shown.set.expires_at), (Some(at(5000)), None));
        let kept = Record::written(Some(&first), "w".into(), &Metadata::default(), at(3000));
        assert_eq!((kept.created, kept.updated, kept.expires), (at(1), at(3000), Some(at(5000))));
        let lived = Metadata { ttl: Some(10), ttb: Some(0), ..Metadata::default() };
        let ended = Record::written(Some(&first), "w".into(), &lived, at(3000));
        assert_eq!((ended.available, ended.expires), (None, Some(at(3010))));
    }

    #[test]
    fn a_description_leaves_the_value_and_what_it_is() {
        let first = record(Metadata { is_encrypted: Some(true), ttl: Some(9), ..Metadata::default() });
        let second = first.described(&Metadata { ttl: Some(0), ..Metadata::default() }, at(1001));
        assert_eq!((second.value.as_str(), second.version, second.expires), ("v", 1, None));
        assert_eq!(second.metadata.is_encrypted, Some(true));
    }

    #[test]
    fn a_copy_is_fresh_until_its_refresh_or_for_ever() {
        let until = record(Metadata { ttr: Some(2), ..Metadata::default() });
        assert!(until.is_fresh(at(2999)) && !until.is_fresh(at(3000)));
        assert!(record(Metadata { ttr: Some(-1), ..Metadata::default() }).is_fresh(at(i64::MAX)));
        assert!(!record(Metadata::default()).is_fresh(at(1000)));
    }
}
