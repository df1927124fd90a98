//! An enrollment is revoked under load: every connection of it ends, and of those that its holder approved;
//! all others go on. The figure is the time from the revocation's first byte to the end of the last one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;

use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::Town;
use crate::wire::Wire;

const ALICE: &str = "@alice";
/// Connections of each kind and each enrollment.
const EACH: usize = 4;
/// Connections of others that write all the time.
const LOAD: usize = 2;
/// By when the last connection must have ended.
const BAR: Duration = Duration::from_secs(1);

/// How the atSign's server is reached, and by whom.
struct Door {
    address: SocketAddr,
    trust: Arc<ClientConfig>,
    owner: Owner,
}

impl Door {
    /// A connection that is authenticated as the owner.
    fn owner(&self) -> Result<Wire> {
        let mut wire = Wire::greeted(self.address, &self.trust)?;
        self.owner.sign_in(ALICE, &mut wire)?;
        Ok(wire)
    }

    /// A connection that is authenticated by an enrollment.
    fn enrolled(&self, id: &str) -> Result<Wire> {
        let mut wire = Wire::greeted(self.address, &self.trust)?;
        self.owner.sign_in_enrolled(ALICE, id, &mut wire)?;
        Ok(wire)
    }
}

/// What a connection does when it is cut.
#[derive(Clone, Copy)]
enum Kind {
    Idle,
    Monitor,
    Busy,
}

/// Rounds of it, with new enrollments each.
///
/// # Errors
/// A connection outlives its enrollment, or one ends that should not.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = Town::start(&run.folder, &[&[ALICE]])?;
    let tenant = town.tenant(ALICE)?;
    let owner = Owner::new(&tenant.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let door = Door { address: tenant.address, trust: town.trust()?, owner };
    let rounds = if run.long { 50 } else { 8 };
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let times = scope(|threads| {
        let load: Vec<_> = (0..LOAD)
            .map(|number| {
                let (door, stop, written) = (&door, &stop, &written);
                threads.spawn(move || write_on(door, number, stop, written))
            })
            .collect();
        let times: Result<Vec<_>> = (0..rounds).map(|number| round(&door, number)).collect();
        stop.store(true, Ordering::Relaxed);
        for writer in load {
            writer.join().expect("a writer does not panic").context("one whom it did not concern")?;
        }
        times
    })?;
    let mut times: Vec<u64> =
        times.iter().map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).collect();
    times.sort_unstable();
    let worst = times[times.len() - 1];
    run.note("revocations", rounds);
    run.note("connections_cut", rounds * 2 * 3 * EACH);
    run.note("cut_us_median", times[times.len() / 2]);
    run.note("cut_us_worst", worst);
    run.note("updates_meanwhile", written.load(Ordering::Relaxed));
    ensure!(worst <= u64::try_from(BAR.as_micros())?, "the last connection ended after {worst} µs");
    Ok(())
}

/// Somebody who goes on writing.
fn write_on(door: &Door, number: usize, stop: &AtomicBool, written: &AtomicU64) -> Result<()> {
    let mut wire = door.owner()?;
    while !stop.load(Ordering::Relaxed) {
        wire.ask_data(&format!("update:load{number}.buzz@alice {}", "x".repeat(200)))?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Revokes an enrollment that has approved another; gives when the last of their connections had ended.
fn round(door: &Door, number: usize) -> Result<Duration> {
    let grant = |name: &str, right: &str| (name.to_owned(), right.to_owned());
    let owner = &door.owner;
    let mut manager = door.owner()?;
    let manages = [grant("wavi", "rw"), grant("__manage", "rw")];
    let parent = owner.enroll(&format!("parent{number}"), &manages, &mut manager)?;
    let mut by_parent = door.enrolled(&parent)?;
    let child = owner.enroll(&format!("child{number}"), &manages[..1], &mut by_parent)?;
    let stranger = owner.enroll(&format!("stranger{number}"), &manages[..1], &mut manager)?;
    let mut stranger = door.enrolled(&stranger)?;
    drop(by_parent);

    let mut wires = Vec::new();
    for id in [&parent, &child] {
        for kind in [Kind::Idle, Kind::Monitor, Kind::Busy] {
            for _ in 0..EACH {
                wires.push((kind, door.enrolled(id)?));
            }
        }
    }
    let (ready, is_ready) = channel();
    let last = scope(|threads| {
        let open: Vec<_> = wires
            .into_iter()
            .map(|(kind, wire)| {
                let ready = ready.clone();
                threads.spawn(move || until_cut(kind, wire, &ready))
            })
            .collect();
        drop(ready);
        for _ in 0..open.len() {
            is_ready.recv().context("a connection ended too early")?;
        }
        let began = Instant::now();
        manager.ask_data(&format!("enroll:revoke:{{\"enrollmentId\":\"{parent}\"}}"))?;
        let ends = open.into_iter().map(|one| one.join().expect("a client does not panic"));
        let last = ends.max().context("connections were open")?;
        anyhow::Ok(last.duration_since(began))
    })?;
    ensure!(stranger.ask_data("noop:0")? == "ok", "one whom it did not concern was cut");
    for id in [&parent, &child] {
        let refused = door.enrolled(id).err().map(|error| format!("{error:#}"));
        let refused = refused.with_context(|| format!("{id} came back"))?;
        ensure!(refused.contains("AT0027"), "{id} was refused with {refused}");
    }
    Ok(last)
}

/// Does what connections do until there is none any more; gives when that was.
fn until_cut(kind: Kind, mut wire: Wire, ready: &Sender<()>) -> Instant {
    let first = match kind {
        Kind::Monitor => "monitor .*\nnoop:0\n",
        Kind::Idle | Kind::Busy => "noop:0\n",
    };
    let mut open = wire.say(first.as_bytes()).is_ok() && wire.hear().is_ok();
    // Nobody listens any more if the revocation has failed.
    ready.send(()).ok();
    while open {
        if let Kind::Busy = kind {
            open = wire.say(b"update:busy.wavi@alice x\n").is_ok();
        }
        open = open && matches!(wire.hear(), Ok(Some(_)));
    }
    Instant::now()
}
