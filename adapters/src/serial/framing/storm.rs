//! Every framing in a storm: good frames among garbage, cuts and bit flips. Seeded, so that what fails
//! fails again.

use std::collections::HashSet;

use super::{FrameError, Framer, Framing, cobs, slip};
use crate::serial::check::CheckKind;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn within(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }

    fn bytes(&mut self, least: usize, most: usize) -> Vec<u8> {
        (0..self.within(least, most)).map(|_| self.byte()).collect()
    }
}

/// A framing, and how a device speaks it.
struct Speech {
    framing: &'static str,
    check: CheckKind,
    /// The bytes that begin every frame, which noise likes to contain.
    sync: &'static [u8],
    /// The smallest and largest body.
    body: (usize, usize),
    /// What of a body stands in the frame before its check.
    dressed: fn(&[u8]) -> Vec<u8>,
    /// What the wire makes of a frame with its check.
    wired: fn(Vec<u8>) -> Vec<u8>,
    /// What has to stand before a frame so that it is one.
    step: Step,
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Anything,
    Byte(u8),
    Silence,
}

const SYNC: &[u8] = b"\xaa\x55";

fn length_before(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap() + 2;
    [SYNC, &length.to_le_bytes(), body].concat()
}

fn sync_before(body: &[u8]) -> Vec<u8> {
    [SYNC, body].concat()
}

fn speeches() -> [Speech; 8] {
    let plain = Speech {
        framing: "",
        check: CheckKind::Crc16Modbus,
        sync: b"",
        body: (4, 40),
        dressed: <[u8]>::to_vec,
        wired: |frame| frame,
        step: Step::Anything,
    };
    [
        Speech {
            framing: "kind = \"length\"\nat = 2\nsize = 2\nadds = 4\nendian = \"little\"\nsync = \"hex:aa55\"\nmax = 64",
            sync: SYNC,
            dressed: length_before,
            ..plain
        },
        Speech {
            framing: "kind = \"length\"\nat = 2\nsize = 1\nadds = 5\nsync = \"hex:aa55\"\nmax = 300",
            sync: SYNC,
            dressed: |body| [SYNC, &[u8::try_from(body.len()).unwrap()], body].concat(),
            ..plain
        },
        Speech {
            framing: "kind = \"fixed\"\nsize = 16\nsync = \"hex:aa55\"",
            check: CheckKind::Crc16Ccitt,
            sync: SYNC,
            body: (12, 12),
            dressed: sync_before,
            ..plain
        },
        Speech { framing: "kind = \"fixed\"\nsize = 14", body: (12, 12), ..plain },
        Speech { framing: "kind = \"idle\"\ngap = \"5ms\"\nmax = 64", step: Step::Silence, ..plain },
        Speech {
            framing: "kind = \"cobs\"\nmax = 64",
            wired: |frame| [cobs::encode(&frame), vec![0]].concat(),
            step: Step::Byte(0),
            ..plain
        },
        Speech {
            framing: "kind = \"slip\"\nmax = 64",
            check: CheckKind::Crc16Ccitt,
            wired: |frame| [slip::encode(&frame), vec![slip::END]].concat(),
            step: Step::Byte(slip::END),
            ..plain
        },
        Speech {
            framing: "kind = \"delimiter\"\nstart = \"<\"\nend = \"\\r\\n\"\nmax = 90",
            check: CheckKind::None,
            sync: b"<",
            dressed: |body| body.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
            wired: |frame| [b"<", &frame[..], b"\r\n"].concat(),
            ..plain
        },
    ]
}

/// What a device and the noise on its line have said, and what is to be heard of it.
#[derive(Default)]
struct Said {
    /// Bytes between two silences.
    stretches: Vec<Vec<u8>>,
    /// Frames that came whole, where reading could be in step.
    whole: Vec<Vec<u8>>,
    /// Frames of which whole or in part something was said: to hear them is no mistake.
    known: HashSet<Vec<u8>>,
}

impl Speech {
    fn frame(&self, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
        let dressed = (self.dressed)(&random.bytes(self.body.0, self.body.1));
        (dressed.clone(), (self.wired)(self.check.sealed(&dressed)))
    }

    fn say(&self, pieces: usize, random: &mut Random) -> Said {
        let mut said = Said { stretches: vec![vec![]], ..Said::default() };
        for _ in 0..pieces {
            let (frame, mut wire) = self.frame(random);
            match random.below(10) {
                0 => {
                    wire = random.bytes(1, 60);
                    let syncs = random.below(3);
                    (0..syncs).for_each(|_| {
                        let at = random.below(wire.len());
                        wire.splice(at..at, self.sync.iter().copied());
                    });
                }
                1 => {
                    let bit = random.below(wire.len() * 8);
                    wire[bit / 8] ^= 1 << (bit % 8);
                }
                2 => {
                    wire.truncate(random.within(1, wire.len() - 1));
                    said.known.insert(frame);
                }
                3 => {
                    wire.drain(..random.within(1, wire.len() - 1));
                    said.known.insert(frame);
                }
                4 => {
                    wire.insert(random.below(wire.len()), random.byte());
                    said.known.insert(frame);
                }
                _ => {
                    let before = said.stretches.last().unwrap();
                    let in_step = match self.step {
                        Step::Anything => true,
                        Step::Byte(byte) => before.last().is_none_or(|last| *last == byte),
                        Step::Silence => before.is_empty(),
                    };
                    said.known.insert(frame.clone());
                    if in_step {
                        said.whole.push(frame);
                    }
                }
            }
            let stretch = said.stretches.last_mut().unwrap();
            stretch.extend(&wire);
            if self.step == Step::Silence {
                said.stretches.push(vec![]);
            }
        }
        said
    }

    fn framer(&self) -> Framer {
        let framing: Framing = toml::from_str(self.framing).unwrap();
        framing.check(self.check).unwrap();
        let mut framer = Framer::new(&framing, self.check);
        framer.silence(|_| panic!("nothing was said"));
        framer
    }

    fn hear(&self, said: &Said, most: usize, random: &mut Random) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut framer = self.framer();
        let mut heard = Vec::new();
        for stretch in &said.stretches {
            let mut rest = &stretch[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(random.within(1, most.min(rest.len())));
                framer.read(now, |frame| heard.push(frame.map(<[u8]>::to_vec)));
                rest = later;
                assert!(framer.held() < 2048);
            }
            framer.silence(|frame| heard.push(frame.map(<[u8]>::to_vec)));
        }
        heard
    }

    /// How many places in what was said might have been taken for a frame.
    fn candidates(&self, said: &Said, heard: &[Result<Vec<u8>, FrameError>]) -> usize {
        match (self.step, self.sync) {
            (Step::Anything, b"") => said.stretches.iter().map(Vec::len).sum(),
            (Step::Anything, sync) => said
                .stretches
                .iter()
                .map(|stretch| stretch.windows(sync.len()).filter(|part| part == &sync).count())
                .sum(),
            (Step::Byte(_) | Step::Silence, _) => heard.len(),
        }
    }
}

#[test]
fn frames_come_through_the_storm() {
    for (seed, speech) in (1..).zip(speeches()) {
        let mut random = Random(seed);
        let said = speech.say(40_000, &mut random);
        let heard = speech.hear(&said, 64, &mut random);
        let frames: Vec<_> = heard.iter().flatten().collect();
        let false_frames = frames.iter().filter(|frame| !said.known.contains(**frame)).count();
        let mut later = frames.iter().peekable();
        let missed = said.whole.iter().filter(|whole| {
            let known = later.clone().position(|frame| *frame == *whole);
            known.inspect(|passed| _ = later.nth(*passed)).is_none()
        });
        let missed = missed.count();
        let candidates = speech.candidates(&said, &heard);
        println!(
            "{}: {} whole of {} heard, {missed} missed, {false_frames} false of {candidates}",
            speech.framing.replace('\n', ", "),
            said.whole.len(),
            frames.len(),
        );
        if speech.check != CheckKind::None {
            let due = candidates as f64 / 65_536.0;
            assert!(false_frames as f64 <= due + 3.0 * due.sqrt() + 1.0, "{false_frames} of {candidates}");
        }
        // A false frame may lie over whole ones.
        assert!(missed <= if speech.check == CheckKind::None { 0 } else { 2 * false_frames }, "{missed}");
    }
}

#[test]
fn cuts_change_nothing() {
    for (seed, speech) in (100..).zip(speeches()) {
        let mut random = Random(seed);
        let said = speech.say(500, &mut random);
        let whole = speech.hear(&said, usize::MAX, &mut random);
        for most in [1, 2, 7, 300] {
            let cut = speech.hear(&said, most, &mut random);
            assert!(cut == whole, "{} in pieces of up to {most}", speech.framing);
        }
    }
}

#[test]
fn endless_noise_takes_no_memory() {
    for (seed, speech) in (200..).zip(speeches()) {
        let mut random = Random(seed);
        let noises = [random.bytes(1024, 1024), vec![0x55; 1024], vec![0; 1024], speech.sync.repeat(512)];
        for noise in noises {
            let mut framer = speech.framer();
            for _ in 0..200 {
                framer.read(&noise, |_| {});
                assert!(framer.held() < 512, "{}: {} bytes", speech.framing, framer.held());
            }
        }
    }
}
