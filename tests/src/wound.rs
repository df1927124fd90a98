//! Files that are damaged while nobody looks.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::random::Random;

/// Hurts a file: flips 1 to 64 bits, cuts it, or empties it; says what it did.
///
/// # Errors
/// It cannot be read or written.
pub fn wound(file: &Path, random: &mut Random) -> Result<String> {
    let mut bytes = fs::read(file)?;
    let what = match random.below(10) {
        0 => {
            bytes.clear();
            "emptied".to_owned()
        }
        1 | 2 => {
            let length = random.place(bytes.len());
            bytes.truncate(length);
            format!("cut to {length} bytes")
        }
        _ => {
            let bits = 1 + random.below(64);
            for _ in 0..bits {
                let at = random.place(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            format!("{bits} bits flipped")
        }
    };
    fs::write(file, bytes)?;
    Ok(what)
}

/// Makes the files of one folder those of another.
///
/// # Errors
/// One cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(to)? {
        fs::remove_file(entry?.path())?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name())).context("copy the store")?;
    }
    Ok(())
}
