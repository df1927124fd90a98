//! What the machine can do at all: one signature checked, rows committed by SQLite alone.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use at_protocol::crypto::{Hash, RsaPrivateKey};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rusqlite::{Connection, params};

use crate::floor::Floor;
use crate::ground::{Ground, VALUE};
use crate::meter::{cpu_of_thread, median, micros, spent};
use crate::report::{Bar, Row};

/// The limits alone, without a server.
pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let floor = Floor::start(&ground, &format!("data:{}", "v".repeat(VALUE)))?;
    let mut rows = Rows::open(ground.folder.path())?;
    rows.upsert(100, 100)?;
    let [wall, cpu] = rows.upsert(100, 100)?;
    let mut client = floor.dial().await?;
    let (mut commits, mut trips) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        commits.push(rows.single()?);
        trips.push(client.latency("noop:0\n").await?);
    }
    let mut crowd = floor.crowd(64).await?;
    crowd.rush(20, 1, |_| "noop:0\n".to_owned()).await?;
    let echo = spent(floor.id(), crowd.rush(200, 1, |_| "noop:0\n".to_owned())).await? / (200.0 * 64.0);
    let told = |what: &str, figure| Row::alone("limit", what, "us", figure, Bar::None);
    Ok(vec![
        told("RSA-2048 verify, cpu", verify(&ground.key, 2_000)?),
        told("SQLite FULL upsert, batch 100, wall of a row", wall),
        told("SQLite FULL upsert, batch 100, cpu of a row", cpu),
        told("SQLite FULL commit of one row, p50", median(&commits)),
        told("TLS round trip, p50", median(&trips)),
        told("TLS echo of 64 connections, cpu", echo),
    ])
}

/// Processor time to check one RSA signature with a key that is parsed already, in microseconds.
pub(crate) fn verify(key: &RsaPrivateKey, times: u32) -> Result<f64> {
    let message = b"_4f1c7d4a-2f8e-4b3a-9d7e-1c2b3a4d5e6f@a0:9c1b1d52-7d0e-4f6a-8f43-0123456789ab";
    let signature = BASE64_STANDARD.decode(key.sign(message, Hash::Sha256))?;
    let der = BASE64_STANDARD.decode(key.public().to_base64())?;
    let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).ok().context("a public key")?;
    let before = cpu_of_thread()?;
    for _ in 0..times {
        ensure!(public.verify_sig(message, &signature).is_ok(), "a good signature");
    }
    Ok(micros(cpu_of_thread()?.saturating_sub(before)) / f64::from(times))
}

/// A table of keys and values with an index by commit, in a file on the same disk, as durable as the
/// server's.
pub(crate) struct Rows {
    sql: Connection,
    written: i64,
}

impl Rows {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let sql = Connection::open(folder.join("limit.db"))?;
        sql.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE kv (k TEXT PRIMARY KEY, v BLOB, meta TEXT, commit_id INTEGER) WITHOUT ROWID;
             CREATE INDEX by_commit ON kv (commit_id);",
        )?;
        Ok(Self { sql, written: 0 })
    }

    /// Upserts so many batches; wall and processor time of a row, in microseconds.
    pub(crate) fn upsert(&mut self, batches: u32, batch: u32) -> Result<[f64; 2]> {
        let (began, before) = (Instant::now(), cpu_of_thread()?);
        for _ in 0..batches {
            self.commit(batch)?;
        }
        let rows = f64::from(batches) * f64::from(batch);
        Ok([micros(began.elapsed()) / rows, micros(cpu_of_thread()?.saturating_sub(before)) / rows])
    }

    /// How long a commit of one row takes, in microseconds.
    pub(crate) fn single(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.commit(1)?;
        Ok(micros(began.elapsed()))
    }

    fn commit(&mut self, batch: u32) -> Result<()> {
        let group = self.sql.transaction()?;
        {
            let mut upsert = group.prepare_cached(
                "INSERT INTO kv VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (k) DO UPDATE SET v = excluded.v, meta = excluded.meta, commit_id = excluded.commit_id",
            )?;
            for _ in 0..batch {
                // The same ten thousand keys again and again, in an order without locality.
                let key = format!("k{}.bench@a0", self.written.wrapping_mul(7919) % 10_000);
                upsert.execute(params![
                    key,
                    [0x5a_u8; VALUE].as_slice(),
                    "{\"isEncrypted\":true}",
                    self.written
                ])?;
                self.written += 1;
            }
        }
        Ok(group.commit()?)
    }
}
