//! What clients, nodes and other directories say to a directory.

use std::sync::LazyLock;

use at_protocol::Timestamp;
use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{Grant, Location, Pattern, Registrar, Registrars, SignedRecord, registration};
use atedge_directory::follow::Line;
use atedge_directory::wire::{Conversation, Dialect, Known, Step, registered};
use zeroize::Zeroizing;

/// The first byte says which dialect, and how long each read is.
pub(super) fn directory_session(input: &[u8]) {
    let Some((first, said)) = input.split_first() else { return };
    let dialect = if first & 1 == 0 { Dialect::Classic } else { Dialect::Extended };
    let mut conversation = Conversation::new(dialect);
    for read in said.chunks(usize::from(first >> 1) + 1) {
        conversation.read(read);
        let mut lines = 0;
        loop {
            let mut out = Vec::new();
            let find = |name: &str, out: &mut Vec<u8>| match name {
                "alice" => {
                    out.extend_from_slice(b"host.example:6464");
                    Known::Here
                }
                "far" => Known::Elsewhere("@far".parse().expect("an atSign")),
                _ => Known::Nowhere,
            };
            match conversation.next(find, &mut out) {
                Step::Read => break,
                Step::Answered | Step::Hold { is_last: false, .. } => {}
                Step::Ask(_) => drop(conversation.heard(Some("far.example:1"), &mut out)),
                Step::Record(_) => drop(conversation.heard(None, &mut out)),
                Step::Register(record) => {
                    // What it says is a line that says the same.
                    let line = registration(&record);
                    assert_eq!(line["register:".len()..].trim_end().parse().ok(), Some(*record));
                    registered(&Ok(1), &mut out);
                }
                Step::Hold { is_last: true, .. } | Step::Close => return,
            }
            assert!(out.is_empty() || out.ends_with(b"\r\n@"), "{}", String::from_utf8_lossy(&out));
            assert!(out.iter().filter(|byte| **byte == b'\n').count() <= 1, "one line for one line");
            lines += 1;
            assert!(lines <= read.len() + 1, "more answers than lines");
        }
    }
}

/// Nothing but what was signed is believed.
pub(super) fn signed_record(input: &[u8]) {
    static GENUINE: LazyLock<(SignedRecord, Registrars)> = LazyLock::new(|| {
        let [registrar, node] = [1, 2].map(|first| Ed25519Secret::from_seed(&Zeroizing::new([first; 32])));
        let atsigns: Vec<Pattern> = vec!["@plant7*".parse().expect("a pattern")];
        let not_after = Timestamp::from_millis(4_000_000_000_000);
        let grant = Grant::sign(&registrar, node.public(), atsigns.clone(), not_after);
        let address = "node.example:6464".parse().expect("an address");
        let at = Location { address, quic: 6464, seq: 7, not_after };
        let record = SignedRecord::sign(&node, "@plant7gw1".parse().expect("an atSign"), at, grant);
        (record, Registrars::new(vec![Registrar { key: registrar.public(), atsigns }]))
    });
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(record) = text.parse::<SignedRecord>() else { return };
    assert_eq!(record.to_string().parse().ok().as_ref(), Some(&record));
    let (genuine, registrars) = &*GENUINE;
    if let Ok(believed) = registrars.verify(record, Timestamp::from_millis(0)) {
        assert_eq!(*believed, *genuine, "a forgery");
    }
}

/// A line of a directory that is followed is written as it was read.
pub(super) fn follow_line(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(line) = text.parse::<Line>() {
        let again = line.to_string();
        assert!(!again.contains('\n'), "{again:?}");
        assert_eq!(again.parse::<Line>().as_ref(), Ok(&line));
    }
}
