//! Chains of registrar, grant and record, whole and broken.

use zeroize::Zeroizing;

use super::*;
use crate::crypto::{Ed25519Public, Ed25519Secret};
use crate::{AtSign, Timestamp};

const NOW: i64 = 1_795_000_000_000;
const DAY: i64 = 86_400_000;

fn at(days: i64) -> Timestamp {
    Timestamp::from_millis(NOW + days * DAY)
}

fn key(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

fn alice() -> AtSign {
    "@alice".parse().unwrap()
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn grant(registrar: u8, node: u8, atsigns: &[&str]) -> Grant {
    Grant::sign(&key(registrar), key(node).public(), patterns(atsigns), at(30))
}

fn location(seq: u64) -> Location {
    Location { address: "node.example:6464".parse().unwrap(), quic: 6465, seq, not_after: at(7) }
}

fn record(seq: u64) -> SignedRecord {
    SignedRecord::sign(&key(2), alice(), location(seq), grant(1, 2, &["@al*"]))
}

fn trusting(registrar: u8, atsigns: &[&str]) -> Registrars {
    Registrars::new(vec![Registrar { key: key(registrar).public(), atsigns: patterns(atsigns) }])
}

#[test]
fn a_whole_chain_is_believed_and_reads_back() {
    let record = record(3);
    let text = record.to_string();
    assert!(!text.contains('\n') && text.len() < 1000, "{text}");
    assert_eq!(text.parse::<SignedRecord>().unwrap(), record);
    let verified = trusting(1, &["*"]).verify(record.clone(), at(0)).unwrap();
    assert_eq!(
        (verified.node(), verified.quic().to_string()),
        (&key(2).public(), "node.example:6465".into())
    );
    assert!(verified.holds_at(at(6)) && !verified.holds_at(at(7)));
    assert_eq!(registration(&record), format!("register:{text}\n"));
    assert_eq!(record_answer(&format!("{text}\r\n")).unwrap(), Some(record));
    assert_eq!(record_answer("null\r\n").unwrap(), None);
    assert!(record_answer("host.example:6464\r\n").is_err());
    assert_eq!(registration_answer("@ok seq=7\r\n"), Ok(7));
    assert_eq!(registration_answer("error:too old\r\n"), Err(NotRegistered("too old".to_owned())));
    assert_eq!(registration_answer("ok seq=x"), Err(NotRegistered("ok seq=x".to_owned())));
}

#[test]
fn each_broken_link_is_named() {
    let refused = |registrars: &Registrars, record, days| registrars.verify(record, at(days)).unwrap_err();
    let all = trusting(1, &["*"]);
    let (registrar, node): (Ed25519Public, Ed25519Public) = (key(1).public(), key(2).public());
    assert_eq!(refused(&Registrars::default(), record(1), 0), Distrust::UnknownRegistrar(registrar.clone()));
    assert_eq!(refused(&trusting(9, &["*"]), record(1), 0), Distrust::UnknownRegistrar(registrar.clone()));
    assert_eq!(
        refused(&trusting(1, &["@plant*"]), record(1), 0),
        Distrust::BeyondRegistrar(registrar, alice())
    );
    assert_eq!(refused(&all, record(1), 7), Distrust::RecordExpired(at(7)));
    assert_eq!(refused(&all, record(1), 30), Distrust::GrantExpired(at(30)));
    let beyond = SignedRecord::sign(&key(2), alice(), location(1), grant(1, 2, &["@bob", "@alicea*"]));
    assert_eq!(refused(&all, beyond, 0), Distrust::BeyondGrant(node, alice()));
    // Signed by a node that shows another's grant.
    let stolen = SignedRecord::sign(&key(3), alice(), location(1), grant(1, 2, &["*"]));
    assert_eq!(refused(&all, stolen, 0), Distrust::RecordSignature);
    // A node that grants itself, in the registrar's name.
    let mut forged = grant(3, 3, &["*"]);
    forged.registrar = key(1).public();
    let forged = SignedRecord::sign(&key(3), alice(), location(1), forged);
    assert_eq!(refused(&all, forged, 0), Distrust::GrantSignature);
}

#[test]
fn no_field_can_be_changed() {
    let all = trusting(1, &["*"]);
    let mut changed: Vec<SignedRecord> = std::iter::repeat_n(record(3), 8).collect();
    changed[0].atsign = "@alicia".parse().unwrap();
    changed[1].at.address = "nodes.example:6464".parse().unwrap();
    changed[2].at.address = "node.example:6465".parse().unwrap();
    changed[3].at.quic = 1;
    changed[4].at.seq = 4;
    changed[5].at.not_after = at(8);
    changed[6].grant.not_after = at(31);
    changed[7].grant.atsigns = patterns(&["*"]);
    for changed in changed {
        let refused = all.verify(changed, at(0)).unwrap_err();
        assert!(matches!(refused, Distrust::RecordSignature | Distrust::GrantSignature), "{refused}");
    }
}

#[test]
fn numbers_never_fall() {
    let all = trusting(1, &["*"]);
    let verified = |record| all.verify(record, at(0)).unwrap();
    let known = verified(record(5));
    assert_eq!(verified(record(6)).follows(&known), Ok(true));
    assert_eq!(verified(record(5)).follows(&known), Ok(false));
    assert_eq!(verified(record(4)).follows(&known), Err(Distrust::Older { found: 4, known: 5 }));
    // Another record of the same number is no record to go over to.
    let other = SignedRecord::sign(&key(4), alice(), location(5), grant(1, 4, &["*"]));
    assert_eq!(verified(other).follows(&known), Err(Distrust::Older { found: 5, known: 5 }));
}

#[test]
fn registrars_govern_what_is_theirs() {
    let registrars = trusting(1, &["@plant7*"]);
    assert!(registrars.govern(&"@plant7gw".parse().unwrap()) && !registrars.govern(&alice()));
    // Believed about everybody, but nobody has to have its grant.
    let open = trusting(1, &[]);
    assert!(open.verify(record(1), at(0)).is_ok() && !open.govern(&alice()));
}
