//! No padding oracle: whatever is wrong with a wrapped key, opening what came with it fails alike and takes
//! as long (Bleichenbacher, CRYPTO '98). Only those who hold keys open anything, which servers do not, so
//! the road under test is the clients': unwrap, then open.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use at_protocol::crypto::{AesKey, Iv, RsaPrivateKey, open};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use num_bigint::BigUint;

use crate::random::Random;
use crate::scenario::Run;

/// Bytes of a modulus of 2048 bits, and of all that is encrypted with it.
const SIZE: usize = 256;
/// Above this the difference of two means is no chance: the threshold of leakage tests (ISO/IEC 17825).
const TELLING: f64 = 4.5;
/// Times beyond this share are the machine's own doing and say nothing about the code.
const KEPT: f64 = 0.9;
/// What the sabotaged road does more for a well-formed key: some tens of microseconds.
const LEAK: usize = 64 * 1024;

/// Makes a block to encrypt.
type Make = fn(&mut Random) -> Vec<u8>;

/// What is encrypted: the last is well-formed, all others are not.
const CLASSES: [(&str, Make); 6] = [
    ("another block type", |random| block(random, [0, 1], BASE64.encode([7; 32]).as_bytes())),
    ("no end of the padding", |random| padding(random, [0, 2], SIZE - 2)),
    ("an empty message", |random| block(random, [0, 2], b"")),
    ("a key that is too short", |random| block(random, [0, 2], BASE64.encode([7; 16]).as_bytes())),
    ("no base64", |random| block(random, [0, 2], &[b'~'; 44])),
    ("a good key", |random| {
        let key: Vec<u8> = (0..32).map(|_| random.byte()).collect();
        block(random, [0, 2], BASE64.encode(key).as_bytes())
    }),
];

/// The road as it is, and one that does more for good keys, which must be told apart.
///
/// # Errors
/// Two classes can be told apart, or the sabotage is not noticed.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let samples = if run.long { 100_000 } else { 2_000 };
    let exam = Exam::new(&mut run.random())?;
    let honest = exam.strongest(samples, &mut run.random(), false)?;
    run.note("samples_per_class", samples);
    run.note("strongest_t", (honest * 100.0).round() / 100.0);
    let leaky = exam.strongest(2_000, &mut run.random(), true)?;
    run.note("strongest_t_sabotaged", (leaky * 100.0).round() / 100.0);
    ensure!(leaky > TELLING, "the leak was not noticed: t = {leaky:.1}");
    ensure!(honest < TELLING, "two classes of bad keys take different times: t = {honest:.1}");
    Ok(())
}

struct Exam {
    key: RsaPrivateKey,
    modulus: BigUint,
    /// Something sealed under a key that no ciphertext holds.
    sealed: String,
    nonce: String,
}

impl Exam {
    fn new(random: &mut Random) -> Result<Self> {
        let key = RsaPrivateKey::generate();
        let spki = BASE64.decode(key.public().to_base64())?;
        // The modulus stands before the exponent 65537, which is five bytes in DER (RFC 8017, A.1.1).
        let end = spki.len() - 5;
        let modulus = BigUint::from_bytes_be(&spki[end - SIZE..end]);
        let iv = Iv::from_bytes(std::array::from_fn(|_| random.byte()));
        let sealed = AesKey::from_bytes([9; 32]).encrypt(&iv, b"sixteen bytes ok");
        Ok(Self { key, modulus, sealed, nonce: iv.to_base64() })
    }

    /// The strongest sign, over all pairs of classes, that two of them can be told apart.
    fn strongest(&self, samples: usize, random: &mut Random, leaks: bool) -> Result<f64> {
        let mut times: Vec<Vec<f64>> = vec![Vec::with_capacity(samples); CLASSES.len()];
        for _ in 0..samples {
            // Neighbours in time are of all classes, in an order that nobody knows.
            let mut order: Vec<usize> = (0..CLASSES.len()).collect();
            for last in (1..order.len()).rev() {
                order.swap(last, random.place(last + 1));
            }
            for class in order {
                let wrapped = self.wrapped(&(CLASSES[class].1)(random));
                let leak = leaks && class + 1 == CLASSES.len();
                times[class].push(self.time(&wrapped, leak).context(CLASSES[class].0)?);
            }
        }
        let mut all: Vec<f64> = times.iter().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        let most = quantile(&all, KEPT);
        for class in &mut times {
            class.retain(|time| *time <= most);
        }
        let pairs = (0..times.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        Ok(pairs.map(|(one, other)| welch(&times[one], &times[other]).abs()).fold(0.0, f64::max))
    }

    /// The time of one whole attempt, in microseconds; a class must not show in how it ends, either.
    fn time(&self, wrapped: &str, leak: bool) -> Result<f64> {
        let began = Instant::now();
        let key = self.key.unwrap_key(wrapped);
        if leak {
            std::hint::black_box(at_protocol::crypto::cram_digest(&"x".repeat(LEAK), "y"));
        }
        let opened = key.as_ref().map(|key| open(key, Some(&self.nonce), &self.sealed));
        let took = began.elapsed().as_secs_f64() * 1e6;
        // One in 256 wrong keys gives bytes that look padded; whether the unwrapping failed never shows.
        ensure!(opened.is_ok(), "unwrapping said that it failed");
        Ok(took)
    }

    fn wrapped(&self, block: &[u8]) -> String {
        let number = BigUint::from_bytes_be(block).modpow(&BigUint::from(65_537_u32), &self.modulus);
        let bytes = number.to_bytes_be();
        let mut whole = vec![0; SIZE - bytes.len()];
        whole.extend(bytes);
        BASE64.encode(whole)
    }
}

/// PKCS#1 v1.5 (RFC 8017, 7.2.1): two bytes of type, padding without a zero, a zero, the message.
fn block(random: &mut Random, kind: [u8; 2], message: &[u8]) -> Vec<u8> {
    let mut block = padding(random, kind, SIZE - 3 - message.len());
    block.push(0);
    block.extend(message);
    block
}

fn padding(random: &mut Random, kind: [u8; 2], length: usize) -> Vec<u8> {
    kind.into_iter().chain((0..length).map(|_| random.byte().max(1))).collect()
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    let place = (sorted.len() as f64 * share) as usize;
    sorted[place.min(sorted.len() - 1)]
}

/// Welch's t: the difference of two means in units of its own uncertainty.
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let moments = |times: &[f64]| {
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((mean, noise), (other_mean, other_noise)) = (moments(one), moments(other));
    (mean - other_mean) / (noise + other_noise).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_and_chance_does_not() {
        let around = |middle: f64| (0..1000).map(|i| middle + f64::from(i % 10)).collect::<Vec<_>>();
        assert!(welch(&around(5.0), &around(5.0)).abs() < 1e-9);
        assert!(welch(&around(5.0), &around(6.0)).abs() > TELLING);
    }

    #[test]
    fn blocks_are_as_long_as_the_modulus() {
        for (name, make) in CLASSES {
            assert_eq!(make(&mut Random::new(1)).len(), SIZE, "{name}");
        }
    }
}
