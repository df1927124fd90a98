//! A store whose files are damaged while nobody looks: the server starts all the same, gives no wrong
//! answer, and says which file it is; atSigns in other files are served as before.

use anyhow::{Result, ensure};

use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::Town;
use crate::wound::{copy, wound};

/// Over all four shards of a new store.
const TENANTS: [&str; 4] = ["@north", "@south", "@east", "@west"];
/// Records of each, over some hundred pages.
const RECORDS: usize = 200;
/// What the log says when all pages have been looked at.
const LOOKED: &str = "all files of the store have been looked at";
/// What it says of a shard that is out of service.
const DAMAGED: &str = "a shard of the store is damaged";

/// Damages one file after the other.
///
/// # Errors
/// A start was refused, an answer was wrong, or damage that showed was not reported.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 1_000 } else { 40 };
    let mut town = Town::start(&run.folder, &[&TENANTS])?;
    let mut owners = Vec::new();
    for atsign in TENANTS {
        let owner = Owner::new(&town.tenant(atsign)?.secret)?;
        let mut wire = town.dial(atsign)?;
        owner.activate(atsign, &mut wire)?;
        for number in 0..RECORDS {
            wire.ask_data(&format!("update:k{number}.disk{atsign} {}", value(atsign, number)))?;
        }
        owners.push(owner);
    }
    let state = town.nodes[0].state();
    town.nodes[0].stop()?;
    let good = run.subfolder("good")?;
    copy(&state, &good)?;
    let mut random = run.random();
    let (mut wrong, mut refused, mut reported, mut unharmed) = (0, 0, 0, 0);
    for round in 0..rounds {
        copy(&good, &state)?;
        let shard = random.place(4);
        let wound = wound(&state.join(format!("server-{shard}.db")), &mut random)?;
        let logged = town.nodes[0].log()?.len();
        if town.nodes[0].start().is_err() {
            refused += 1;
            continue;
        }
        // Until then an index may hide what is there; values are never wrong.
        town.nodes[0].until_logged(logged, LOOKED)?;
        let mut answered = 0;
        for (atsign, owner) in TENANTS.into_iter().zip(&owners) {
            let heard = read_all(&town, atsign, owner)?;
            answered += heard.right;
            wrong += heard.wrong;
        }
        let log = town.nodes[0].log()?;
        let is_reported = log[logged..].contains(DAMAGED);
        reported += usize::from(is_reported);
        unharmed += usize::from(!is_reported);
        let least = if is_reported { 3 } else { 4 } * RECORDS;
        ensure!(
            answered >= least,
            "round {round}, {wound}: only {answered} records were given and nothing said"
        );
        town.nodes[0].kill()?;
        if round % 10 == 9 {
            run.progress(&format!("{} of {rounds} files damaged", round + 1));
        }
    }
    run.note("files_damaged", rounds);
    run.note("reported", reported);
    run.note("without_effect", unharmed);
    run.note("wrong_answers", wrong);
    run.note("refused_starts", refused);
    ensure!(wrong == 0 && refused == 0, "{wrong} wrong answers, {refused} starts refused");
    Ok(())
}

struct Heard {
    right: usize,
    wrong: usize,
}

/// Asks for all records of a tenant; a new connection follows one that was closed with an error.
fn read_all(town: &Town, atsign: &str, owner: &Owner) -> Result<Heard> {
    let mut heard = Heard { right: 0, wrong: 0 };
    let mut wire = town.dial(atsign)?;
    if owner.sign_in(atsign, &mut wire).is_err() {
        return Ok(heard);
    }
    for number in 0..RECORDS {
        let answer = wire.ask(&format!("llookup:k{number}.disk{atsign}"))?;
        if answer.starts_with("error:AT0002-") {
            // The rest of the file is out of service as well.
            return Ok(heard);
        }
        if answer.strip_prefix("data:").and_then(|data| data.lines().next()) == Some(&value(atsign, number)) {
            heard.right += 1;
        } else {
            heard.wrong += 1;
        }
    }
    Ok(heard)
}

fn value(atsign: &str, number: usize) -> String {
    format!("{atsign}-{number}-{}", "v".repeat(number * 7 % 900))
}
