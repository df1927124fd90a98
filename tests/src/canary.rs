//! Secrets that must not be found: looked for in every form in which programs write bytes down.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;
use regex::bytes::{RegexSet, RegexSetBuilder};

/// Bytes of a piece of a long secret that is looked for: no chance finds as many.
const PIECE: usize = 24;
/// Pieces of one secret that are looked for, at most.
const PIECES: usize = 4;
/// Least bytes of a secret: in base64 a few at its ends depend on what is beside it.
const LEAST: usize = 12;

/// What is looked for.
#[derive(Default)]
pub struct Canaries {
    names: Vec<String>,
    patterns: Vec<String>,
}

impl Canaries {
    /// Looks for these bytes: as they are, in hex, in base64 at each of its three alignments, standard and for URLs.
    ///
    /// # Errors
    /// They are too few to be told from chance.
    pub fn add(&mut self, name: &str, secret: &[u8]) -> Result<()> {
        ensure!(secret.len() >= LEAST, "{name} is too short to be looked for");
        for form in forms(secret) {
            self.names.push(name.to_owned());
            self.patterns.push(form.iter().map(|byte| format!("\\x{byte:02x}")).collect());
        }
        Ok(())
    }

    /// Looks for some pieces of these bytes, from beginning to end.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_pieces(&mut self, name: &str, secret: &[u8]) -> Result<()> {
        let pieces = secret.chunks_exact(PIECE);
        let apart = pieces.len().div_ceil(PIECES).max(1);
        pieces.step_by(apart).try_for_each(|piece| self.add(name, piece))
    }

    /// The names of those that are in a file under `folder`, each with the file. Lines are also read as one, as keys in
    /// PEM are written.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn found(&self, folder: &Path) -> Result<Vec<String>> {
        let set = RegexSetBuilder::new(&self.patterns).unicode(false).size_limit(1 << 28).build()?;
        let mut found = Vec::new();
        self.look(&set, folder, &mut found)?;
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn look(&self, set: &RegexSet, folder: &Path, found: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.look(set, &path, found)?;
                continue;
            }
            let bytes = fs::read(&path)?;
            let joined: Vec<u8> = bytes.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
            for text in [&bytes, &joined] {
                let names = set.matches(text).into_iter().map(|at| &self.names[at]);
                found.extend(names.map(|name| format!("{name} in {}", path.display())));
            }
        }
        Ok(())
    }
}

/// How bytes may be written down.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec(), hex::encode(secret).into(), hex::encode_upper(secret).into()];
    for alphabet in [STANDARD, URL_SAFE] {
        forms.extend((0..3).map(|before| base64(&alphabet, before, secret)));
    }
    forms.sort();
    forms.dedup();
    forms
}

/// What is in base64 of these bytes alone, behind so many others.
fn base64(alphabet: &Alphabet, before: usize, secret: &[u8]) -> Vec<u8> {
    let all = [vec![0; before], secret.to_vec()].concat();
    let text = GeneralPurpose::new(alphabet, NO_PAD).encode(&all).into_bytes();
    text[(before * 8).div_ceil(6)..all.len() * 8 / 6].to_vec()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let secret: Vec<u8> = (0..60).map(|n: u8| n.wrapping_mul(73).wrapping_add(200)).collect();
        let mut canaries = Canaries::default();
        canaries.add_pieces("key", &secret).unwrap();
        assert!(canaries.add("short", b"short").is_err());
        let within = |before: usize| [&vec![7; before], secret.as_slice(), b"behind"].concat();
        let mut forms = vec![within(5), hex::encode(&secret).into(), hex::encode_upper(&secret).into()];
        for before in 0..3 {
            forms.push(STANDARD.encode(within(before)).into());
            forms.push(URL_SAFE_NO_PAD.encode(within(before)).into());
        }
        let wrapped = STANDARD.encode(&secret);
        forms.push(format!("{}\r\n{}", &wrapped[..16], &wrapped[16..]).into());
        let path = folder.path().join("below/file");
        fs::create_dir(path.parent().unwrap()).unwrap();
        for form in forms {
            fs::write(&path, form).unwrap();
            assert_eq!(canaries.found(folder.path()).unwrap(), [format!("key in {}", path.display())]);
        }
        fs::write(&path, &secret[..PIECE - 1]).unwrap();
        assert!(canaries.found(folder.path()).unwrap().is_empty());
    }
}
