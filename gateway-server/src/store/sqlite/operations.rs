//! The store's operations: which shard does what, with which statements.

use std::future::ready;

use at_protocol::directory::SignedRecord;
use at_protocol::{AtKey, AtSign, Timestamp};

use super::super::{
    Answer, Arrival, Commit, Departure, Edit, Expired, KeyPage, Notification, Outcome, Reached, Record,
    Refused, Row, Rows, Settled, Store, StoreError, TakeRow, Taken, Tally, Tenant, Usage, Visit, Visits,
    Write,
};
use super::hot::Name;
use super::*;

impl Store for SqliteStore {
    fn tenants(&self) -> Answer<'_, Vec<Tenant>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for shard in 0..self.shards.len() {
                all.extend(self.tenants_of(shard).await?);
            }
            Ok(all)
        })
    }

    fn add_tenant(&self, tenant: Tenant, records: Vec<Edit>, now: Timestamp) -> Answer<'_, bool> {
        Box::pin(async move {
            self.tell_neighbour(&tenant.atsign, {
                let tenant = tenant.clone();
                move |sql| tenants::note_neighbour(sql, &tenant)
            })
            .await?;
            let atsign = tenant.atsign.clone();
            let added = self.write(&atsign, value_bytes(&records, None), move |group| {
                let Some(id) = tenants::add(group, &tenant, now)? else { return Ok(false) };
                let made = edits::edit(group, (id, &tenant.atsign), &records, now)?;
                debug_assert!(made.is_ok(), "a new tenant has no immutable records");
                Ok(true)
            });
            added.await
        })
    }

    fn remove_tenant(&self, tenant: &AtSign) -> Answer<'_, bool> {
        let atsign = tenant.clone();
        Box::pin(async move {
            let (tenant, shard) = (atsign.clone(), self.shard_of(&atsign));
            if !self.write_at(shard, None, 0, move |group| tenants::remove(group, &tenant)).await? {
                return Ok(false);
            }
            let tenant = atsign.clone();
            self.forget(&atsign);
            self.tell_neighbour(&atsign, move |sql| tenants::forget_neighbour(sql, &tenant)).await?;
            Ok(true)
        })
    }

    fn usage(&self, tenant: &AtSign) -> Answer<'_, Usage> {
        self.read_of(tenant, tenants::usage)
    }

    fn export(&self, tenant: &AtSign, mut take: TakeRow) -> Answer<'_, ()> {
        self.read_of(tenant, move |sql, tenant| tenants::export(sql, tenant, take.as_mut()))
    }

    fn import(&self, tenant: Tenant, rows: Rows, now: Timestamp) -> Answer<'_, bool> {
        Box::pin(async move {
            self.tell_neighbour(&tenant.atsign, {
                let tenant = tenant.clone();
                move |sql| tenants::note_neighbour(sql, &tenant)
            })
            .await?;
            let atsign = tenant.atsign.clone();
            let imported = self.write(&atsign, 0, move |group| {
                let Some(id) = tenants::add(group, &tenant, now)? else { return Ok(false) };
                for row in rows {
                    tenants::import(group.sql, id, row.map_err(tenants::broken)?)?;
                }
                Ok(true)
            });
            imported.await
        })
    }

    fn freeze(&self, tenant: &AtSign) {
        self.frozen.insert(tenant);
    }

    fn thaw(&self, tenant: &AtSign) {
        self.frozen.remove(tenant);
    }

    fn departures(&self) -> Answer<'_, Vec<(AtSign, Departure)>> {
        Box::pin(self.read_all(moves::departures))
    }

    fn set_departure(&self, tenant: &AtSign, state: Option<Departure>) -> Answer<'_, ()> {
        let atsign = tenant.clone();
        self.write_at(self.shard_of(tenant), None, 0, move |group| {
            moves::set_departure(group.sql, &atsign, state.as_ref())
        })
    }

    fn arrivals(&self) -> Answer<'_, Vec<(AtSign, Arrival)>> {
        Box::pin(self.read_all(moves::arrivals))
    }

    fn arrive(&self, tenant: &AtSign, state: Arrival) -> Answer<'_, bool> {
        let atsign = tenant.clone();
        self.write_at(self.shard_of(tenant), None, 0, move |group| moves::begin(group, &atsign, &state))
    }

    fn add_rows(&self, tenant: &AtSign, rows: Vec<Row>) -> Answer<'_, bool> {
        let atsign = tenant.clone();
        self.write_at(self.shard_of(tenant), None, 0, move |group| moves::add_rows(group.sql, &atsign, rows))
    }

    fn set_arrival(&self, tenant: &AtSign, state: Arrival) -> Answer<'_, bool> {
        let atsign = tenant.clone();
        self.write_at(self.shard_of(tenant), None, 0, move |group| {
            moves::set_arrival(group.sql, &atsign, &state)
        })
    }

    fn settle_in(&self, tenant: &AtSign, now: Timestamp) -> Answer<'_, bool> {
        let atsign = tenant.clone();
        Box::pin(async move {
            let tenant = Tenant { atsign: atsign.clone(), listen: None };
            self.tell_neighbour(&atsign, move |sql| tenants::note_neighbour(sql, &tenant)).await?;
            let settled = atsign.clone();
            self.write_at(self.shard_of(&atsign), None, 0, move |group| {
                moves::settle_in(group, &settled, now)
            })
            .await
        })
    }

    fn drop_arrival(&self, tenant: &AtSign) -> Answer<'_, ()> {
        let atsign = tenant.clone();
        self.write_at(self.shard_of(tenant), None, 0, move |group| moves::drop_arrival(group.sql, &atsign))
    }

    fn record(&self, tenant: &AtSign, key: &AtKey) -> Answer<'_, Option<Record>> {
        let key = key.to_string();
        let Shard { file, hot, .. } = &self.shards[self.shard_of(tenant)];
        let name = Name::new(tenant, &key);
        let before = match hot.find(&name) {
            Ok(record) => return Box::pin(ready(file.sound().map(|()| Some(record)))),
            Err(before) => before,
        };
        let read = self.read_of(tenant, move |sql, tenant| records::get(sql, tenant, &key));
        Box::pin(async move {
            let found = read.await?;
            if let Some(record) = &found {
                hot.keep(name, record, before);
            }
            Ok(found)
        })
    }

    fn forget(&self, tenant: &AtSign) {
        self.shards[self.shard_of(tenant)].hot.clear();
    }

    fn keys(&self, tenant: &AtSign, page: KeyPage) -> Answer<'_, Vec<String>> {
        self.read_of(tenant, move |sql, tenant| records::keys(sql, tenant, &page))
    }

    fn enrollments(&self, tenant: &AtSign) -> Answer<'_, Vec<(AtKey, Record)>> {
        self.read_of(tenant, records::enrollments)
    }

    fn stale_copies(
        &self,
        tenant: &AtSign,
        after: &str,
        limit: usize,
        now: Timestamp,
    ) -> Answer<'_, Vec<AtKey>> {
        let after = after.to_owned();
        self.read_of(tenant, move |sql, tenant| records::stale_copies(sql, tenant, &after, limit, now))
    }

    fn write(&self, tenant: &AtSign, write: Write) -> Answer<'_, Result<Vec<i64>, Refused>> {
        let atsign = tenant.clone();
        let bytes = value_bytes(&write.edits, write.notification.as_ref());
        self.write(tenant, bytes, move |group| {
            let Some(tenant) = group.tenant(&atsign)? else { return Ok(Ok(Vec::new())) };
            if let Some(refused) = tenants::over_quota(group, tenant, &write.edits)? {
                return Ok(Err(refused));
            }
            let made = edits::edit(group, (tenant, &atsign), &write.edits, write.now)?;
            if let (Ok(_), Some(notification)) = (&made, write.notification) {
                notifications::send(group, notification, write.now)?;
            }
            Ok(made)
        })
    }

    fn last_commit(&self, tenant: &AtSign) -> Answer<'_, i64> {
        self.read_of(tenant, commits::newest)
    }

    fn commits_after(&self, tenant: &AtSign, after: i64, limit: usize) -> Answer<'_, Vec<Commit>> {
        self.read_of(tenant, move |sql, tenant| commits::after(sql, tenant, after, limit))
    }

    fn commits_before(&self, tenant: &AtSign, before: i64, limit: usize) -> Answer<'_, Vec<Commit>> {
        self.read_of(tenant, move |sql, tenant| commits::before(sql, tenant, before, limit))
    }

    fn send(&self, notification: Notification, now: Timestamp) -> Answer<'_, Taken> {
        let bytes = value_bytes(&[], Some(&notification));
        let from = notification.from.clone();
        self.write(&from, bytes, move |group| notifications::send(group, notification, now))
    }

    fn send_all(&self, all: Vec<Notification>, now: Timestamp) -> Answer<'_, ()> {
        let Some(from) = all.first().map(|first| first.from.clone()) else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let bytes = all.iter().map(|one| value_bytes(&[], Some(one))).sum();
        self.write(&from, bytes, move |group| {
            for notification in all {
                notifications::send(group, notification, now)?;
            }
            Ok(())
        })
    }

    fn receive(&self, notification: Notification, now: Timestamp) -> Answer<'_, Taken> {
        let bytes = value_bytes(&[], Some(&notification));
        let to = notification.to.clone();
        self.write(&to, bytes, move |group| notifications::receive(group, notification, now))
    }

    fn receive_all(&self, to: &AtSign, received: Vec<Notification>, now: Timestamp) -> Answer<'_, bool> {
        let bytes = received.iter().map(|one| value_bytes(&[], Some(one))).sum();
        let tenant = to.clone();
        self.write(to, bytes, move |group| {
            let is_hosted = group.tenant(&tenant)?.is_some();
            for one in received.into_iter().filter(|_| is_hosted) {
                notifications::receive(group, one, now)?;
            }
            Ok(is_hosted)
        })
    }

    fn notification(&self, tenant: &AtSign, id: &str) -> Answer<'_, Option<Notification>> {
        let id = id.to_owned();
        self.read_of(tenant, move |sql, tenant| notifications::get(sql, tenant, &id))
    }

    fn remove_notification(&self, tenant: &AtSign, id: &str) -> Answer<'_, ()> {
        let (atsign, id) = (tenant.clone(), id.to_owned());
        self.write(tenant, 0, move |group| match group.tenant(&atsign)? {
            Some(tenant) => notifications::remove(group.sql, tenant, &id),
            None => Ok(()),
        })
    }

    fn received_after(
        &self,
        tenant: &AtSign,
        after: i64,
        limit: usize,
        now: Timestamp,
    ) -> Answer<'_, Vec<Notification>> {
        self.read_of(tenant, move |sql, tenant| notifications::received_after(sql, tenant, after, limit, now))
    }

    fn last_notified(&self, tenant: &AtSign) -> Answer<'_, i64> {
        self.read_of(tenant, writer::last_moment)
    }

    fn tallies(&self, tenant: &AtSign) -> Answer<'_, Vec<Tally>> {
        self.read_of(tenant, notifications::tallies)
    }

    fn waiting_pairs(&self) -> Answer<'_, Vec<(AtSign, AtSign)>> {
        Box::pin(async move {
            let mut pairs = Vec::new();
            for shard in self.sound() {
                match self.read_at(shard, notifications::waiting_pairs).await {
                    Ok(found) => pairs.extend(found),
                    Err(StoreError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(pairs)
        })
    }

    fn waiting(
        &self,
        from: &AtSign,
        to: &AtSign,
        reached: Reached,
        limit: usize,
    ) -> Answer<'_, Vec<Notification>> {
        let to = to.clone();
        self.read_of(from, move |sql, tenant| notifications::waiting(sql, tenant, &to, reached, limit))
    }

    fn settle(&self, from: &AtSign, settled: Vec<Settled>) -> Answer<'_, ()> {
        let sender = from.clone();
        self.write(from, 0, move |group| {
            let Some(tenant) = group.tenant(&sender)? else { return Ok(()) };
            settled.iter().try_for_each(|one| notifications::settle(group.sql, (tenant, &sender), one))
        })
    }

    fn hand_over(&self, notification: &Notification, now: Timestamp) -> Answer<'_, bool> {
        let notification = notification.clone();
        let bytes = value_bytes(&[], Some(&notification));
        let (from, to) = (notification.from.clone(), notification.to.clone());
        let settled = notification.settled(Outcome::Delivered);
        if self.shard_of(&from) == self.shard_of(&to) {
            return self.write(&from, bytes, move |group| {
                let Some(tenant) = group.tenant(&notification.from)? else { return Ok(false) };
                if group.tenant(&notification.to)?.is_none() {
                    return Ok(false);
                }
                notifications::settle(group.sql, (tenant, &notification.from), &settled)?;
                notifications::receive(group, notification, now)?;
                Ok(true)
            });
        }
        Box::pin(async move {
            // A crash in between repeats it, as one between two servers does.
            match self.receive_all(&to, vec![notification], now).await {
                Ok(true) => self.settle(&from, vec![settled]).await.map(|()| true),
                Ok(false) | Err(StoreError::Moving) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn log_visits(&self, visits: Vec<Visit>, most: usize, keep: Duration) -> Answer<'_, ()> {
        Box::pin(self.log_by_shard(visits, most, keep))
    }

    fn visits(&self, tenant: &AtSign, top: usize) -> Answer<'_, Visits> {
        let atsign = tenant.clone();
        self.read_of(tenant, move |sql, tenant| visits::summary(sql, tenant, atsign.as_str(), top))
    }

    fn expire(&self, now: Timestamp) -> Answer<'_, Expired> {
        Box::pin(self.expire_in_all(now))
    }

    fn newest(&self) -> Answer<'_, Timestamp> {
        Box::pin(async move {
            let mut newest = Timestamp::from_millis(0);
            for shard in self.sound() {
                match self.read_at(shard, writer::newest).await {
                    Ok(time) => newest = newest.max(time),
                    Err(StoreError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(newest)
        })
    }

    fn signed_records(&self) -> Answer<'_, Vec<SignedRecord>> {
        Box::pin(self.read_all(signed::all))
    }

    fn keep_signed_record(&self, record: SignedRecord) -> Answer<'_, ()> {
        let shard = self.shard_of(&record.atsign);
        self.write_at(shard, None, 0, move |group| signed::keep(group.sql, &record))
    }

    fn reconcile(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            for shard in self.sound() {
                // The writer looks who else has written, each time before it writes anything.
                self.write_at(shard, None, 0, |_| Ok(())).await?;
            }
            Ok(())
        })
    }

    fn size(&self) -> Answer<'_, u64> {
        Box::pin(async move {
            let mut size: u64 = 0;
            for shard in self.sound() {
                let bytes = self.read_at(shard, |sql| {
                    let pragma = |name| sql.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
                    Ok(pragma("page_count")?.saturating_mul(pragma("page_size")?).unsigned_abs())
                });
                size = size.saturating_add(bytes.await?);
            }
            Ok(size)
        })
    }
}

fn value_bytes(edits: &[Edit], notification: Option<&Notification>) -> usize {
    let of_edit = |edit: &Edit| match edit {
        Edit::Update { value, .. } | Edit::Replace { value, .. } => value.len(),
        Edit::Describe { .. } | Edit::Rename { .. } | Edit::Delete { .. } => 0,
        Edit::But(_, edit) => value_bytes(std::slice::from_ref(edit), None),
    };
    let of_notification = notification.and_then(|sent| sent.value.as_ref()).map_or(0, String::len);
    edits.iter().map(of_edit).sum::<usize>() + of_notification
}
