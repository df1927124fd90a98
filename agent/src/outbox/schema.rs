//! The tables, and how an older file gets them.

use rusqlite::Connection;

/// Versions that were never released: what is of one is left alone.
const UNRELEASED: i64 = 4;

/// Each step brings a file from the version before it to the next; the first makes a new one. Never change one that
/// was released; add one.
const STEPS: [&str; 1] = ["
    -- Numbers by name: the epoch, where the monitor stands, counters.
    CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

    -- Keys that records are sealed with, each wrapped by the gateway's seal key.
    CREATE TABLE segment(id INTEGER PRIMARY KEY, wrapped BLOB NOT NULL);

    -- One row per device, stream and boot that has records waiting. `next` is the number that the next
    -- record gets; it outlives the records, so that none is given twice, and so do lane ids. Records up to `thinned`
    -- are thinned as far as they will be; `free` says whether it has had records whose times are to be set right.
    CREATE TABLE lane(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device TEXT NOT NULL, stream TEXT NOT NULL, boot TEXT NOT NULL,
        next INTEGER NOT NULL,
        thinned INTEGER NOT NULL DEFAULT 0, free INTEGER NOT NULL DEFAULT 0,
        UNIQUE(device, stream, boot));

    -- Who reads which stream, and whether only receipts confirm, as the last start was configured.
    CREATE TABLE reader(
        stream TEXT NOT NULL, reader TEXT NOT NULL, receipts INTEGER NOT NULL,
        PRIMARY KEY(stream, reader)) WITHOUT ROWID;

    -- How far each reader is in each lane: it has everything up to `upto`, and was sent nothing after
    -- `sent`.
    CREATE TABLE cursor(
        lane INTEGER NOT NULL, reader TEXT NOT NULL,
        upto INTEGER NOT NULL, sent INTEGER NOT NULL,
        PRIMARY KEY(lane, reader)) WITHOUT ROWID;

    -- The queue, in the order of capture: a row is a span of records that one commit added to a lane, `first` to `last`
    -- without a hole, sealed as one. Of it what was before `first` is not needed any more. `time_us` and `mono_us` are
    -- of its last record; `free` is 1 when our clock ran free.
    CREATE TABLE span(
        id INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        time_us INTEGER NOT NULL, mono_us INTEGER NOT NULL, free INTEGER NOT NULL,
        segment INTEGER NOT NULL, sealed BLOB NOT NULL);

    -- Where the records of a lane are. `first` stands in it to count them without reading the rows. Not unique: damage
    -- may have two rows end alike, and either must be fit to be worked with.
    CREATE INDEX span_of_lane ON span(lane, last, first);

    -- Records that a reader's server refused for good, kept with its reason.
    CREATE TABLE aside(
        device TEXT NOT NULL, stream TEXT NOT NULL, boot TEXT NOT NULL, seq INTEGER NOT NULL,
        reader TEXT NOT NULL, reason TEXT NOT NULL,
        time_us INTEGER NOT NULL, segment INTEGER NOT NULL, sealed BLOB NOT NULL,
        PRIMARY KEY(device, stream, boot, seq, reader)) WITHOUT ROWID;

    -- MQTT deliveries that their sender may still repeat: what a session delivered in one commit, in its order, each
    -- with its packet identifier and its digest. `epoch` is of the run of the agent that took them, `last` the number
    -- of the last of them in it.
    CREATE TABLE delivered(
        session TEXT NOT NULL, epoch INTEGER NOT NULL, last INTEGER NOT NULL, packets BLOB NOT NULL,
        PRIMARY KEY(session, epoch, last)) WITHOUT ROWID;

    -- Ids that devices gave their readings, in the order they came.
    CREATE TABLE device_id(
        n INTEGER PRIMARY KEY,
        device TEXT NOT NULL, stream TEXT NOT NULL, id TEXT NOT NULL,
        UNIQUE(device, stream, id));

    -- Commands that were begun. `outcome` is NULL until they end.
    CREATE TABLE command(
        caller TEXT NOT NULL, key TEXT NOT NULL,
        epoch INTEGER NOT NULL, request TEXT NOT NULL, device TEXT NOT NULL,
        idempotent INTEGER NOT NULL, expires_ms INTEGER NOT NULL, forget_ms INTEGER NOT NULL,
        outcome TEXT,
        PRIMARY KEY(caller, key)) WITHOUT ROWID;

    -- Per caller, the expiry at or before which every command is refused: ids of such were forgotten.
    CREATE TABLE command_floor(caller TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) WITHOUT ROWID;

    -- Numbers that a reader will not get, and why. Those of one reader in one lane do not overlap, and those
    -- that touch have different causes.
    CREATE TABLE gap(
        lane INTEGER NOT NULL, reader TEXT NOT NULL, first INTEGER NOT NULL,
        last INTEGER NOT NULL, cause TEXT NOT NULL,
        PRIMARY KEY(lane, reader, first)) WITHOUT ROWID;

    -- How many records each reader of each stream has lost so far, by cause.
    CREATE TABLE lost(
        stream TEXT NOT NULL, reader TEXT NOT NULL, cause TEXT NOT NULL, records INTEGER NOT NULL,
        PRIMARY KEY(stream, reader, cause)) WITHOUT ROWID;

    -- When the monotonic time of a boot began by the wall clock, in microseconds since 1970: known since its
    -- clock was set right.
    CREATE TABLE began(boot TEXT PRIMARY KEY, us INTEGER NOT NULL) WITHOUT ROWID;

    -- Boots that have said at the atServer that they are the gateway, or may have: the last, and those since.
    CREATE TABLE claim(boot TEXT PRIMARY KEY) WITHOUT ROWID;
"];

/// The version that this program writes.
pub(super) const VERSION: i64 = UNRELEASED + STEPS.len() as i64;

/// What `PRAGMA user_version` of the file says; 0 for a new one.
pub(super) fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the file to [`VERSION`], all steps in one transaction. One that is newer, or of a version that was never
/// released, is left as it is.
pub(super) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let done = match version(&transaction)? {
        0 => 0,
        version => usize::try_from(version - UNRELEASED).ok().filter(|done| *done > 0).unwrap_or(STEPS.len()),
    };
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    if done < STEPS.len() {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}
