//! Signed records, over connections of `atdirectory/1`.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{
    EXTENDED, Grant, Location, Pattern, Registrar, Registrars, SignedRecord, record_answer, record_question,
    registration,
};
use at_protocol::{AtSign, Timestamp};
use atedge_directory::registry::Put;
use atedge_directory::{Limits, Rules};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::site::{Site, ask, one_read, site};

pub(crate) fn key(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

pub(crate) fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| text.parse().expect("a pattern")).collect()
}

fn in_hours(hours: u64) -> Timestamp {
    (SystemTime::now() + Duration::from_hours(hours)).into()
}

/// What the node 2 says, by a grant of the registrar 1.
pub(crate) fn record(atsign: &str, host: &str, seq: u64) -> Result<SignedRecord> {
    let grant = Grant::sign(&key(1), key(2).public(), patterns(&["@plant7*"]), in_hours(2));
    let at = Location { address: host.parse()?, quic: 6465, seq, not_after: in_hours(1) };
    Ok(SignedRecord::sign(&key(2), atsign.parse()?, at, grant))
}

/// A directory that trusts the registrar 1 about some atSigns.
async fn governed() -> Result<Site> {
    let site = site(Limits::default()).await?;
    let trusted = Registrar { key: key(1).public(), atsigns: patterns(&["@plant7*", "@alice"]) };
    site.running.apply(Rules { registrars: Registrars::new(vec![trusted]), ..site.running.rules() })?;
    Ok(site)
}

async fn extended(site: &Site) -> Result<TlsStream<TcpStream>> {
    let mut wire = site.speaking(&[EXTENDED]).await?;
    ensure!(wire.get_ref().1.alpn_protocol() == Some(EXTENDED), "nothing agreed");
    ensure!(one_read(&mut wire).await? == "@", "no greeting");
    Ok(wire)
}

#[tokio::test]
async fn a_record_is_registered_found_and_answered_to_classic_clients() -> Result<()> {
    let site = governed().await?;
    let mut wire = extended(&site).await?;
    let (atsign, record) = ("@plant7gw1".parse::<AtSign>()?, record("@plant7gw1", "n1.example:6464", 7)?);
    assert_eq!(ask(&mut wire, &record_question(&atsign)).await?, "null\r\n@");
    for _ in 0..2 {
        assert_eq!(ask(&mut wire, &registration(&record)).await?, "ok seq=7\r\n@");
    }
    let answer = ask(&mut wire, &record_question(&atsign)).await?;
    assert_eq!(record_answer(answer.trim_end_matches('@'))?, Some(record));
    assert_eq!(ask(&mut wire, "plant7gw1\n").await?, "n1.example:6464\r\n@");
    let mut classic = site.greeted().await?;
    assert_eq!(ask(&mut classic, "plant7gw1\n").await?, "n1.example:6464\r\n@");
    // Known, but by an operator's word only.
    assert_eq!(ask(&mut wire, "record:@bob\n").await?, "null\r\n@");
    let put = site.running.registry.put(&atsign, &"other.example:1".parse()?)?;
    ensure!(matches!(put, Put::Signed { .. }), "{put:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_old_or_not_to_be_believed_is_refused() -> Result<()> {
    let site = governed().await?;
    let mut wire = extended(&site).await?;
    ask(&mut wire, &registration(&record("@plant7gw1", "n1.example:6464", 7)?)).await?;
    let grant = |registrar, atsigns: &[&str], ends| {
        Grant::sign(&key(registrar), key(2).public(), patterns(atsigns), ends)
    };
    let at =
        |not_after| anyhow::Ok(Location { address: "evil.example:1".parse()?, quic: 1, seq: 9, not_after });
    let says = |node, atsign: &str, until, grant| {
        anyhow::Ok(registration(&SignedRecord::sign(&key(node), atsign.parse()?, at(until)?, grant)))
    };
    let (later, before) = (in_hours(1), Timestamp::from_millis(1));
    let all = &["*"];
    let cases = [
        (registration(&record("@plant7gw1", "n2.example:1", 7)?), "number 7 is known already"),
        (registration(&record("@plant7gw1", "n2.example:1", 6)?), "number 7 is known already"),
        (says(2, "@plant7gw1", later, grant(3, all, later))?, "is not trusted"),
        (says(2, "@bob", later, grant(1, all, later))?, "is not trusted about @bob"),
        (says(2, "@plant7gw1", later, grant(1, all, before))?, "grant of the node ended"),
        (says(2, "@plant7gw1", later, grant(1, &["@plant8*"], later))?, "was not granted @plant7gw1"),
        (says(4, "@plant7gw1", later, grant(1, all, later))?, "not signed by the node"),
        (says(2, "@plant7gw1", before, grant(1, all, later))?, "the record ended"),
        ("register:nonsense\n".to_owned(), "not a signed record"),
    ];
    for (line, why) in cases {
        let answer = ask(&mut wire, &line).await?;
        assert!(answer.starts_with("error:") && answer.contains(why), "{answer:?} to {line:?}");
        assert!(answer.ends_with("\r\n@"), "{answer:?}");
    }
    assert_eq!(ask(&mut wire, "plant7gw1\n").await?, "n1.example:6464\r\n@");
    Ok(())
}

#[tokio::test]
async fn lines_that_come_together_are_answered_in_order() -> Result<()> {
    const MANY: u64 = 12;
    let site = governed().await?;
    let (mut answers, mut questions) = tokio::io::split(extended(&site).await?);
    let (mut asked, mut expected, mut refusals) = (String::new(), String::new(), 0);
    for n in 0..MANY {
        let name = format!("plant7x{n}");
        asked += &registration(&record(&name, &format!("h{n}.example:1"), n)?);
        asked += &format!("bob\n{name}\n");
        expected += &format!("ok seq={n}\r\n@b.example:25000\r\n@h{n}.example:1\r\n@");
        if n % 3 == 0 {
            refusals += 2;
            let again = registration(&record("@plant7x0", "other.example:1", 0)?);
            asked += &again.repeat(2);
        }
    }
    let asking = tokio::spawn(async move {
        questions.write_all(asked.as_bytes()).await?;
        questions.flush().await?;
        Ok::<_, std::io::Error>(questions)
    });
    let mut heard = String::new();
    let refused = "error:the record has number 0";
    let mut buffer = [0; 4096];
    while heard.matches("\r\n@").count() < expected.matches("\r\n@").count() + refusals {
        let count = answers.read(&mut buffer).await?;
        ensure!(count > 0, "hung up after {heard}");
        heard += std::str::from_utf8(&buffer[..count])?;
    }
    asking.await??;
    let heard: String =
        heard.split_inclusive("\r\n@").filter(|answer| !answer.starts_with(refused)).collect();
    assert_eq!(heard, expected);
    Ok(())
}

#[tokio::test]
async fn rules_change_under_open_connections() -> Result<()> {
    let site = governed().await?;
    let mut wire = extended(&site).await?;
    let line = registration(&record("@plant7gw1", "n1.example:6464", 7)?);
    let limits = Limits { connections: 1, ..Limits::default() };
    site.running.apply(Rules { registrars: Registrars::default(), limits, ..site.running.rules() })?;
    assert!(ask(&mut wire, &line).await?.contains("is not trusted"));
    assert!(site.dial().await.is_err(), "a second connection");
    assert_eq!(ask(&mut wire, "alice\n").await?, "a.example:6464\r\n@");
    Ok(())
}
