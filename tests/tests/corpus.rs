//! Replays the committed corpus of every fuzz target, and mutations of it that are the same every time.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use atedge_tests::fuzz::TARGETS;
use atedge_tests::random::Random;

/// Mutations of each file.
const MUTATIONS: u64 = 400;
/// Longer files are replayed as they are only.
const LONGEST_MUTATED: usize = 8 * 1024;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn seeds(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = corpus(target);
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    let seeds = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    ensure!(!seeds.is_empty(), "{target} has an empty corpus");
    Ok(seeds)
}

/// One small thing made wrong, a few times over.
fn mutate(input: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const TOKENS: &[&[u8]] =
        &[b":", b"@", b"\n", b"\0", b"\xff", b"null", b"-1", b"99999999999999999999", b"\"", b"{"];
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.place(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 => {
                let other = &others[random.place(others.len())];
                let from = random.place(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let token = TOKENS[random.place(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn no_target_fails_on_the_corpus_or_near_it() -> Result<()> {
    for (number, (name, target)) in (0..).zip(TARGETS) {
        let seeds = seeds(name)?;
        let mut random = Random::new(number);
        for seed in &seeds {
            target(seed);
            if seed.len() <= LONGEST_MUTATED {
                for _ in 0..MUTATIONS {
                    target(&mutate(seed, &seeds, &mut random));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_target_can_be_fuzzed() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))?;
    for (name, _) in TARGETS {
        let file = folder.join(format!("fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(text.contains(&format!("run(\"{name}\", data)")), "{} runs another target", file.display());
        ensure!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
    Ok(())
}
