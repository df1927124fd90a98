//! Strangers who begin something and take their time over it, before and after the TLS handshake: honest
//! clients do not feel them, and each is cut off at its deadline.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::crowd::{Latencies, STRANGERS, connect_from, hello, is_closed_within, rounded, trickle};
use crate::process::PATIENCE;
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::{Setup, Town};
use crate::wire::Wire;

const ALICE: &str = "@alice";
/// Deadlines of the short form; the long form has the server's own.
const SHORT: &str = "[limits.node]\nhandshake = \"4s\"\nlogin = \"6s\"\nline = \"6s\"\n";
/// What the honest client may wait in the crowd, of what it waits alone. The bar is 2; a machine that does
/// other things as well has room for chance.
const SLACK: f64 = 3.0;
/// Below this nobody feels a difference, and chance is most of it: in milliseconds.
const UNFELT_MS: f64 = 5.0;
const ROUNDS: usize = 3;
const ASKED: usize = 300;
/// Between two questions, so that they see several bytes of the crowd.
const PAUSE: Duration = Duration::from_millis(5);

/// An honest client alone, then in the crowd; and how the crowd ends.
///
/// # Errors
/// The honest client waits too long, or a slow one is put up with.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let (crowd, tables, handshake, login) = if run.long {
        (2_000, "", Duration::from_secs(10), Duration::from_secs(30))
    } else {
        (300, SHORT, Duration::from_secs(4), Duration::from_secs(6))
    };
    let town = Town::with(&run.folder, &[&[ALICE]], &Setup { tables, ..Setup::default() })?;
    let owner = Owner::new(&town.tenant(ALICE)?.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let mut honest = town.dial(ALICE)?;
    owner.sign_in(ALICE, &mut honest)?;
    let mut best = (f64::MAX, 0.0, 0.0);
    for _ in 0..ROUNDS {
        let quiet = Latencies::of(&mut honest, "noop:0", ASKED, PAUSE)?.p99_ms();
        let (crowded, cut) = round(&town, &mut honest, crowd)?;
        let ratio = crowded / quiet;
        if ratio < best.0 {
            best = (ratio, quiet, crowded);
        }
        for (what, took, limit) in [("a handshake", cut[0], handshake), ("a login", cut[1], login)] {
            // It takes a while until all of them are there.
            let late = limit + Duration::from_secs(10);
            ensure!(took <= late, "{what} was put up with for {took:?}, the limit is {limit:?}");
        }
        run.note("handshakes_cut_after_s", rounded(cut[0].as_secs_f64()));
        run.note("logins_cut_after_s", rounded(cut[1].as_secs_f64()));
        if best.0 <= 2.0 {
            break;
        }
    }
    let (ratio, quiet, crowded) = best;
    run.note("slow", crowd * 3);
    run.note("quiet_p99_ms", rounded(quiet));
    run.note("crowded_p99_ms", rounded(crowded));
    run.note("ratio", rounded(ratio));
    ensure!(
        ratio <= SLACK || crowded <= UNFELT_MS,
        "the honest client waits {crowded:.2} ms instead of {quiet:.2} ms"
    );
    Ok(())
}

/// The honest p99 in the crowd, in ms, and after how long the last of those before and behind TLS was cut.
fn round(town: &Town, honest: &mut Wire, crowd: usize) -> Result<(f64, [Duration; 2])> {
    let (address, trust) = (town.tenant(ALICE)?.address, town.trust()?);
    let opening = hello(&trust)?;
    let began = Instant::now();
    let mut late = Vec::new();
    for number in 0..crowd * 2 {
        let wire = Wire::over(connect_from(STRANGERS, address)?, &trust)?;
        late.push((wire, number % 2 == 0));
    }
    let early: Vec<TcpStream> =
        (0..crowd).map(|_| connect_from(STRANGERS, address)).collect::<Result<_>>()?;
    let early_began = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let slow = {
        let (over, early) =
            (Arc::clone(&over), early.iter().map(TcpStream::try_clone).collect::<Result<Vec<_>, _>>()?);
        std::thread::spawn(move || {
            for byte in opening {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                trickle(&early, byte);
                for (wire, talks) in &mut late {
                    if *talks {
                        // Whether it was cut off is found out later.
                        wire.say(b"x").ok();
                    }
                }
                std::thread::sleep(Duration::from_millis(300));
            }
            late
        })
    };
    let crowded = Latencies::of(honest, "noop:0", ASKED, PAUSE)?.p99_ms();
    for socket in &early {
        ensure!(is_closed_within(socket, PATIENCE)?, "a handshake is never cut off");
    }
    let handshakes = early_began.elapsed();
    over.store(true, Ordering::Relaxed);
    let late = slow.join().ok().context("the slow senders' thread")?;
    for (wire, _) in &late {
        ensure!(is_closed_within(wire.socket(), PATIENCE)?, "a login is never cut off");
    }
    Ok((crowded, [handshakes, began.elapsed()]))
}
