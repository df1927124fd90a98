//! The tables, and how a database of an older version gets them.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::file::{Place, Unopened};

/// It was written by a newer program.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the store has version {version}, this program knows up to {known}; install the newer program")]
pub struct Newer {
    /// What the database says.
    pub version: i64,
    /// What we know.
    pub known: usize,
}

/// Each step leads from the version of its index to the next. Steps are added, never changed.
const STEPS: [&str; 11] = ["
    CREATE TABLE tenant (
        id INTEGER PRIMARY KEY,
        atsign TEXT NOT NULL UNIQUE,
        listen TEXT,
        created INTEGER NOT NULL
    ) STRICT;

    -- Times are milliseconds since the epoch; metadata is JSON.
    CREATE TABLE record (
        tenant INTEGER NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        available INTEGER,
        expires INTEGER,
        refresh INTEGER,
        version INTEGER NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT;
    CREATE INDEX record_expiry ON record (expires) WHERE expires IS NOT NULL;

    -- The newest commit of each key.
    CREATE TABLE commit_log (
        tenant INTEGER NOT NULL,
        key TEXT NOT NULL,
        id INTEGER NOT NULL,
        operation TEXT NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX commit_order ON commit_log (tenant, id);

    -- Sent where `sender` is the tenant and `recipient` is not; `waiting` while it is to be delivered.
    -- A row that was removed before its time keeps its id, so that a repeat is recognised.
    CREATE TABLE notification (
        tenant INTEGER NOT NULL,
        sender TEXT NOT NULL,
        id TEXT NOT NULL,
        received INTEGER NOT NULL,
        recipient TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT,
        operation TEXT NOT NULL,
        message_type TEXT NOT NULL,
        priority INTEGER NOT NULL,
        latest INTEGER NOT NULL,
        latest_n INTEGER NOT NULL,
        notifier TEXT NOT NULL,
        ttln INTEGER NOT NULL,
        is_encrypted INTEGER NOT NULL,
        metadata TEXT NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        status INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        PRIMARY KEY (tenant, sender, id)
    ) STRICT;
    CREATE UNIQUE INDEX notification_order ON notification (tenant, created);
    CREATE INDEX notification_received ON notification (tenant, created) WHERE received = 1 AND removed = 0;
    CREATE INDEX notification_id ON notification (tenant, id);
    CREATE INDEX notification_queue ON notification (tenant, recipient, priority DESC, created) WHERE waiting = 1;
    CREATE INDEX notification_expiry ON notification (expires);
", "
    -- Which shard of how many this file is: one row.
    CREATE TABLE shard (number INTEGER NOT NULL, shards INTEGER NOT NULL) STRICT;

    -- Who is hosted in the shard before this one, the last before the first: they are known by it while
    -- their own shard is out of service. It may name some who are gone.
    CREATE TABLE neighbour (atsign TEXT PRIMARY KEY, listen TEXT) STRICT, WITHOUT ROWID;
", "
    -- One row: when something last happened, to the second. The node's clock does not start before it.
    CREATE TABLE mark (id INTEGER PRIMARY KEY, time INTEGER NOT NULL) STRICT;
", "
    -- `received` is 2 for what a tenant tells itself.
    DROP INDEX notification_received;
    CREATE INDEX notification_received ON notification (tenant, created) WHERE received > 0 AND removed = 0;
    -- Enrollments are few among many records.
    CREATE INDEX record_enrollments ON record (tenant) WHERE key GLOB '*.new.enrollments.__manage@*';
", "
    -- What a tenant's records take, kept by the triggers: their number, and the bytes of keys and values.
    CREATE TABLE usage (tenant INTEGER PRIMARY KEY, keys INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    INSERT INTO usage (tenant, keys, bytes)
        SELECT t.id, count(r.key), ifnull(sum(octet_length(r.key) + octet_length(r.value)), 0)
        FROM tenant t LEFT JOIN record r ON r.tenant = t.id GROUP BY t.id;
    CREATE TRIGGER record_added AFTER INSERT ON record BEGIN
        UPDATE usage SET keys = keys + 1, bytes = bytes + octet_length(NEW.key) + octet_length(NEW.value)
        WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER record_changed AFTER UPDATE OF value ON record BEGIN
        UPDATE usage SET bytes = bytes + octet_length(NEW.value) - octet_length(OLD.value)
        WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER record_gone AFTER DELETE ON record BEGIN
        UPDATE usage SET keys = keys - 1, bytes = bytes - octet_length(OLD.key) - octet_length(OLD.value)
        WHERE tenant = OLD.tenant;
    END;

    -- Numbers of tenants that are gone and whose rows are being swept: not to be given again until then.
    CREATE TABLE removed (tenant INTEGER PRIMARY KEY) STRICT;
", "
    -- The newest commit id of those that are not to be given again though their rows are gone.
    CREATE TABLE forgotten_commit (tenant INTEGER PRIMARY KEY, id INTEGER NOT NULL) STRICT;

    -- When the change happened.
    ALTER TABLE commit_log ADD COLUMN time INTEGER NOT NULL DEFAULT 0;
", "
    -- By which damage to a row is known.
    ALTER TABLE record ADD COLUMN sum INTEGER;
    ALTER TABLE notification ADD COLUMN sum INTEGER;
", "
    -- Who called; numbered per tenant in the order in which they came.
    CREATE TABLE visit (
        tenant INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        who TEXT,
        verb TEXT NOT NULL,
        key TEXT,
        PRIMARY KEY (tenant, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX visit_expiry ON visit (expires);
", "
    -- The newest signed record that was believed, or made, of each atSign, as JSON.
    CREATE TABLE signed_record (atsign TEXT PRIMARY KEY, seq INTEGER NOT NULL, record TEXT NOT NULL) STRICT;
", "
    -- Tenants that move to another node, and those that move here: how far they are, as JSON. Rows of one that
    -- arrives have its number, which is no tenant's until it is served.
    CREATE TABLE departure (atsign TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT;
    CREATE TABLE arrival (tenant INTEGER PRIMARY KEY, atsign TEXT NOT NULL UNIQUE, state TEXT NOT NULL) STRICT;
", "
    -- Each index is written with every notification: one finds ids with and without their sender, one the
    -- order of what was sent and of what was received. The rows and what they mean are the same.
    CREATE TABLE new_notification (
        tenant INTEGER NOT NULL,
        sender TEXT NOT NULL,
        id TEXT NOT NULL,
        received INTEGER NOT NULL,
        recipient TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT,
        operation TEXT NOT NULL,
        message_type TEXT NOT NULL,
        priority INTEGER NOT NULL,
        latest INTEGER NOT NULL,
        latest_n INTEGER NOT NULL,
        notifier TEXT NOT NULL,
        ttln INTEGER NOT NULL,
        is_encrypted INTEGER NOT NULL,
        metadata TEXT NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        status INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        sum INTEGER
    ) STRICT;
    INSERT INTO new_notification SELECT * FROM notification ORDER BY rowid;
    DROP TABLE notification;
    ALTER TABLE new_notification RENAME TO notification;
    CREATE UNIQUE INDEX notification_id ON notification (tenant, id, sender);
    CREATE UNIQUE INDEX notification_order ON notification (tenant, received > 0, created);
    CREATE INDEX notification_queue ON notification (tenant, recipient, priority DESC, created) WHERE waiting = 1;
    CREATE INDEX notification_expiry ON notification (expires);
"];

/// Brings the database to the newest version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Unopened> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(steps) = STEPS.get(done..) else {
        return Err(Newer { version, known: STEPS.len() }.into());
    };
    if steps.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len())?;
    transaction.commit()?;
    Ok(())
}

/// Which shard the file is, if it says so.
pub(super) fn place(connection: &Connection) -> rusqlite::Result<Option<Place>> {
    let mut query = connection.prepare("SELECT number, shards FROM shard")?;
    query.query_row([], |row| Ok(Place { number: row.get(0)?, shards: row.get(1)? })).optional()
}

/// Makes the file the shard that it is from now on.
pub(super) fn set_place(connection: &Connection, place: Place) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO shard (number, shards) VALUES (?1, ?2)", (place.number, place.shards))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;

    #[test]
    fn a_database_is_brought_up_once_and_a_newer_one_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let newer = migrate(&mut connection);
        assert!(matches!(newer, Err(Unopened::Newer(Newer { version: 99, .. }))));
    }

    #[test]
    fn notifications_of_an_older_version_are_all_kept_and_found() {
        let mut connection = Connection::open_in_memory().unwrap();
        for step in &STEPS[..10] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", 10).unwrap();
        let insert =
            "INSERT INTO notification VALUES (1, ?1, ?2, ?3, '@bob', 'k', 'v', 'update', 'key', 0, 0, 1,
            'SYSTEM', 9, 0, '{}', ?4, 99, 0, 0, ?5, 0, 7)";
        for (id, received, created, waiting) in [("a", 0, 1, 1), ("b", 1, 2, 0), ("c", 2, 3, 0)] {
            connection.execute(insert, params!["@alice", id, received, created, waiting]).unwrap();
        }
        migrate(&mut connection).unwrap();
        let found = |filter: &str| -> Vec<(String, i64)> {
            let text = format!("SELECT id, sum FROM notification WHERE tenant = 1 AND {filter}");
            let mut query = connection.prepare(&text).unwrap();
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        assert_eq!(found("(received > 0) = 1 ORDER BY created"), [("b".to_owned(), 7), ("c".to_owned(), 7)]);
        assert_eq!(found("recipient = '@bob' AND waiting = 1"), [("a".to_owned(), 7)]);
        let plan = "EXPLAIN QUERY PLAN SELECT * FROM notification
            WHERE tenant = 1 AND (received > 0) = 1 AND created > 2 ORDER BY created";
        let plan: String = connection.query_row(plan, [], |row| row.get("detail")).unwrap();
        assert!(
            plan.contains("USING INDEX notification_order (tenant=? AND <expr>=? AND created>?)"),
            "{plan}"
        );
    }
}
