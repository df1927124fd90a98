//! Many atSigns at once, from lines of text: `@name host:port`.

use std::io::{self, BufRead};

use at_protocol::directory::Address;
use at_protocol::{AtSign, Timestamp};

use crate::registry::{Database, Put, RegistryError, Say};

/// Lines in one transaction: enough that its commit costs little, and few enough that others need not wait.
const BATCH: usize = 4096;
/// Bytes of the longest line that can make sense, with room for blanks.
const LONGEST_LINE: usize = 1024;
/// Bad lines that are told; more are only counted.
const MOST_TOLD: usize = 20;

/// What became of the lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Lines that are in the registry.
    pub taken: u64,
    /// Lines that are not, as they make no sense or a signed record says otherwise.
    pub bad: u64,
    /// The first of the bad ones.
    pub told: Vec<BadLine>,
}

/// A line that is left out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// Counted from 1.
    pub line: u64,
    /// Why.
    pub why: String,
}

/// Why an import did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The lines cannot be read.
    #[error("cannot read on after line {line}: {source}; {taken} lines are in the registry")]
    Read {
        /// The last that was read.
        line: u64,
        /// How many are in.
        taken: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The registry takes no more.
    #[error("{source}; {taken} lines are in the registry")]
    Registry {
        /// How many are in.
        taken: u64,
        /// Why no more.
        source: RegistryError,
    },
}

/// Puts all lines into the registry, some thousand at a time. Empty lines and those that begin with `#` say
/// nothing; bad ones are left out, and, but with [`Say::Anyway`], those of atSigns that have a signed record.
/// `progress` is told how many are in, again and again.
///
/// # Errors
/// When the lines cannot be read or the registry refuses: what went in before stays.
pub fn import(
    mut lines: impl BufRead,
    database: &mut Database,
    say: Say,
    mut progress: impl FnMut(u64),
) -> Result<Imported, ImportError> {
    let mut imported = Imported::default();
    let (mut batch, mut numbers) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let (mut line, mut bytes) = (0, Vec::new());
    loop {
        let is_last = !next_line(&mut lines, &mut bytes).map_err(|source| ImportError::Read {
            line,
            taken: imported.taken,
            source,
        })?;
        line += u64::from(!is_last);
        match parse(&bytes) {
            Ok(Some(entry)) => {
                batch.push(entry);
                numbers.push(line);
            }
            Ok(None) => {}
            Err(why) => imported.tell(line, why),
        }
        if batch.len() == BATCH || is_last && !batch.is_empty() {
            let put = database.put(&batch, say);
            let put = put.map_err(|source| ImportError::Registry { taken: imported.taken, source })?;
            for ((line, (atsign, _)), put) in numbers.drain(..).zip(batch.drain(..)).zip(put) {
                match put {
                    Put::Done { .. } => imported.taken += 1,
                    Put::Signed { until } => imported.tell(line, is_signed(&atsign, until)),
                }
            }
            progress(imported.taken);
        }
        if is_last {
            return Ok(imported);
        }
    }
}

impl Imported {
    fn tell(&mut self, line: u64, why: String) {
        self.bad += 1;
        if self.told.len() < MOST_TOLD {
            self.told.push(BadLine { line, why });
        }
    }
}

/// Why an operator's word is not taken.
pub fn is_signed(atsign: &AtSign, until: Timestamp) -> String {
    format!("{atsign} has a signed record until {until}, which counts for more; --force overrules it")
}

/// Reads one line into `bytes`; `false` at the end. What is longer than any good line is cut off and dropped.
fn next_line(lines: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    bytes.clear();
    loop {
        let read = lines.fill_buf()?;
        if read.is_empty() {
            return Ok(!bytes.is_empty());
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.map_or(read.len(), |end| end + 1)];
        let room = (LONGEST_LINE + 1).saturating_sub(bytes.len());
        bytes.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len();
        lines.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn parse(line: &[u8]) -> Result<Option<(AtSign, Address)>, String> {
    if line.len() > LONGEST_LINE {
        return Err(format!("it has more than {LONGEST_LINE} bytes"));
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let mut words = text.split_whitespace();
    let (Some(name), Some(address), None) = (words.next(), words.next(), words.next()) else {
        return Err("expected an atSign and HOST:PORT, like @alice host.example:6464".to_owned());
    };
    let atsign = name.parse().map_err(|error| format!("{error}"))?;
    Ok(Some((atsign, address.parse().map_err(|error| format!("{error}"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &[u8]) -> (Imported, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        let imported = import(text, &mut database, Say::Anyway, |_| {}).unwrap();
        let mut all = Vec::new();
        database.list(|atsign, address, _| all.push(format!("{atsign} {address}"))).unwrap();
        (imported, all)
    }

    #[test]
    fn good_lines_go_in_and_bad_ones_are_told_by_number() {
        let (imported, all) = run(b"# fleet\n@alice a.example:1\n\nbob\tb.example:2\r\n@c:d e:1\n@e nowhere\n@f\nx y:1 z\n\xff\n@g g:7");
        assert_eq!(all, ["@alice a.example:1", "@bob b.example:2", "@g g:7"]);
        assert_eq!((imported.taken, imported.bad), (3, 5));
        let told: Vec<String> = imported.told.iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "line 5: an atSign cannot contain ':'");
        assert_eq!(told[1], "line 6: \"nowhere\" is not an address like host.example:6464");
        assert_eq!(told[2], "line 7: expected an atSign and HOST:PORT, like @alice host.example:6464");
        assert_eq!(told[4], "line 9: it is not UTF-8");
    }

    #[test]
    fn more_lines_than_one_transaction_has_go_in() {
        let many: String = (0..BATCH + 1).map(|n| format!("@a{n} h{n}.example:{}\n", n + 1)).collect();
        let (imported, all) = run(many.as_bytes());
        assert_eq!((imported.taken, all.len()), (BATCH as u64 + 1, BATCH + 1));
    }

    #[test]
    fn an_endless_line_is_bad_and_takes_no_memory() {
        let long = [b"@x ".repeat(100_000), b"\n@alice a.example:1\n".to_vec()].concat();
        let (imported, all) = run(&long);
        assert_eq!((imported.bad, imported.told[0].line, all.len()), (1, 1, 1));
    }

    #[test]
    fn many_bad_lines_are_counted_and_some_told() {
        let (imported, _) = run(&b"nonsense\n".repeat(1_000));
        assert_eq!((imported.bad, imported.told.len()), (1_000, MOST_TOLD));
    }
}
