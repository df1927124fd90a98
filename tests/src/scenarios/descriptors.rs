//! More clients than the server may open files for: nobody who is served feels it, and it costs nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::crowd::{STRANGERS, begin_from, rounded};
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::{Setup, Town};
use crate::wire::Wire;

const ALICE: &str = "@alice";
const CLIENTS: usize = 5_000;
/// Sessions that are there before the crowd.
const SESSIONS: usize = 20;
/// How long the crowd is looked at.
const WATCHED: Duration = Duration::from_secs(5);
/// The bars: of one core, and from the end of the crowd to the next greeting.
const MOST_CPU: f64 = 0.2;
const RECOVERY: Duration = Duration::from_secs(2);

/// Two crowds: one that finds all places taken, one for which the server has no descriptors left.
///
/// # Errors
/// A session was cut, the server turned in circles, or it did not recover.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let setup = Setup { under: &["prlimit", "--nofile=1024:1024"], ..Setup::default() };
    let town = Town::with(&run.folder, &[&[ALICE]], &setup)?;
    let owner = Owner::new(&town.tenant(ALICE)?.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut wire = town.dial(ALICE)?;
        owner.sign_in(ALICE, &mut wire)?;
        sessions.push(wire);
    }
    crowded(run, &town, &mut sessions, "places")?;
    // So few that the crowd meets the system's limit, not ours.
    let process = town.nodes[0].process()?;
    let pid = Pid::from_raw(i32::try_from(process.id())?).context("a process has an id")?;
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count();
    let few = |soft| Rlimit { current: Some(soft), maximum: Some(1024) };
    prlimit(Some(pid), Resource::Nofile, few(u64::try_from(open + 10)?))?;
    crowded(run, &town, &mut sessions, "files")?;
    run.note("clients", CLIENTS);
    Ok(())
}

fn crowded(run: &mut Run, town: &Town, sessions: &mut [Wire], limit: &str) -> Result<()> {
    let address = town.tenant(ALICE)?.address;
    let crowd: Vec<_> = (0..CLIENTS).filter_map(|_| begin_from(STRANGERS, address).ok()).collect();
    ensure!(crowd.len() == CLIENTS, "only {} clients could be made", crowd.len());
    let process = town.nodes[0].process()?;
    let (began, before) = (Instant::now(), process.cpu()?);
    while began.elapsed() < WATCHED {
        for wire in &mut *sessions {
            let answer = wire.ask("noop:0").context("a session was cut")?;
            ensure!(answer.starts_with("data:ok"), "a session was answered {answer}");
        }
        std::thread::sleep(WATCHED / 10);
    }
    let share = (process.cpu()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
    run.note(&format!("cpu_{limit}"), rounded(share));
    ensure!(share <= MOST_CPU, "the crowd costs {share:.2} of a core");
    drop(crowd);
    let left = Instant::now();
    let trust = town.trust()?;
    // Refused at first, perhaps, and let in as soon as the places have come back.
    while Wire::greeted(address, &trust).is_err() {
        ensure!(left.elapsed() < RECOVERY, "not served {RECOVERY:?} after the crowd had left");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.note(&format!("recovered_ms_{limit}"), u64::try_from(left.elapsed().as_millis())?);
    for wire in sessions {
        wire.ask("noop:0").context("a session was cut in the end")?;
    }
    Ok(())
}
