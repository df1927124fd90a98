//! Strangers who send what no client sends: the server and the directory answer or hang up, stay small,
//! and go on serving everybody else.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;

use crate::random::Random;
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::{Setup, Town};
use crate::wire::Wire;

const ALICE: &str = "@alice";
/// Longest line before and after authentication (`at_protocol::line`).
const LIMITS: [usize; 2] = [at_protocol::line::MAX_ANONYMOUS, at_protocol::line::MAX_AUTHENTICATED];
/// Strangers and the honest have one address here: the first must not slow the others' logins down.
const TABLES: &str = "[limits.logins]\nfree = 1000000\nrefused = 1000000\n";
/// Random lines in all, and on one connection.
const LINES: usize = 10_000;
const LINES_EACH: usize = 100;
/// Connections that begin something and never end it.
const HALVES: usize = 50;
/// How much a daemon may grow over the second half of the rounds: one step of the allocator, which keeps
/// large blocks for the next time. Who leaks a long line in each round grows by several.
const FLAT_KIB: u64 = 12 * 1024;
/// No daemon may ever need more: a few times the longest line.
const CEILING_KIB: u64 = 96 * 1024;

/// Rounds of all of it.
///
/// # Errors
/// An honest client was not answered, or a daemon grew.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = Town::with(&run.folder, &[&[ALICE]], &Setup { tables: TABLES, ..Setup::default() })?;
    let owner = Owner::new(&town.tenant(ALICE)?.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let mut crowd = Crowd {
        trust: town.trust()?,
        server: town.tenant(ALICE)?.address,
        directory: town.directory,
        honest: town.dial(ALICE)?,
        honest_at_directory: Wire::greeted(town.directory, &town.trust()?)?,
        owner,
        random: run.random(),
    };
    crowd.owner.sign_in(ALICE, &mut crowd.honest)?;
    let rounds = if run.long { 24 } else { 8 };
    let mut kib = Vec::new();
    for round in 1..=rounds {
        let guessing = crowd.round()?;
        if round == rounds / 2 || round == rounds {
            // What is held back is let go of before it is measured.
            guessing.into_iter().for_each(dismissed);
        }
        kib.push([town.nodes[0].process()?.resident_kib()?, town.directory_process()?.resident_kib()?]);
    }
    run.note("lines", LINES * rounds);
    for (number, daemon) in ["server", "directory"].into_iter().enumerate() {
        let kib: Vec<u64> = kib.iter().map(|kib| kib[number]).collect();
        run.note(&format!("{daemon}_kib"), kib.clone());
        let grown = kib[rounds - 1].saturating_sub(kib[rounds / 2 - 1]);
        ensure!(grown <= FLAT_KIB, "the {daemon} grew by {grown} KiB: {kib:?}");
        ensure!(kib.iter().all(|kib| *kib < CEILING_KIB), "the {daemon} needs too much: {kib:?} KiB");
    }
    Ok(())
}

struct Crowd {
    trust: Arc<ClientConfig>,
    server: SocketAddr,
    directory: SocketAddr,
    honest: Wire,
    honest_at_directory: Wire,
    owner: Owner,
    random: Random,
}

impl Crowd {
    /// Everything once; those are left who wait for the directory.
    fn round(&mut self) -> Result<Vec<Wire>> {
        self.endless_lines().context("lines over the limit")?;
        self.no_text().context("invalid UTF-8")?;
        let halves = self.halves().context("half lines and half-open sockets")?;
        self.random_lines().context("random lines at the server")?;
        let guessing = self.random_names().context("random lines at the directory")?;
        drop(halves);
        self.still_served()?;
        Ok(guessing)
    }

    /// An honest client of each daemon gets its answer.
    fn still_served(&mut self) -> Result<()> {
        let answer = self.honest.ask("llookup:public:publickey@alice")?;
        ensure!(answer.starts_with("data:MII"), "an honest client was answered {answer:.80}");
        let answer = self.honest_at_directory.ask("alice")?;
        ensure!(answer.starts_with("localhost:"), "an honest question was answered {answer:.80}");
        Ok(())
    }

    fn stranger(&self) -> Result<Wire> {
        Wire::greeted(self.server, &self.trust)
    }

    fn insider(&self) -> Result<Wire> {
        let mut wire = self.stranger()?;
        self.owner.sign_in(ALICE, &mut wire)?;
        Ok(wire)
    }

    fn endless_lines(&mut self) -> Result<()> {
        let wires = [self.stranger()?, self.insider()?];
        for (limit, mut wire) in LIMITS.into_iter().zip(wires) {
            // The server may hang up in the middle of it.
            let said = wire.say(&vec![b'x'; limit + 2]);
            match wire.hear() {
                Ok(Some(answer)) => {
                    ensure!(answer.starts_with("error:AT0005-"), "answered {answer:.80}");
                    ensure!(!matches!(wire.hear(), Ok(Some(_))), "the connection was left open");
                }
                Ok(None) => {}
                Err(error) => ensure!(said.is_err(), "neither answered nor closed: {error:#}"),
            }
            self.still_served()?;
        }
        let mut wire = Wire::greeted(self.directory, &self.trust)?;
        wire.say(&[b'x'; 256])?;
        ensure!(wire.hear()?.is_none(), "the directory answered an endless line");
        Ok(())
    }

    fn no_text(&mut self) -> Result<()> {
        for mut wire in [self.stranger()?, self.insider()?] {
            wire.say(b"llookup:\xff\xfe\xc0\x80@alice\n")?;
            if let Some(answer) = wire.hear()? {
                ensure!(answer.starts_with("error:"), "invalid UTF-8 was answered {answer:.80}");
            }
        }
        self.still_served()
    }

    /// Sockets that never say a whole line, or nothing at all, to be kept open.
    fn halves(&mut self) -> Result<(Vec<Wire>, Vec<TcpStream>)> {
        let (mut wires, mut sockets) = (Vec::new(), Vec::new());
        for number in 0..HALVES {
            let mut wire = self.stranger()?;
            wire.say(&b"from:@alice"[..number % 11])?;
            wires.push(wire);
            for address in [self.server, self.directory] {
                let mut socket = TcpStream::connect(address)?;
                // The first bytes of a TLS handshake, cut anywhere.
                socket.write_all(&[22, 3, 1, 2, 0, 1, 0][..number % 8])?;
                sockets.push(socket);
            }
        }
        self.still_served()?;
        Ok((wires, sockets))
    }

    fn random_lines(&mut self) -> Result<()> {
        for connection in 0..LINES / LINES_EACH {
            let mut wire = if connection % 2 == 0 { self.stranger()? } else { self.insider()? };
            let mut noise: Vec<u8> = (0..LINES_EACH).flat_map(|_| line(&mut self.random)).collect();
            noise.extend(b"noop:0\n");
            // It may be cut off while it talks.
            if wire.say(&noise).is_ok() {
                // Answers to lines that came together may come together.
                while let Ok(Some(answers)) = wire.hear() {
                    if answers.contains("data:ok\n") {
                        break;
                    }
                }
            }
            self.still_served()?;
        }
        Ok(())
    }

    /// Answers to names that do not exist are held back, so nobody waits for them here.
    fn random_names(&mut self) -> Result<Vec<Wire>> {
        let mut guessing = Vec::new();
        for _ in 0..LINES / LINES_EACH {
            let mut wire = Wire::greeted(self.directory, &self.trust)?;
            let noise: Vec<u8> = (0..LINES_EACH).flat_map(|_| line(&mut self.random)).collect();
            wire.say(&noise).ok();
            guessing.push(wire);
            let answer = self.honest_at_directory.ask("alice")?;
            ensure!(answer.starts_with("localhost:"), "an honest question was answered {answer:.80}");
        }
        Ok(guessing)
    }
}

/// Waits until the directory has hung up.
fn dismissed(mut wire: Wire) {
    // Whether it says so, or the system does because it has not read everything.
    while let Ok(Some(_)) = wire.hear() {}
}

/// Up to 300 bytes of anything, or a verb with something wrong about it; and a line end.
fn line(random: &mut Random) -> Vec<u8> {
    const VERBS: [&str; 12] = [
        "from:@alice:clientConfig:{\"version\":\"3.0.38\"}",
        "cram:00",
        "pkam:signingAlgo:rsa2048:hashingAlgo:sha512:c2ln",
        "pol",
        "update:ttl:1000:isEncrypted:true:@bob:x.y@alice value",
        "llookup:all:public:publickey@alice",
        "lookup:x@alice",
        "scan:showhidden:true (a|b)+",
        "notify:id:1:update:messageType:key:ttln:1000:@alice:x.y@alice:v",
        "notify:list:2024-01-01:2024-01-02:x",
        "sync:from:-1:limit:3:x",
        "enroll:request:{\"appName\":\"a\"}",
    ];
    let mut line: Vec<u8> = if random.below(2) == 0 {
        (0..random.below(300)).map(|_| random.byte()).collect()
    } else {
        let mut line = VERBS[random.place(VERBS.len())].as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = random.place(line.len());
            match random.below(3) {
                0 => line[at] = random.byte(),
                1 => line.truncate(at + 1),
                _ => line.insert(at, b':'),
            }
        }
        line
    };
    line.push(b'\n');
    line
}
