//! One stream, four readers: a fast one, a slow one, one that never comes and one that is taken out of the
//! configuration. Records stay for whom they must and go when they may; what is lost is counted for each.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::gateway::{GATEWAY, Gateway};
use crate::process::PATIENCE;
use crate::queue::{Listener, lost, unconfirmed, until};
use crate::scenario::Run;
use crate::town::Town;

const FAST: &str = "@fast";
const SLOW: &str = "@slow";
const NEVER: &str = "@never";
const REMOVED: &str = "@removed";
/// Readings of the stream that is held for days.
const KEPT: u64 = 2_000;

/// See above.
///
/// # Errors
/// A record went too early, or stayed, or a loss was not counted where it belongs.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = Town::start(&run.folder, &[&[GATEWAY, FAST, SLOW, NEVER, REMOVED]])?;
    for atsign in [GATEWAY, FAST, SLOW, NEVER, REMOVED] {
        town.onboard(atsign)?;
    }
    let state = town.folder.join("agent");
    let mut gateway = Gateway::new(&town, &tables(&[FAST, SLOW, NEVER, REMOVED], "7d"))?;
    gateway.start()?;
    let mut fast = Listener::start(&town, FAST)?;
    let all = |listener: &Listener| listener.accounted("log").0 >= KEPT;
    ensure!(fast.until(PATIENCE, all)?, "the fast reader has {:?}", fast.accounted("log"));
    let stat = until(&state, "confirmation", |stat| unconfirmed(stat, "log", FAST) == 0)?;
    ensure!(stat["records"] == KEPT, "the others have none of it yet: {stat}");

    // Without @removed in the configuration nobody waits for it; the others still wait.
    gateway.stop()?;
    gateway = Gateway::new(&town, &tables(&[FAST, SLOW, NEVER], "7d"))?;
    gateway.start()?;
    let stat = until(&state, "records", |stat| stat["records"].as_u64() >= Some(KEPT))?;
    let of_log =
        stat["readers"].as_array().into_iter().flatten().filter(|backlog| backlog["stream"] == "log");
    let names: Vec<&str> = of_log.filter_map(|backlog| backlog["reader"].as_str()).collect();
    ensure!(names == [FAST, NEVER, SLOW], "readers are {names:?}");

    // The slow one comes at last, and gets all; the records stay for the one that never does.
    let mut slow = Listener::start(&town, SLOW)?;
    ensure!(slow.until(PATIENCE, all)?, "the slow reader has {:?}", slow.accounted("log"));
    let stat = until(&state, "confirmation", |stat| unconfirmed(stat, "log", SLOW) == 0)?;
    ensure!(stat["records"].as_u64() >= Some(KEPT), "gone though {NEVER} has none of it: {stat}");
    ensure!(lost(&stat, "log", NEVER).is_empty(), "lost early: {stat}");

    // With a hold that is over, it is passed over: the records go, and the loss is its own.
    gateway.stop()?;
    gateway = Gateway::new(&town, &tables(&[FAST, SLOW, NEVER], "1s"))?;
    gateway.start()?;
    let owed = unconfirmed(&stat, "log", NEVER);
    let stat = until(&state, "passing over", |stat| {
        lost(stat, "log", NEVER).get("silent").is_some_and(|lost| *lost >= owed)
    })?;
    ensure!(stat["records"].as_u64() < Some(KEPT), "the records stay: {stat}");
    ensure!(lost(&stat, "log", FAST).is_empty() && lost(&stat, "log", SLOW).is_empty(), "{stat}");
    run.note("passed_over", lost(&stat, "log", NEVER)["silent"]);

    // Should it come after all, it is told.
    let mut never = Listener::start(&town, NEVER)?;
    let told = |listener: &Listener| listener.accounted("log").1 >= owed;
    ensure!(never.until(PATIENCE, told)?, "{NEVER} knows of {:?}", never.accounted("log"));
    ensure!(!fast.until(Duration::ZERO, |fast| fast.accounted("log").1 > 0)?, "told of losses of others");
    gateway.stop()
}

/// A stream for these readers, and a device that says some of it at once, and now and then one more.
fn tables(readers: &[&str], hold: &str) -> String {
    let counter = format!("seq -f '{{\\\"n\\\":%.0f}}' 1 {KEPT}; exec sleep infinity");
    format!(
        "[stream.log]\nto = {readers:?}\nrequire = [\"receipts\"]\nhold = \"{hold}\"\nbatch = {{ linger = \"100ms\" }}\n\
         [adapter.counter]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \"{counter}\"]\ndevice = \
         \"counter\"\nstream = \"log\"\npick = {{ n = \"/n\" }}\nid = {{ from = \"/n\" }}\n"
    )
}
