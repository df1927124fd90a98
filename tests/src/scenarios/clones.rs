//! The disk of a gateway is cloned, and both boxes run: neither goes on until the owner decides, then one does. What
//! their devices say meanwhile is kept, and no command is carried out twice.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::commander::{Order, Told};
use crate::gateway::{Gateway, READER, gateway_town};
use crate::process::{PATIENCE, run as run_program};
use crate::queue::{Listener, until, until_by};
use crate::scenario::Run;

/// Within so long the original must have noticed its clone: it looks twice a minute.
const NOTICED: Duration = Duration::from_secs(35);
/// For so long nothing may come from boxes that are frozen.
const SILENCE: Duration = Duration::from_secs(1);

/// See above.
///
/// # Errors
/// A clone went unnoticed, a frozen box acted, or the box of the owner's choice did not.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = gateway_town(&run.folder)?;
    let valve = town.folder.join("valve");
    let mut original = Gateway::new(&town, &tables(&valve))?;
    original.start()?;
    let mut reader = Listener::start(&town, READER)?;
    let came = |reader: &Listener, least: u64| reader.accounted("process").0 >= least;
    ensure!(reader.until(PATIENCE, |reader| came(reader, 5))?, "the original's readings do not come");
    original.stop()?;
    let mut clone = original.cloned(&town.folder.join("clone"))?;

    // A restart is no clone.
    original.start()?;
    let before = reader.accounted("process").0;
    ensure!(reader.until(PATIENCE, |reader| came(reader, before + 5))?, "frozen after a mere restart");

    // The clone notices at once, the original when it next looks.
    clone.start()?;
    let began = Instant::now();
    until_by(|| clone.status(), "frozen clone", is_frozen)?;
    run.note("clone_frozen_s", began.elapsed().as_secs_f64());
    until_by(|| original.status(), "frozen original", is_frozen)?;
    ensure!(began.elapsed() < NOTICED, "the original needed {:?}", began.elapsed());
    run.note("original_frozen_s", began.elapsed().as_secs_f64());
    ensure!(clone.log()?.contains("atedge-agent claim"), "the clone does not say what to do");

    // Frozen boxes keep all and send nothing. What the original sent last may still be on its way.
    while reader.until(SILENCE, |_| false)? {}
    let before = reader.accounted("process").0;
    let order = std::thread::spawn({
        let order = Order::new(&town, "valve.open", "to=1", "once")?;
        move || order.follow()
    });
    for state in ["agent", "clone/agent"] {
        let waiting = |stat: &Value| stat["records"].as_u64() >= Some(10);
        until(&town.folder.join(state), "records that wait", waiting)?;
    }
    ensure!(reader.accounted("process").0 == before && !valve.exists(), "a frozen gateway acted");

    // The owner decides for the clone, and that stays so, whoever is started again.
    let claimed = run_program("claim", clone.ask("claim", false).arg("--json"), &town.folder)?;
    ensure!(claimed.status.success(), "`claim` said {}", String::from_utf8_lossy(&claimed.stderr));
    ensure!(reader.until(PATIENCE, |reader| came(reader, before + 20))?, "the claimed box sends nothing");
    let (told, _) = order.join().expect("the order panicked")?;
    ensure!(told == Told::Done, "the command came to {told:?}");
    original.stop()?;
    original.start()?;
    until_by(|| original.status(), "original that is frozen still", is_frozen)?;
    clone.stop()?;
    clone.start()?;
    let before = reader.accounted("process").0;
    ensure!(reader.until(PATIENCE, |reader| came(reader, before + 20))?, "frozen after it was claimed");
    let opened = std::fs::read_to_string(&valve)?;
    ensure!(opened.lines().count() == 1, "carried out {} times", opened.lines().count());

    let ids: Vec<String> = reader.records["process"].iter().map(id).collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    ensure!(distinct.len() == ids.len(), "a number was given twice");
    run.note("records", ids.len());
    clone.stop()?;
    original.stop()
}

fn is_frozen(status: &Value) -> bool {
    status["agent"]["standing"]["is"] == "frozen"
}

fn id(record: &Value) -> String {
    format!("{} {} {}", record["device"], record["boot"], record["seq"])
}

/// A device that speaks ten times a second, and a valve that writes down how often it was opened.
fn tables(valve: &std::path::Path) -> String {
    let counter = r#"n=0; while printf '{"n":%d}\n' $n; do n=$((n+1)); sleep 0.1; done"#;
    let opens = format!("while read -r line; do echo \"$line\" >> {}; done", valve.display());
    let program = |name: &str, line: &str| {
        format!(
            "[adapter.{name}]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", '''{line}''']\ndevice = \
             \"{name}\"\nstream = \"process\"\npick = {{ n = \"/n\" }}\n"
        )
    };
    format!(
        "{}{}[command.\"valve.open\"]\nallow = [\"{READER}\"]\nargs = {{ to = {{ type = \"i64\", min = 0, max = 9 }} }}\n\
         adapter = \"valve\"\ndo = {{ send = \"open {{to}}\" }}\nexpires = \"2m\"\nsigned = false\n",
        program("counter", counter),
        program("valve", &opens),
    )
}
