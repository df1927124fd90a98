//! An atServer in a few pages: what each request does and answers by the atProtocol wire reference, with
//! maps for a store and a number for the time.

mod record;
mod tenant;

use std::collections::{BTreeMap, BTreeSet};

use at_protocol::Timestamp;
use serde_json::{Map, Value, json};

use crate::steps::{Actor, Op, Shape};
use record::{Record, is_in_wavi, is_reserved, name, owner, shared_with};
pub(crate) use tenant::Note;
use tenant::{KEEP_SENT, Tenant, UNASKED_COPY};

/// What a request is answered with: a text, a JSON value, or an error's code.
pub(crate) type Answer = Result<Value, &'static str>;

/// A rule that can be got wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// An update forgets the metadata that it does not name.
    ForgetsMetadata,
    /// A deletion of what is not there is not committed.
    SkipsIdleDeletes,
    /// A record can be read for a second after it has expired.
    LivesTooLong,
    /// A copy stays when its owner deletes what it was made of.
    KeepsCopies,
    /// An application lists what is shared in other namespaces.
    ListsForeignNamespaces,
}

#[derive(Default)]
pub(crate) struct Model {
    /// Milliseconds since the epoch.
    pub(crate) now: i64,
    pub(crate) flaw: Option<Flaw>,
    tenants: BTreeMap<String, Tenant>,
}

impl Model {
    pub(crate) fn new(tenants: &[&str], now: i64) -> Self {
        let tenants = tenants.iter().map(|name| ((*name).to_owned(), Tenant::default())).collect();
        Self { now, tenants, ..Self::default() }
    }

    fn tenant(&mut self, name: &str) -> &mut Tenant {
        self.tenants.get_mut(name).expect("actors speak to tenants")
    }

    /// A record that the server has written by itself.
    pub(crate) fn plant(&mut self, tenant: &str, key: &str, value: &str) {
        let now = self.now;
        self.tenant(tenant).write(key, value, &Map::new(), None, (now, '*'));
    }

    /// What has expired is removed, and the commit log hears nothing of it (§6.2, later versions).
    pub(crate) fn sweep(&mut self) {
        let now = self.now;
        for tenant in self.tenants.values_mut() {
            tenant.records.retain(|_, record| !record.is_expired(now));
            tenant
                .notes
                .retain(|_, note| note.created + note.ttln + if note.received { 0 } else { KEEP_SENT } > now);
        }
    }

    pub(crate) fn perform(&mut self, who: &Actor, op: &Op) -> Answer {
        self.check(who, op)?;
        let (now, flaw, me) = (self.now, self.flaw, who.tenant().to_owned());
        match op {
            Op::Noop => Ok(json!("ok")),
            Op::Update { key, set, value, nc } => {
                let mut before = self.unfrozen(&me, key, false)?;
                if let (Some(Flaw::ForgetsMetadata), Some(before)) = (flaw, &mut before) {
                    before.set.clear();
                }
                let id = self.tenant(&me).write(key, value, set, before, (now, '*'));
                self.announce(&me, key, Some(value), set, false);
                Ok(json!(if *nc { self.tenant(&me).forget(key) } else { id }.to_string()))
            }
            Op::Describe { key, set, nc } => {
                let before = self.unfrozen(&me, key, false)?.ok_or("AT0015")?;
                // The value stays what it is.
                let kept =
                    ["isBinary", "isEncrypted"].map(|flag| (flag.to_owned(), before.set[flag].clone()));
                let all: Map<_, _> = kept.into_iter().chain(set.clone()).collect();
                let value = before.value.clone();
                let id = self.tenant(&me).write(key, &value, &all, Some(before), (now, '#'));
                self.announce(&me, key, None, set, false);
                Ok(json!(if *nc { self.tenant(&me).forget(key) } else { id }.to_string()))
            }
            Op::Delete { key, nc, force } => {
                let is_idle = self.unfrozen(&me, key, *force)?.is_none();
                if is_idle && flaw == Some(Flaw::SkipsIdleDeletes) {
                    return Ok(json!("-1"));
                }
                let id = self.tenant(&me).delete(key, now);
                self.announce(&me, key, None, &Map::new(), true);
                Ok(json!(if *nc { self.tenant(&me).forget(key) } else { id }.to_string()))
            }
            Op::LLookup { shape, key } => self.own(&me, key, *shape),
            Op::Lookup { shape, bypass, of } => match who {
                Actor::Nobody(_) => self.followed(who, &me, &format!("public:{of}"), *shape),
                Actor::Peer { peer, .. } => self.followed(who, &me, &format!("{peer}:{of}"), *shape),
                Actor::Owner(_) | Actor::App { .. } if owner(of) == me => {
                    self.followed(who, &me, &format!("{me}:{of}"), *shape)
                }
                Actor::Owner(_) | Actor::App { .. } => {
                    self.foreign(who, &format!("{me}:{of}"), *shape, *bypass)
                }
            },
            Op::PLookup { shape, bypass, of } => {
                let key = format!("public:{of}");
                if owner(of) == me {
                    self.followed(who, &me, &key, *shape)
                } else {
                    self.foreign(who, &key, *shape, *bypass)
                }
            }
            Op::Scan { of, hidden, pattern } => Ok(self.scan(who, of.as_deref(), *hidden, pattern)),
            Op::Sync { from, limit, pattern, skip } => Ok(self.sync(who, *from, *limit, pattern, *skip)),
            Op::LastCommit { pattern } => {
                let log = self.tenant(&me).commits();
                let last = log.iter().rfind(|(_, key, _)| may_sync(who, key) && matches(pattern, key));
                let value = last.map_or(-1, |(id, ..)| *id).to_string();
                Ok(json!([{ "id": "3", "name": "lastCommitID", "value": value }]))
            }
            Op::CommitLog { pattern } => {
                let log = self.tenant(&me).commits().into_iter();
                let seen = log.filter(|(_, key, _)| may_sync(who, key) && matches(pattern, key));
                let shown = seen.map(|(id, key, (operation, time))| {
                    let time = Timestamp::from_millis(time).iso().replace('Z', "000Z");
                    json!({ "atKey": key, "operation": operation, "commitId": id, "opTime": time })
                });
                Ok(shown.collect())
            }
            Op::Notify(note) => {
                let note = Note { from: who.speaks_as().to_owned(), ..note.clone() };
                let id = note.id.clone();
                if let Actor::Peer { .. } = who {
                    self.tenant(&me).receive(note, now, flaw);
                    return Ok(json!("success"));
                }
                self.send(note);
                Ok(json!(id))
            }
            Op::NotifyAll { to, note } => {
                for to in to {
                    let key = format!("{to}:{}", note.key);
                    self.send(Note { from: me.clone(), to: (*to).to_owned(), key, ..note.clone() });
                }
                Ok(to.iter().map(|to| ((*to).to_owned(), json!("?"))).collect())
            }
            Op::Block { blocks, names } => {
                let list = &mut self.tenant(&me).blocked;
                list.retain(|name| !names.contains(name));
                list.extend(names.iter().filter(|_| *blocks));
                Ok(json!("success"))
            }
            Op::Blocked => {
                let list = &self.tenant(&me).blocked;
                Ok(if list.is_empty() { Value::Null } else { json!(list) })
            }
            Op::Batch(ops) => {
                let answers = ops.iter().map(|op| self.perform(who, op)).enumerate();
                let shown = answers.map(|(id, answer)| match answer {
                    Ok(data) => json!({ "id": id, "response": { "data": data } }),
                    Err(code) => json!({ "id": id, "response": { "error_code": code } }),
                });
                Ok(shown.collect())
            }
            Op::List { pattern } => {
                let notes = self.tenant(&me).notes.values();
                let mut listed: Vec<_> = notes
                    .filter(|note| {
                        note.received && note.created + note.ttln > now && may_watch(who, note, false)
                    })
                    .filter(|note| matches(pattern, &note.key) || matches(pattern, &note.from))
                    .collect();
                listed.sort_by_key(|note| note.created);
                let listed: Vec<_> = listed.into_iter().map(Note::shown).collect();
                Ok(if listed.is_empty() { Value::Null } else { Value::Array(listed) })
            }
            Op::Status { id } => match self.tenant(&me).note(id) {
                None => Ok(json!("null")),
                Some(note) if !may_watch(who, note, false) => Err("AT0009"),
                Some(note) if note.created + note.ttln <= now => Ok(json!("expired")),
                Some(note) => Ok(json!(if note.delivered { "delivered" } else { "queued" })),
            },
            Op::Fetch { id } => match self.tenant(&me).note(id).filter(|note| note.created + note.ttln > now)
            {
                None => Ok(json!({ "id": id, "notificationStatus": "NotificationStatus.expired" })),
                Some(note) if !may_watch(who, note, false) => Err("AT0009"),
                Some(note) => Ok(note.fetched()),
            },
            Op::Remove { id } => {
                if self.tenant(&me).note(id).is_some_and(|note| !may_watch(who, note, true)) {
                    return Err("AT0009");
                }
                self.tenant(&me).notes.retain(|_, note| note.id != *id);
                Ok(json!("success"))
            }
        }
    }

    /// Who may: §4.0, and what the verbs themselves refuse.
    fn check(&self, who: &Actor, op: &Op) -> Result<(), &'static str> {
        let is_open = matches!(op, Op::Noop | Op::Lookup { .. } | Op::Scan { of: None, .. });
        match (who, op) {
            (Actor::Peer { tenant, peer }, Op::Notify(note)) => {
                let is_mine = note.to == *tenant && note.is_of(peer);
                return if is_mine { Ok(()) } else { Err("AT0009") };
            }
            (Actor::Nobody(_) | Actor::Peer { .. }, _) if !is_open => return Err("AT0401"),
            (Actor::Owner(me) | Actor::App { tenant: me, .. }, Op::Notify(note)) if !note.is_of(me) => {
                return Err("AT0009");
            }
            (Actor::Owner(me) | Actor::App { tenant: me, .. }, Op::NotifyAll { note, .. })
                if !note.is_of(me) =>
            {
                return Err("AT0009");
            }
            (Actor::App { tenant, writes }, op) => {
                let allowed = match op {
                    Op::Update { key, .. } | Op::Describe { key, .. } | Op::Delete { key, .. } => {
                        *writes && (is_in_wavi(key) || is_reserved(key))
                    }
                    Op::LLookup { key, .. } => {
                        key.starts_with("public:") || is_in_wavi(key) || is_reserved(key)
                    }
                    Op::Lookup { of, .. } => is_in_wavi(of) || is_reserved(&format!("{tenant}:{of}")),
                    Op::Notify(note) => {
                        *writes && !note.text && (is_in_wavi(&note.key) || is_reserved(&note.key))
                    }
                    Op::NotifyAll { note, .. } => {
                        *writes && (is_in_wavi(&note.key) || name(&note.key) == "shared_key")
                    }
                    Op::Block { .. } => false,
                    _ => true,
                };
                if !allowed {
                    return Err("AT0009");
                }
            }
            _ => {}
        }
        match op {
            Op::Delete { key, .. } if key.starts_with("public:publickey@") => Err("AT0009"),
            Op::Update { key, .. } | Op::Describe { key, .. } if owner(key) != who.tenant() => Err("AT0016"),
            _ => Ok(()),
        }
    }

    /// The record that lives under a key, unless it may not be changed.
    fn unfrozen(&mut self, tenant: &str, key: &str, force: bool) -> Result<Option<Record>, &'static str> {
        let now = self.now;
        let record = self.tenant(tenant).records.get(key).filter(|record| !record.is_expired(now));
        let frozen = record.is_some_and(|record| record.set.get("immutable") == Some(&json!(true)));
        let is_copy = key.starts_with("cached:");
        if frozen && !force && !is_copy { Err("AT0022") } else { Ok(record.cloned()) }
    }

    fn own(&mut self, tenant: &str, key: &str, shape: Shape) -> Answer {
        let late = if self.flaw == Some(Flaw::LivesTooLong) { 1000 } else { 0 };
        let now = self.now - late;
        self.tenant(tenant).records.get(key).map(|record| record.shown(key, shape, now)).ok_or("AT0015")
    }

    /// The same, with the references of §4.9 followed.
    fn followed(&mut self, who: &Actor, tenant: &str, key: &str, shape: Shape) -> Answer {
        let Some(record) = self.tenants[tenant].records.get(key).filter(|_| shape != Shape::Meta) else {
            return self.own(tenant, key, shape);
        };
        let resolved = self.resolved(who, tenant, key, &record.value, 3);
        let shown = resolved.map(|value| Record { value, ..record.clone() }.shown(key, shape, self.now));
        Ok(shown.unwrap_or(json!("null")))
    }

    fn resolved(&self, who: &Actor, tenant: &str, key: &str, value: &str, depth: u32) -> Option<String> {
        let Some(target) = value.strip_prefix("atsign://") else { return Some(value.to_owned()) };
        let scopes = shared_with(key).into_iter().chain(["public"]);
        let keys = scopes.map(|scope| format!("{scope}:{target}")).filter(|key| may_read(who, key));
        let records = &self.tenants[tenant].records;
        let mut found = keys.filter_map(|key| records.get(&key)).filter(|record| record.is_active(self.now));
        let value = found.next().filter(|_| depth > 0)?.value.clone();
        self.resolved(who, tenant, key, &value, depth - 1)
    }

    /// §4.9, §4.10: from a fresh copy, else from the owner, with a copy if the owner allows one.
    fn foreign(&mut self, who: &Actor, key: &str, shape: Shape, bypass: bool) -> Answer {
        let (now, cached, me) = (self.now, format!("cached:{key}"), who.tenant());
        let copy = self.tenant(me).records.get(&cached).cloned();
        if let Some(copy) = copy.as_ref().filter(|copy| !bypass && copy.is_fresh(now)) {
            return Ok(copy.shown(&cached, shape, now));
        }
        let found = self.tenants.get(owner(key)).and_then(|owner| owner.records.get(key)).cloned();
        let found = found.filter(|found| found.is_active(now)).and_then(|found| {
            let value = self.resolved(who, owner(key), key, &found.value, 3)?;
            Some(Record { value, ..found })
        });
        let Some(found) = found else {
            if copy.is_some() {
                self.tenant(me).delete(&cached, now);
            }
            return Err("AT0015");
        };
        let mut set = found.set.clone();
        let is_public = key.starts_with("public:");
        if is_public && name(key) == "publickey" {
            set.insert("ttr".into(), json!(-1));
        } else if is_public && !set.contains_key("ttr") {
            set.insert("ttl".into(), json!(UNASKED_COPY));
        }
        if is_public || set.contains_key("ttr") {
            self.tenant(me).write(&cached, &found.value, &set, None, (now, '*'));
        }
        Ok(found.shown(key, shape, now))
    }

    /// Tells the one with whom a record is shared what became of it.
    fn announce(
        &mut self,
        me: &str,
        key: &str,
        value: Option<&String>,
        set: &Map<String, Value>,
        deletes: bool,
    ) {
        let Some(with) = shared_with(key).filter(|with| *with != me && owner(key) == me) else { return };
        let mut note = Note { deletes, ..Note::new("?", with, key, value.cloned()) };
        note.from = me.to_owned();
        // Nothing is said of encryption where the record says nothing.
        note.set = set.clone();
        note.set.entry("isEncrypted").or_insert(json!(false));
        self.send(note);
    }

    fn send(&mut self, note: Note) {
        let (now, flaw) = (self.now, self.flaw);
        if note.from == note.to {
            return self.tenant(&note.from.clone()).receive(note, now, flaw);
        }
        let delivered = self.tenants.contains_key(&note.to);
        let sender = self.tenant(&note.from);
        if let Some((notifier, most)) = &note.latest {
            let is_older = |other: &Note| {
                !other.received
                    && !other.delivered
                    && other.to == note.to
                    && other.latest.as_ref().is_some_and(|(by, _)| by == notifier)
            };
            let mut older: Vec<_> = sender.notes.iter().filter(|(_, other)| is_older(other)).collect();
            older.sort_by_key(|(_, other)| -other.created);
            let gone: Vec<_> = older.into_iter().skip(most - 1).map(|(key, _)| key.clone()).collect();
            gone.iter().for_each(|key| _ = sender.notes.remove(key));
        }
        sender.keep(Note { delivered, ..note.clone() }, now);
        if delivered {
            self.tenant(&note.to.clone()).receive(note, now, flaw);
        }
    }

    fn scan(&self, who: &Actor, of: Option<&str>, hidden: bool, pattern: &str) -> Value {
        let me = who.tenant();
        let (tenant, prefix) = match (of.filter(|of| *of != me), who) {
            (Some(of), _) => (of, format!("{me}:")),
            (None, Actor::Nobody(_)) => (me, "public:".to_owned()),
            (None, Actor::Peer { peer, .. }) => (me, format!("{peer}:")),
            (None, Actor::Owner(_) | Actor::App { .. }) => (me, String::new()),
        };
        let is_hidden = |key: &str| key.starts_with("public:_") || key.starts_with('_');
        let is_shown = |key: &str| match prefix.as_str() {
            "" => !is_hidden(key) || (hidden && (key.starts_with('_') || key.starts_with("public:__"))),
            "public:" => !is_hidden(key),
            _ => true,
        };
        let may = |key: &str| match who {
            Actor::App { .. } if prefix.is_empty() && self.flaw != Some(Flaw::ListsForeignNamespaces) => {
                key.starts_with("public:") || is_in_wavi(key) || is_reserved(key)
            }
            _ => true,
        };
        let records = self.tenants.get(tenant).map(|tenant| &tenant.records).into_iter().flatten();
        let listed: BTreeSet<_> = records
            .filter(|(key, record)| record.is_active(self.now) && key.starts_with(&prefix))
            .filter(|(key, _)| matches(pattern, key) && is_shown(key) && may(key))
            .map(|(key, _)| &key[prefix.len()..])
            .collect();
        json!(listed)
    }

    /// §7.4.
    fn sync(
        &mut self,
        who: &Actor,
        from: i64,
        limit: Option<usize>,
        pattern: &str,
        skip: Option<i64>,
    ) -> Value {
        let tenant = self.tenant(who.tenant());
        let log = tenant.commits();
        let newest = log.last().map_or(-1, |(id, ..)| *id);
        let entries = log.into_iter().filter(|(id, key, (operation, _))| {
            let is_everybodys = (key.starts_with("public:") && !name(key).contains('.')) || is_reserved(key);
            let is_skipped = *operation == '-' && skip.is_some_and(|skip| *id <= skip && *id != newest);
            let is_gone = *operation != '-' && !tenant.records.contains_key(key);
            *id > from
                && !is_skipped
                && !is_gone
                && (matches(pattern, key) || is_everybodys)
                && may_sync(who, key)
        });
        let shown = entries.take(limit.unwrap_or(25)).map(|(id, key, (operation, _))| {
            let record = tenant.records.get(&key).filter(|_| operation != '-');
            let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let metadata = record.map(|record| {
                let members = record.metadata(&key).into_iter();
                members.map(|(name, value)| (name, Value::from(text(value)))).collect::<Map<_, _>>()
            });
            json!({
                "atKey": key, "value": record.map(|record| &record.value), "metadata": metadata,
                "commitId": id, "operation": operation,
            })
        });
        shown.collect()
    }
}

fn may_sync(who: &Actor, key: &str) -> bool {
    !matches!(who, Actor::App { .. }) || !name(key).contains('.') || is_in_wavi(key) || is_reserved(key)
}

fn may_watch(who: &Actor, note: &Note, to_change: bool) -> bool {
    match who {
        Actor::App { writes, .. } => {
            !note.text && (is_in_wavi(&note.key) || is_reserved(&note.key)) && (!to_change || *writes)
        }
        _ => true,
    }
}

/// What an application reads by look-ups.
fn may_read(who: &Actor, key: &str) -> bool {
    !matches!(who, Actor::App { .. }) || key.starts_with("public:") || is_in_wavi(key) || is_reserved(key)
}

/// Patterns are plain text, perhaps behind `^`.
fn matches(pattern: &str, text: &str) -> bool {
    pattern.strip_prefix('^').map_or_else(|| text.contains(pattern), |start| text.starts_with(start))
}
