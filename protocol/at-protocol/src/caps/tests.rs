use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::vectors::{private_key, public_key};
use crate::crypto::{AesKey, Ed25519Secret, Hash, RsaPrivateKey};

/// The beginning of time.
fn start() -> Timestamp {
    Timestamp::from_millis(0)
}

fn secret(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

fn own(first: u8) -> Enrolment {
    Enrolment { id: "owner".to_owned(), name: "watch".to_owned(), sign: secret(first).public() }
}

fn gw() -> AtSign {
    "@gw".parse().unwrap()
}

fn ops() -> AtSign {
    "@ops".parse().unwrap()
}

const ALL: Claims = Claims { receipts: true, aead: true, zstd: true };

fn caps(serial: u64) -> Caps {
    Caps::joined(None, ops(), own(1), ALL, serial, start().plus_millis(1000))
}

fn signed_by(owner: &RsaPrivateKey, caps: &str) -> Found {
    Found {
        text: caps.to_owned(),
        signature: owner.sign(caps.as_bytes(), Hash::Sha256),
        owner: owner.public().to_base64().to_owned(),
    }
}

fn found(caps: &Caps) -> Found {
    signed_by(&private_key(), &caps.to_json())
}

fn believed(serial: u64) -> Trusted {
    Trusted::follow(None, Some(found(&caps(serial))), &ops(), start()).unwrap().unwrap()
}

#[test]
fn is_written_as_documented() {
    let text = caps(7).to_json();
    assert_eq!(
        text,
        format!(
            r#"{{"atedge":1,"atsign":"@ops","serial":7,"notAfter":"1970-01-01T00:00:01.000Z","enrolments":[{{"id":"owner","name":"watch","sign":"{}"}}],"receipts":1,"aead":1,"zstd":1}}"#,
            secret(1).public()
        )
    );
    assert_eq!(Caps::parse(&text), Ok(caps(7)));
    // What is not said is not claimed; what is unknown is left alone; a later version includes this one.
    let other = text.replace(r#""receipts":1,"aead":1"#, r#""aead":2,"new":[]"#);
    assert_eq!(Caps::parse(&other).unwrap().claims, Claims { receipts: false, ..ALL });
    for bad in [
        text.replace("\"atedge\":1", "\"atedge\":2"),
        text.replace("owner", &"o".repeat(200)),
        text.replace("\"aead\":1", "\"aead\":true"),
        text.replace(",\"zstd\":1", &format!(",\"pad\":\"{}\"", "x".repeat(MOST_BYTES))),
        String::new(),
    ] {
        assert_eq!(Caps::parse(&bad), Err(InvalidCaps), "{bad}");
    }
}

#[test]
fn only_what_all_programs_can_is_claimed() {
    let mut now = caps(1);
    let less = Claims { zstd: false, ..ALL };
    now = Caps::joined(Some(&now), ops(), own(2), less, 2, start());
    assert_eq!((now.enrolments.len(), now.claims), (2, less));
    // One that stays is not there twice; one that is alone speaks for itself.
    now = Caps::joined(Some(&now), ops(), own(2), ALL, 3, start());
    assert_eq!((now.enrolments.len(), now.claims), (2, less));
    let alone = Caps::joined(Some(&caps(1)), ops(), own(1), less, 2, start());
    assert_eq!((alone.enrolments.len(), alone.claims), (1, less));
    for program in 3..100 {
        now = Caps::joined(Some(&now), ops(), own(program), ALL, 4, start());
    }
    assert_eq!(now.enrolments.len(), MOST_ENROLMENTS);
    assert!(now.has(&secret(99).public()) && !now.has(&secret(1).public()));
    assert_eq!(Caps::parse(&now.to_json()), Ok(now));
}

#[test]
fn a_first_record_is_believed_when_its_own_atsign_signed_it() {
    assert_eq!(Trusted::follow(None, None, &ops(), start()), Ok(None));
    assert_eq!(believed(1).caps(), &caps(1));
    let first = |found: Found, peer: &AtSign, now| Trusted::follow(None, Some(found), peer, now).err();
    let altered = Found { text: found(&caps(1)).text.replace("\"aead\":1", "\"aead\":0"), ..found(&caps(1)) };
    assert_eq!(first(altered, &ops(), start()), Some(CapsFault::Forged));
    assert_eq!(first(found(&caps(1)), &gw(), start()), Some(CapsFault::Forged));
    let other = Found { owner: "no key".to_owned(), ..found(&caps(1)) };
    assert_eq!(first(other, &ops(), start()), Some(CapsFault::Forged));
    assert_eq!(first(signed_by(&private_key(), "21.5"), &ops(), start()), Some(CapsFault::Forged));
    let end = caps(1).not_after;
    assert_eq!(first(found(&caps(1)), &ops(), end), Some(CapsFault::Ended(end)));
}

#[test]
fn what_was_believed_once_binds() {
    let known = believed(5);
    let next = |found: Option<Found>| Trusted::follow(Some(&known), found, &ops(), start());
    assert_eq!(next(Some(found(&caps(5)))), Ok(Some(known.clone())));
    assert_eq!(next(Some(found(&caps(6)))), Ok(Some(believed(6))));
    assert_eq!(next(None), Err(CapsFault::Vanished));
    assert_eq!(next(Some(found(&caps(4)))), Err(CapsFault::Fell { found: 4, known: 5 }));
    let twice = Caps { claims: Claims::default(), ..caps(5) };
    assert_eq!(next(Some(found(&twice))), Err(CapsFault::Fell { found: 5, known: 5 }));
    let other = RsaPrivateKey::generate();
    assert_eq!(next(Some(signed_by(&other, &caps(6).to_json()))), Err(CapsFault::OtherKey));
    let stolen =
        Found { owner: public_key().to_base64().to_owned(), ..signed_by(&other, &caps(6).to_json()) };
    assert_eq!(next(Some(stolen)), Err(CapsFault::Forged));
}

#[test]
fn what_is_on_disk_proves_itself() {
    let line = believed(5).to_string();
    assert_eq!(line.parse(), Ok(believed(5)));
    assert_eq!(
        line.replace("\\\"serial\\\":5", "\\\"serial\\\":4").parse::<Trusted>(),
        Err(CapsFault::Forged)
    );
    assert_eq!("".parse::<Trusted>(), Err(CapsFault::Forged));
}

#[test]
fn a_statement_proves_one_key_of_one_pair_for_its_time() {
    let key = AesKey::from_bytes([7; 32]);
    let pair = (ops(), gw());
    let made = PairStatement::sign(&secret(1), pair.clone(), key.digest(), 1, start().plus_millis(10));
    assert_eq!(PairStatement::parse(&made.to_json()), Ok(made.clone()));
    assert!(made.proves(&caps(1), &gw(), &key, start()));
    assert!(!made.proves(&caps(1), &ops(), &key, start()), "for somebody else");
    assert!(!made.proves(&caps(1), &gw(), &AesKey::from_bytes([8; 32]), start()), "another key");
    assert!(!made.proves(&caps(1), &gw(), &key, start().plus_millis(10)), "over");
    let of_another = Caps { atsign: gw(), ..caps(1) };
    assert!(!made.proves(&of_another, &gw(), &key, start()), "of somebody else");
    let stranger = PairStatement::sign(&secret(2), pair, key.digest(), 1, start().plus_millis(10));
    assert!(!stranger.proves(&caps(1), &gw(), &key, start()), "by a program that is none of theirs");
    let altered = made.to_json().replace("\"serial\":1", "\"serial\":2");
    assert!(!PairStatement::parse(&altered).unwrap().proves(&caps(1), &gw(), &key, start()));
    for bad in ["", "{}", &made.to_json().replace("\"atedge\":1", "\"atedge\":2")] {
        assert_eq!(PairStatement::parse(bad), Err(InvalidStatement));
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text: String) {
        prop_assert!(Caps::parse(&text).is_err() && PairStatement::parse(&text).is_err());
    }

    #[test]
    fn records_come_back(serial: u64, millis in 0..4_000_000_000_000u64, programs in prop::collection::vec(1..60u8, 1..5)) {
        let mut made = caps(serial);
        for program in programs {
            made = Caps::joined(Some(&made), ops(), own(program), ALL, serial, start().plus_millis(millis));
        }
        prop_assert_eq!(Caps::parse(&made.to_json()), Ok(made));
    }
}
