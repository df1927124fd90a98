//! A reader that was away misses nothing, also when it has not read anything before.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::Process;
use crate::scenario::Run;
use crate::town::Town;

const SENDER: &str = "@alice";
const READER: &str = "@bob";
/// How often the reader goes away. The first time, nothing has ever been sent to it.
const ABSENCES: u64 = 3;

/// While the reader stands still, its connection ends and a notification is delivered to its server.
///
/// # Errors
/// The reader does not show it afterwards, or shows something twice.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = Town::start(&run.folder, &[&[SENDER, READER]])?;
    for atsign in [SENDER, READER] {
        town.onboard(atsign)?;
    }
    let mut command = town.tool(&["watch", READER, "--regex", "temp", "--json"])?;
    let watch = Process::start("watch", &mut command, &town.folder)?;
    let first = watch.line()?.context("atedge watch ended")?;
    ensure!(first.contains("\"watching\""), "atedge watch began with {first}");
    for number in 1..=ABSENCES {
        let value = number.to_string();
        watch.pause()?;
        town.nodes[0].kill()?;
        town.nodes[0].start()?;
        town.use_tool(&["notify", SENDER, READER, "temp.plant7", &value, "--wait", "60s"])?;
        watch.resume()?;
        let line = watch.line()?.context("atedge watch ended")?;
        let seen: Value = serde_json::from_str(&line)?;
        ensure!(seen["value"] == value.as_str(), "absence {number}: sent {value}, shown {line}");
    }
    run.note("absences", ABSENCES);
    Ok(())
}
