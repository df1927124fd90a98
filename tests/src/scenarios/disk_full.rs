//! A disk that fills up and has room again: what is acknowledged is kept, what cannot be kept is answered
//! with an error, reading goes on, and writing too within seconds of there being room.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::accounts::{Account, Effect, Talk};
use crate::process;
use crate::replay::Owner;
use crate::scenario::Run;
use crate::small_disk;
use crate::town::Town;
use crate::wire::Wire;

const TENANT: &str = "@north";
/// Size of the disk, which is all memory.
const DISK: &str = "8m";
/// Records that are written after each other until the disk is full, at most.
const MANY: usize = 2_000;
/// Bytes that are left free, at most.
const SOME_ROOM: u64 = 512 * 1024;
/// How soon it has to write again.
const HEALED: Duration = Duration::from_secs(5);
/// Fills the disk under a server, some times.
///
/// # Errors
/// Something acknowledged is not there, something not kept was acknowledged, or it did not heal.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = Town::start(&run.folder, &[&[TENANT]])?;
    let owner = Owner::new(&town.tenant(TENANT)?.secret)?;
    owner.activate(TENANT, &mut town.dial(TENANT)?)?;
    town.nodes[0].stop()?;
    let state = town.nodes[0].state();
    town.nodes[0].run_instead(small_disk::script(&run.folder, "atedge-server", &state, DISK)?);
    town.nodes[0].start().context("no small disk; this needs root")?;
    // The server's own view of its disk.
    let filler = small_disk::seen_by(town.nodes[0].process()?.id(), &state).join("filler");
    let mut account = Account::open(TENANT, &mut enter(&town, &owner)?)?;
    let mut random = run.random();
    let (mut refused, mut kept, mut slowest) = (0, 0, Duration::ZERO);
    for round in 0..if run.long { 50 } else { 5 } {
        let mut talk = Talk::default();
        small_disk::fill(&filler, random.below(SOME_ROOM))?;
        let mut reader = enter(&town, &owner)?;
        let before = refused;
        for number in 0..MANY {
            match write(&town, &owner, round, number, &mut talk)? {
                true => kept += 1,
                false => refused += 1,
            }
            if refused == before + 10 {
                break;
            }
        }
        ensure!(refused > before, "the disk was never full");
        let read = reader.ask("llookup:public:publickey@north")?;
        ensure!(read.starts_with("data:"), "reading on a full disk was answered {read:.80}");
        fs::remove_file(&filler)?;
        let since = Instant::now();
        let mut number = MANY;
        while !write(&town, &owner, round, number, &mut talk)? {
            number += 1;
            ensure!(since.elapsed() < HEALED, "it does not write {HEALED:?} after there was room");
        }
        slowest = slowest.max(since.elapsed());
        let faults = account.settle(&[talk], &mut enter(&town, &owner)?)?;
        ensure!(!faults.any(), "the server does not have what it acknowledged: {faults:?}");
    }
    let id = town.nodes[0].process()?.id().to_string();
    let mut check = Command::new("nsenter");
    check.args(["--target", &id, "--mount"]).arg(process::program("atedge-server")?);
    town.nodes[0].check_store_by(&mut check)?;
    run.note("refused", refused);
    run.note("kept", kept);
    run.note("healed_within_ms", u64::try_from(slowest.as_millis())?);
    Ok(())
}

/// Writes one record, over a new connection, because an error ends it; whether it was acknowledged.
fn write(town: &Town, owner: &Owner, round: usize, number: usize, talk: &mut Talk) -> Result<bool> {
    let key = format!("k{number}.full{TENANT}");
    let value = format!("{round}-{number}-{}", "x".repeat(4_000));
    let answer = enter(town, owner)?.ask(&format!("update:{key} {value}"))?;
    let effect = Effect::Value(value);
    if let Some(id) = answer.strip_prefix("data:") {
        let id = id.lines().next().unwrap_or_default().parse()?;
        talk.done.push((key, effect, id));
        return Ok(true);
    }
    ensure!(answer.starts_with("error:AT0002-"), "a write on a full disk was answered {answer:.80}");
    Ok(false)
}

fn enter(town: &Town, owner: &Owner) -> Result<Wire> {
    let mut wire = town.dial(TENANT)?;
    owner.sign_in(TENANT, &mut wire)?;
    Ok(wire)
}
