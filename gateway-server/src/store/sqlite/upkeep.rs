//! What is written to all shards by the server itself. One that is out of service stops no other.

use std::time::Duration;

use at_protocol::Timestamp;

use super::super::{Expired, StoreError, Visit};
use super::{SqliteStore, notifications, records, tenants, visits};

/// How many rows one call of `expire` removes from each table.
const SWEEP: i64 = 500;

impl SqliteStore {
    /// Adds entries to the access logs, with one commit for each shard.
    pub(super) async fn log_by_shard(
        &self,
        visits: Vec<Visit>,
        most: usize,
        keep: Duration,
    ) -> Result<(), StoreError> {
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let mut by_shard: Vec<Vec<Visit>> = self.shards.iter().map(|_| Vec::new()).collect();
        for visit in visits {
            by_shard[self.shard_of(&visit.tenant)].push(visit);
        }
        for (shard, visits) in by_shard.into_iter().enumerate().filter(|(_, visits)| !visits.is_empty()) {
            let logged = self.write_at(shard, None, 0, move |group| {
                for visit in visits {
                    if let Some(tenant) = group.tenant(&visit.tenant)? {
                        visits::add(group.sql, tenant, &visit, most, visit.at.plus_millis(keep))?;
                    }
                }
                Ok(())
            });
            match logged.await {
                Ok(()) | Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes some of what has expired.
    pub(super) async fn expire_in_all(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let mut expired = Ok(Expired::default());
        for shard in self.sound() {
            let removed = self.write_at(shard, None, 0, move |group| {
                Ok(Expired {
                    records: records::expire(group.sql, now, SWEEP)?,
                    notifications: notifications::expire(group.sql, now, SWEEP)?,
                    visits: visits::expire(group.sql, now, SWEEP)?,
                    removed: tenants::sweep(group.sql)?,
                })
            });
            match (removed.await, &mut expired) {
                (Ok(more), Ok(sum)) => *sum += more,
                (Ok(_), Err(_)) | (Err(StoreError::Damaged(_)), _) => {}
                // The others have their turn all the same.
                (Err(error), expired) => *expired = Err(error),
            }
        }
        expired
    }
}
