//! What programs of ours send each other to be sure of who it was.

use std::sync::LazyLock;

use at_protocol::caps::{Caps, Claims, Enrolment, PairStatement, Trusted};
use at_protocol::crypto::envelope::{self, About};
use at_protocol::crypto::{AesKey, Ed25519Secret};
use at_protocol::{AtSign, KeyName, Timestamp};
use zeroize::Zeroizing;

/// The names under which everything here was sent.
struct Place {
    from: AtSign,
    to: AtSign,
    name: KeyName,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| Place {
    from: "@gw".parse().expect("an atSign"),
    to: "@ops".parse().expect("an atSign"),
    name: "process.oven.tel.plant7".parse().expect("a key name"),
});

fn pair() -> AesKey {
    AesKey::from_bytes([7; 32])
}

/// Only what was sealed opens. Of the corpus that is one content, compressed or not.
pub(super) fn envelope(input: &[u8]) {
    let Place { from, to, name } = &*PLACE;
    let about = About { from, to, name, id: "ae1-1" };
    if let Ok(plain) = envelope::open(&pair(), &about, input) {
        assert!(envelope::is_envelope(input));
        assert!(plain.starts_with(b"62.1"), "a forgery");
    }
}

/// What is understood is written so that it is understood as the same, and proves nothing by itself.
pub(super) fn caps(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert!(text.parse::<Trusted>().is_err(), "a forgery");
    let Ok(caps) = Caps::parse(text) else { return };
    assert_eq!(Caps::parse(&caps.to_json()), Ok(caps));
}

/// The same for a statement, of which one alone proves anything.
pub(super) fn pair_statement(input: &[u8]) {
    static GENUINE: LazyLock<(PairStatement, Caps)> = LazyLock::new(|| {
        let program = Ed25519Secret::from_seed(&Zeroizing::new([1; 32]));
        let end = Timestamp::from_millis(4_000_000_000_000);
        let Place { from, to, .. } = &*PLACE;
        let own = Enrolment { id: "owner".to_owned(), name: "agent".to_owned(), sign: program.public() };
        let caps = Caps::joined(None, from.clone(), own, Claims::default(), 1, end);
        (PairStatement::sign(&program, (from.clone(), to.clone()), pair().digest(), 7, end), caps)
    });
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(statement) = PairStatement::parse(text) else { return };
    assert_eq!(PairStatement::parse(&statement.to_json()).as_ref(), Ok(&statement));
    let (genuine, caps) = &*GENUINE;
    if statement.proves(caps, &PLACE.to, &pair(), Timestamp::from_millis(0)) {
        assert_eq!(statement, *genuine, "a forgery");
    }
}
