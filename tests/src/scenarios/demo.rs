//! What a newcomer types first, and what its last line promises.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::{program, run as run_command};
use crate::scenario::Run;

/// The demo as documented, then once without encryption, which its search has to find out.
///
/// # Errors
/// A promise of the last line does not hold, or plaintext was not found where there is some.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let summary = demo(run, &["--for", "20s"])?;
    for (name, value) in summary.as_object().context("the last line is an object")? {
        run.note(name, value.clone());
    }
    let number = |name: &str| summary[name].as_u64().with_context(|| format!("no {name} in {summary}"));
    let (sent, received) = (number("readings_sent")?, number("readings_received")?);
    ensure!(sent == received && sent >= 100, "sent {sent} readings, received {received}");
    ensure!(number("duplicates")? == 0, "readings were doubled");
    ensure!(number("commands_done")? >= 1, "no command was done");
    ensure!(summary["plaintext_on_servers"] == false, "servers can read along");
    let naked = demo(run, &["--for", "5s", "--unencrypted"])?;
    ensure!(naked["plaintext_on_servers"] == true, "the search does not find plaintext that is there");
    Ok(())
}

fn demo(run: &Run, arguments: &[&str]) -> Result<Value> {
    let mut command = std::process::Command::new(program("atedge")?);
    command.args(["demo", "--json"]).args(arguments).env("HOME", &run.folder);
    let output = run_command("demo", &mut command, &run.folder)?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("the demo printed nothing")?;
    // A demo that could be read along fails by its exit code, too.
    let summary: Value = serde_json::from_str(last).with_context(|| format!("not JSON: {last}"))?;
    let expected = summary["plaintext_on_servers"] == false;
    ensure!(output.status.success() == expected, "the demo ended with {}: {last}", output.status);
    Ok(summary)
}
