//! The certificate is renewed under load, replaced by rubbish, and expired at the start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atedge_service::tls::{DevAuthority, read_certificates};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::Town;
use crate::wire::Wire;

const ALICE: &str = "@alice";
/// Within this time a new certificate is shown.
const SHOWN: Duration = Duration::from_secs(1);
/// Sessions that work all the time.
const SESSIONS: usize = 3;

/// Renewals under load, then what goes wrong with certificates.
///
/// # Errors
/// An operation failed, or a certificate was not shown in time.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let renewals = if run.long { 50 } else { 5 };
    let mut town = Town::start(&run.folder, &[&[ALICE]])?;
    let owner = Owner::new(&town.tenant(ALICE)?.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let load = Load::start(&town, &owner)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..renewals {
        // A new leaf of the same authority, put in place by a rename.
        DevAuthority::open_or_create(&run.folder.join("ca"), &[])?;
        slowest = slowest.max(shown(&town)?);
    }
    std::fs::write(town.certificate(), "rubbish")?;
    let before = town.dial(ALICE)?.certificate().map(<[u8]>::to_vec);
    said(&run.folder, "the new certificate is no good", 1)?;
    ensure!(
        town.dial(ALICE)?.certificate().map(<[u8]>::to_vec) == before,
        "rubbish replaced the certificate"
    );
    DevAuthority::open_or_create(&run.folder.join("ca"), &[])?;
    shown(&town)?;
    let operations = load.end()?;
    run.note("renewals", renewals);
    run.note("operations", operations);
    run.note("failed", 0);
    run.note("slowest_ms", u64::try_from(slowest.as_millis())?);
    ensure!(slowest <= SHOWN, "a new certificate was shown after {slowest:?}");
    said(&run.folder, "the new certificate is no good", 1)?;

    expire(&town.certificate())?;
    town.nodes[0].kill()?;
    town.nodes[0].start()?;
    said(&run.folder, "THE CERTIFICATE HAS EXPIRED", 1)?;
    ensure!(town.dial(ALICE).is_err(), "an expired certificate was believed");
    DevAuthority::open_or_create(&run.folder.join("ca"), &[])?;
    let began = Instant::now();
    while town.dial(ALICE).is_err() {
        ensure!(began.elapsed() <= SHOWN, "not reached with the renewed certificate");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// How long it takes until new connections see the certificate in the file.
fn shown(town: &Town) -> Result<Duration> {
    let file = read_certificates(&town.certificate())?;
    let began = Instant::now();
    while town.dial(ALICE)?.certificate() != Some(file[0].as_ref()) {
        ensure!(began.elapsed() < Duration::from_secs(30), "a new certificate is never shown");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(began.elapsed())
}

/// Waits until the server's log says `text`, and checks that it has not said it more often.
fn said(folder: &Path, text: &str, times: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let count = std::fs::read_to_string(folder.join("server1.log"))?.matches(text).count();
        ensure!(count <= times, "{count} times in the log: {text}");
        if count == times {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "not in the log: {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Replaces the certificate by one whose time is over.
fn expire(path: &Path) -> Result<()> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate()?;
    std::fs::write(path, format!("{}{}", params.self_signed(&key)?.pem(), key.serialize_pem()))?;
    Ok(())
}

/// Sessions and new connections that must not notice anything.
struct Load {
    over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
}

impl Load {
    fn start(town: &Town, owner: &Owner) -> Result<Self> {
        let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut threads = Vec::new();
        for number in 0..SESSIONS {
            let mut wire = town.dial(ALICE)?;
            owner.sign_in(ALICE, &mut wire)?;
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            threads.push(std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    wire.ask_data(&format!("update:load{number}{ALICE} x"))?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        let (address, trust) = (town.tenant(ALICE)?.address, town.trust()?);
        let (stop, connected) = (Arc::clone(&over), Arc::clone(&done));
        threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                Wire::greeted(address, &trust)?.ask_data("noop:0")?;
                connected.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }));
        Ok(Self { over, done, threads })
    }

    /// How many operations there were, none of which failed.
    fn end(self) -> Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a thread of the load")?.context("an operation failed")?;
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}
