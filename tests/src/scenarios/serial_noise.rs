//! Every framing, fed over a serial line with noise between and within its frames, frames that are cut off, and
//! a plug that is pulled: what is decoded, what is lost by it, and whether anything is taken for a frame that
//! was none.
//!
//! Each frame carries its number and a sum over it that has nothing to do with the framing's check, so a false
//! frame is known as one.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atedge_adapters::modbus::rtu;
use atedge_adapters::{Captured, Point, Value};
use serde_json::{Value as Json, json};

use crate::field::{Cable, FieldAdapter};
use crate::process::PATIENCE;
use crate::random::Random;
use crate::scenario::Run;

/// How often the plug is pulled, per framing.
const REPLUGS: usize = 3;
/// One frame in so many is hit.
const ONE_IN: u64 = 10;
/// False frames that there may be in any run.
const BY_CHANCE: usize = 2;
/// So long nothing comes when all is read.
const QUIET: Duration = Duration::from_secs(1);
/// The silence that ends a frame, and the one that we keep.
const GAP: &str = "20ms";
const PAUSE: Duration = Duration::from_millis(60);

/// A framing, and how a device writes its frames.
struct Way {
    name: &'static str,
    framing: fn() -> Json,
    check: &'static str,
    /// Where the number stands in a frame of bytes; nothing in one of text.
    at: Option<usize>,
    encode: fn(&[u8]) -> Vec<u8>,
}

const WAYS: [Way; 7] = [
    Way {
        name: "line",
        framing: || json!({ "kind": "line", "ending": "crlf", "max": 64 }),
        check: "none",
        at: None,
        encode: |body| [body, b"\r\n"].concat(),
    },
    Way {
        name: "delimiter",
        framing: || json!({ "kind": "delimiter", "start": "\\x02", "end": "\\x03", "max": 64 }),
        check: "none",
        at: None,
        encode: |body| [b"\x02", body, b"\x03"].concat(),
    },
    Way {
        name: "fixed",
        framing: || json!({ "kind": "fixed", "size": 12, "sync": "hex:aa55" }),
        check: "crc16-modbus",
        at: Some(2),
        // Its frames are all of one size.
        encode: |body| checked([b"\xaa\x55", &body[..8]].concat()),
    },
    Way {
        name: "length",
        framing: || json!({ "kind": "length", "at": 2, "size": 2, "adds": 4, "sync": "hex:aa55", "max": 64 }),
        check: "crc16-modbus",
        at: Some(4),
        encode: |body| {
            let length = u16::try_from(body.len() + 2).unwrap_or(u16::MAX).to_be_bytes();
            checked([b"\xaa\x55", &length[..], body].concat())
        },
    },
    Way {
        name: "cobs",
        framing: || json!({ "kind": "cobs", "max": 64 }),
        check: "crc16-modbus",
        at: Some(0),
        encode: |body| cobs(&checked(body.to_vec())),
    },
    Way {
        name: "slip",
        framing: || json!({ "kind": "slip", "max": 64 }),
        check: "crc16-modbus",
        at: Some(0),
        encode: |body| slip(&checked(body.to_vec())),
    },
    Way {
        name: "idle",
        framing: || json!({ "kind": "idle", "gap": GAP, "max": 64 }),
        check: "crc16-modbus",
        at: Some(0),
        encode: |body| checked(body.to_vec()),
    },
];

/// One framing after the other.
///
/// # Errors
/// Frames are taken that were none, in spite of their check, or more is lost than was hit.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let bytes = if run.long { 10 << 20 } else { 1 << 20 };
    for way in &WAYS {
        run.progress(way.name);
        // Silences cannot be hurried.
        let bytes = if way.name == "idle" { bytes >> 7 } else { bytes };
        let outcome = feed(run, way, bytes)?;
        run.note(way.name, outcome.figures());
        outcome.judge(way)?;
    }
    // That the exam finds false frames: the same noise, where nobody looks at the check.
    run.progress(UNCHECKED.name);
    let outcome = feed(run, &UNCHECKED, bytes >> 4)?;
    run.note(UNCHECKED.name, outcome.figures());
    let found = outcome.false_frames;
    ensure!(
        found > 10 * BY_CHANCE,
        "without a check there were {found} false frames: the exam finds too few"
    );
    Ok(())
}

const UNCHECKED: Way = Way { name: "fixed_unchecked", check: "none", ..WAYS[2] };

#[derive(Debug, Default)]
struct Outcome {
    bytes: usize,
    /// Frames that were sent whole.
    whole: BTreeSet<u32>,
    decoded: BTreeSet<u32>,
    /// The last number that was sent.
    last: u32,
    /// Frames that were hit and came out whole nevertheless.
    mended: usize,
    hits: usize,
    false_frames: usize,
    refused: usize,
    seconds: f64,
}

impl Outcome {
    fn lost(&self) -> usize {
        self.whole.difference(&self.decoded).count()
    }

    fn figures(&self) -> Json {
        json!({
            "bytes": self.bytes, "whole": self.whole.len(), "decoded": self.decoded.len(), "hits": self.hits,
            "lost": self.lost(), "mended": self.mended, "false": self.false_frames, "refused": self.refused,
            "seconds": (self.seconds * 10.0).round() / 10.0,
        })
    }

    fn judge(&self, way: &Way) -> Result<()> {
        let (name, lost) = (way.name, self.lost());
        ensure!(!self.whole.is_empty() && !self.decoded.is_empty(), "{name}: nothing was decoded");
        ensure!(self.refused > 0, "{name}: nothing was refused, so nothing was hit");
        // A frame may be lost by what is just before it, and one with each pulled plug.
        ensure!(lost <= self.hits + REPLUGS, "{name}: {lost} frames lost by {} hits", self.hits);
        if way.check != "none" {
            // Of so many that were none, a check of 16 bits takes one for a frame, by chance; the exam is not to fail by
            // that alone.
            let most = BY_CHANCE + 4 * self.refused / (1 << 16);
            ensure!(self.false_frames <= most, "{name}: {} false frames, over {most}", self.false_frames);
        }
        Ok(())
    }
}

/// Feeds an adapter with so many bytes.
fn feed(run: &Run, way: &Way, bytes: usize) -> Result<Outcome> {
    let folder = run.subfolder(way.name)?;
    let (port, far) = (folder.join("port"), folder.join("far"));
    let mut adapter = FieldAdapter::start(table(way, &port))?;
    let (mut random, mut outcome, mut number) = (run.random(), Outcome::default(), 1);
    let began = Instant::now();
    for _ in 0..=REPLUGS {
        let cable = Cable::between(&port, &far)?;
        await_adapter(&mut adapter, way, &far)?;
        let speech = Speech::make(way, bytes / (REPLUGS + 1), &mut number, &mut random);
        outcome.bytes += speech.parts.iter().map(Vec::len).sum::<usize>();
        outcome.hits += speech.hits;
        outcome.whole.extend(&speech.whole);
        outcome.last = number;
        let pause = (way.name == "idle").then_some(PAUSE);
        let speaking = thread::spawn({
            let far = far.clone();
            move || say(&far, &speech.parts, pause)
        });
        loop {
            match adapter.next_within(QUIET)? {
                Some(captured) => outcome.take(captured),
                None if speaking.is_finished() => break,
                None => {}
            }
        }
        speaking.join().map_err(|_| anyhow::anyhow!("the device panicked"))??;
        drop(cable);
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    adapter.stop()?;
    Ok(outcome)
}

impl Outcome {
    fn take(&mut self, captured: Captured) {
        match captured {
            Captured::Reading { reading, .. } => match number_of(&reading.points) {
                // Said to see whether the adapter is there.
                Some(0) => {}
                Some(number) if self.whole.contains(&number) => _ = self.decoded.insert(number),
                // The next frame's first byte may be the one that was cut off.
                Some(number) if number <= self.last => self.mended += 1,
                Some(_) | None => self.false_frames += 1,
            },
            Captured::Refused { .. } => self.refused += 1,
            Captured::Settled { .. }
            | Captured::SessionLost { .. }
            | Captured::Suppressed { .. }
            | Captured::Reached
            | Captured::Unreached { .. } => {}
        }
    }
}

fn table(way: &Way, port: &Path) -> Json {
    let decode = match way.at {
        None => {
            let column = |name: &str, at: u64| json!({ "name": name, "at": at, "type": "i64" });
            json!({ "as": "csv", "columns": [column("n", 0), column("sum", 1)] })
        }
        Some(at) => {
            let field = |name: &str, at: usize| json!({ "name": name, "at": at, "type": "u32be" });
            json!({ "as": "binary", "fields": [field("n", at), field("sum", at + 4)] })
        }
    };
    json!({
        "type": "serial", "port": port, "device": "noisy", "stream": "noise", "framing": (way.framing)(),
        "check": { "kind": way.check }, "decode": decode,
    })
}

/// What a device says, in the parts in which it says it.
#[derive(Default)]
struct Speech {
    parts: Vec<Vec<u8>>,
    whole: Vec<u32>,
    hits: usize,
}

impl Speech {
    fn make(way: &Way, bytes: usize, number: &mut u32, random: &mut Random) -> Self {
        let (mut speech, mut said) = (Self::default(), 0);
        while said < bytes {
            let mut frame = (way.encode)(&body(way, *number, random));
            let mut is_whole = true;
            if random.below(ONE_IN) == 0 {
                speech.hits += 1;
                match random.below(3) {
                    0 => speech.parts.push((0..=random.below(64)).map(|_| random.byte()).collect()),
                    1 => {
                        frame.truncate(random.place(frame.len()));
                        is_whole = false;
                    }
                    _ => {
                        let at = random.place(frame.len());
                        frame[at] ^= 1 << random.below(8);
                        is_whole = false;
                    }
                }
            }
            if is_whole {
                speech.whole.push(*number);
            }
            said += frame.len();
            speech.parts.push(frame);
            *number += 1;
        }
        speech
    }
}

/// The number and its sum; and with bytes, some more that are not looked at.
fn body(way: &Way, number: u32, random: &mut Random) -> Vec<u8> {
    if way.at.is_none() {
        return format!("{number},{}", sum(number)).into_bytes();
    }
    let more = (0..random.below(24)).map(|_| random.byte());
    number.to_be_bytes().into_iter().chain(sum(number).to_be_bytes()).chain(more).collect()
}

/// A number that nobody finds by chance.
fn sum(number: u32) -> u32 {
    let mixed = (number ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77)
}

/// The number of a reading, if its sum is right.
fn number_of(points: &[Point]) -> Option<u32> {
    let value = |name: &str| {
        let point = points.iter().find(|point| point.name.as_str() == name)?;
        let Value::Integer(number) = point.value else { return None };
        u32::try_from(number).ok()
    };
    let number = value("n")?;
    (value("sum")? == sum(number)).then_some(number)
}

fn say(far: &Path, parts: &[Vec<u8>], pause: Option<Duration>) -> Result<()> {
    let mut line = OpenOptions::new().write(true).open(far).context("open the line")?;
    for part in parts {
        line.write_all(part)?;
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
    }
    Ok(())
}

/// Says one frame again and again until the adapter has it, so that nothing is lost to its coming back.
fn await_adapter(adapter: &mut FieldAdapter, way: &Way, far: &Path) -> Result<()> {
    let began = Instant::now();
    let frame = (way.encode)(&body(way, 0, &mut Random::new(0)));
    loop {
        ensure!(began.elapsed() < PATIENCE, "{}: the adapter does not come back", way.name);
        say(far, std::slice::from_ref(&frame), None)?;
        while let Some(captured) = adapter.next_within(Duration::from_millis(200))? {
            if let Captured::Reading { reading, .. } = captured
                && number_of(&reading.points) == Some(0)
            {
                // Those that are still on their way are known by their number.
                return Ok(());
            }
        }
    }
}

/// With its check behind it, low byte first.
fn checked(mut frame: Vec<u8>) -> Vec<u8> {
    let check = rtu::crc(&frame);
    frame.extend(check.to_le_bytes());
    frame
}

fn cobs(plain: &[u8]) -> Vec<u8> {
    // Frames here are shorter than 254 bytes: each block ends at a zero or at the end.
    let blocks = plain.split(|byte| *byte == 0);
    let code = |block: &[u8]| u8::try_from(block.len() + 1).unwrap_or(u8::MAX);
    let mut coded: Vec<u8> =
        blocks.flat_map(|block| std::iter::once(code(block)).chain(block.iter().copied())).collect();
    coded.push(0);
    coded
}

fn slip(plain: &[u8]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(plain.len() + 2);
    for byte in plain {
        match byte {
            0xC0 => coded.extend([0xDB, 0xDC]),
            0xDB => coded.extend([0xDB, 0xDD]),
            other => coded.push(*other),
        }
    }
    coded.push(0xC0);
    coded
}
