//! The proof at the demo's end: no file of a server holds what the devices said.
//!
//! A canary is a word of at least 16 bytes that travels inside the readings. Its plaintext would show up in
//! a server's files as it is, in hex, or in base64; in base64 a word looks different at each of the three
//! places where it can fall in a group of three bytes.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;

/// Least length of a canary, in bytes: shorter ones could occur by chance.
pub const MIN_CANARY: usize = 16;

/// What the search of some folders came to.
#[derive(Debug, Default)]
pub struct Findings {
    /// Files that were read, whole.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Where a canary was found, and in which form.
    pub hits: Vec<(PathBuf, &'static str)>,
}

/// Reads every file under `folders` and looks for each canary in every form.
///
/// # Errors
/// A file cannot be read, or a canary is shorter than [`MIN_CANARY`]: a search that left something out
/// would prove nothing.
pub fn search(folders: &[&Path], canaries: &[String]) -> io::Result<Findings> {
    let mut forms = Vec::new();
    for canary in canaries {
        if canary.len() < MIN_CANARY {
            return Err(io::Error::other(format!(
                "the canary {canary:?} is shorter than {MIN_CANARY} bytes"
            )));
        }
        forms.extend(forms_of(canary.as_bytes()));
    }
    let finders: Vec<_> = forms.iter().map(|(form, needle)| (*form, Finder::new(needle))).collect();
    let mut findings = Findings::default();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            continue;
        }
        let content = std::fs::read(&path)?;
        findings.files += 1;
        findings.bytes += content.len() as u64;
        for (form, finder) in &finders {
            if finder.find(&content).is_some() {
                findings.hits.push((path.clone(), form));
            }
        }
    }
    Ok(findings)
}

/// The byte strings as which `word` would stand in a file.
fn forms_of(word: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        ("plain", word.to_vec()),
        ("hex", hex::encode(word).into_bytes()),
        ("hex", hex::encode_upper(word).into_bytes()),
    ];
    for before in 0..3 {
        let shifted = [&[0; 2][..before], word].concat();
        // What stands before shares its bits with the first characters, what stands after with the last.
        let first = (before * 8).div_ceil(6);
        let last = shifted.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            forms.push(("base64", engine.encode(&shifted).as_bytes()[first..last].to_vec()));
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary-0123456789";

    fn hits(content: &[u8]) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("store.db-wal"), content).unwrap();
        let findings = search(&[folder.path()], &[CANARY.to_owned()]).unwrap();
        assert_eq!((findings.files, findings.bytes), (1, content.len() as u64));
        findings.hits.into_iter().map(|(_, form)| form).collect()
    }

    #[test]
    fn every_form_is_found_wherever_it_falls() {
        assert_eq!(hits(format!("x{CANARY}y").as_bytes()), ["plain"]);
        assert_eq!(hits(hex::encode(CANARY).as_bytes()), ["hex"]);
        for before in 0..7 {
            for after in 0..4 {
                let plain = [&[b'p'; 7][..before], CANARY.as_bytes(), &[b's'; 4][..after]].concat();
                for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    let found = hits(engine.encode(&plain).as_bytes());
                    assert!(found.contains(&"base64"), "{before} bytes before, {after} after");
                }
            }
        }
    }

    #[test]
    fn other_content_is_not_found() {
        assert!(hits(b"canary-012345678").is_empty());
        assert!(hits(&[0xff; 4096]).is_empty());
        assert!(search(&[], &["short".to_owned()]).is_err());
    }
}
