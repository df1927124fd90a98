//! Hellos without end from one source: others are let in all the same.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::crowd::{Latencies, STRANGERS, connect_from, hello, rounded};
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::Town;
use crate::wire::Wire;

const ALICE: &str = "@alice";
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Hellos that one thread has open at a time, each of which the server has answered with all its work.
const OPEN: usize = 400;

/// Honest clients connect, sign in and ask while the flood goes on.
///
/// # Errors
/// Fewer than 99 in 100 are served.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let attempts = if run.long { 2_000 } else { 200 };
    let town = Town::start(&run.folder, &[&[ALICE]])?;
    let (address, trust) = (town.tenant(ALICE)?.address, town.trust()?);
    let owner = Owner::new(&town.tenant(ALICE)?.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let opening = hello(&trust)?;
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flood = {
        let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
        std::thread::spawn(move || {
            let mut open = std::collections::VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                // The server may have no place for it.
                if let Ok(mut socket) = connect_from(STRANGERS, address) {
                    if socket.write_all(&opening).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    open.push_back(socket);
                }
                if open.len() > OPEN {
                    open.pop_front();
                }
            }
        })
    };
    while sent.load(Ordering::Relaxed) < OPEN {
        std::thread::yield_now();
    }
    let (began, before) = (Instant::now(), sent.load(Ordering::Relaxed));
    let (mut served, mut latencies) = (0_usize, Latencies::default());
    for _ in 0..attempts {
        let asked = Instant::now();
        let honest = || -> Result<()> {
            let mut wire = Wire::over(connect_from(HONEST, address)?, &trust)?;
            ensure!(wire.hear()?.as_deref() == Some("@"), "not greeted");
            owner.sign_in(ALICE, &mut wire)?;
            wire.ask_data("noop:0")?;
            Ok(())
        };
        if honest().is_ok() && asked.elapsed() < Duration::from_secs(10) {
            served += 1;
        }
        latencies.note(asked.elapsed());
    }
    let rate = (sent.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    flood.join().ok().context("the flood's thread")?;
    run.note("hellos_per_s", rate.round());
    run.note("honest", attempts);
    run.note("served", served);
    run.note("honest_p99_ms", rounded(latencies.p99_ms()));
    ensure!(rate > 10.0, "there was no flood");
    ensure!(served * 100 >= attempts * 99, "only {served} of {attempts} honest clients were served");
    Ok(())
}
