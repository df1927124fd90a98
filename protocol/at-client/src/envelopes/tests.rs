use at_protocol::Timestamp;
use at_protocol::crypto::Iv;
use at_protocol::notification::Frame;
use tempfile::TempDir;

use super::*;
use crate::monitor::{Monitor, MonitorConfig};
use crate::stub::{Town, When, keys};

const GATEWAY: &str = "@alice";
const READER: &str = "@bobby3";
const NAME: &str = "process.oven.tel.plant7";
const CAN: Claims = Claims { receipts: true, aead: true, zstd: true };
const AEAD: Need = Need { aead: true, receipts: false };

/// A gateway and a reader on one server, which a test makes lie.
struct Pair {
    town: Town,
    folder: TempDir,
}

impl Pair {
    async fn new() -> Self {
        Self { town: Town::with(&[GATEWAY, READER]).await, folder: tempfile::tempdir().unwrap() }
    }

    /// A program as after a start: it remembers what is on disk.
    fn program(&self, name: &str) -> Envelopes {
        let file = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        let identity = Identity::open(&file("pem"), "test", CAN).unwrap();
        Envelopes::new(self.town.client(name), Some(identity), Some(file("jsonl")))
    }

    /// Both have announced themselves.
    async fn announced(&self) -> (Envelopes, Envelopes) {
        let (gateway, reader) = (self.program(GATEWAY), self.program(READER));
        gateway.announce().await.unwrap();
        reader.announce().await.unwrap();
        (gateway, reader)
    }

    /// What the reader's server shows of it, changed.
    fn edit_caps(&self, edit: impl FnOnce(&mut String, &mut Metadata)) {
        self.town.world().edit(READER, &format!("public:caps.atedge{READER}"), edit);
    }

    /// Has the reader's server show this notification.
    async fn shows(&self, frame: Frame, reader: &Envelopes) -> Result<Content, Refused> {
        let mut monitor = from_the_start(reader.client());
        let id = frame.id.clone();
        self.town.world().deliver(frame);
        loop {
            let incoming = monitor.next().await.unwrap();
            if incoming.id == id {
                return reader.accept(&incoming).await;
            }
        }
    }
}

fn from_the_start(client: &Client) -> Monitor {
    client.monitor(MonitorConfig { since: Some(Timestamp::from_millis(0)), ..MonitorConfig::default() })
}

async fn send(from: &Envelopes, to: &str, text: &str, need: Need) -> Result<String, EnvelopeError> {
    let (to, name) = (to.parse().unwrap(), NAME.parse().unwrap());
    from.notify(NotifyRequest::new(&to, &name, text.as_bytes()), need).await
}

async fn next(reader: &Envelopes) -> Incoming {
    from_the_start(reader.client()).next().await.unwrap()
}

#[tokio::test]
async fn what_peers_of_ours_say_is_proved() {
    let pair = Pair::new().await;
    let (gateway, reader) = pair.announced().await;
    send(&gateway, READER, "62.1", AEAD).await.unwrap();
    let incoming = next(&reader).await;
    assert!(matches!(&incoming.payload, Payload::Opened(plain) if envelope::is_envelope(plain)));
    for content in [reader.open(&incoming).await.unwrap(), reader.accept(&incoming).await.unwrap()] {
        assert!(content.is_proved);
        assert_eq!(content.plain.as_slice(), b"62.1");
    }
    // A second one costs no look-up, and a program that starts anew knows what it knew.
    let asked = |line| pair.town.world().count(line);
    let before = (asked("plookup:bypassCache:true:all:caps"), asked("lookup:all:pair"), asked("update:"));
    send(&gateway, READER, "62.2", AEAD).await.unwrap();
    reader.accept(&incoming).await.unwrap();
    let after = (asked("plookup:bypassCache:true:all:caps"), asked("lookup:all:pair"), asked("update:"));
    assert_eq!(before, after);
    assert_eq!((before.0, before.1), (2, 1));
    let (gateway, reader) = pair.announced().await;
    send(&gateway, READER, "62.3", AEAD).await.unwrap();
    assert!(reader.accept(&next(&reader).await).await.unwrap().is_proved);
    assert_eq!(asked("update:"), after.2, "nothing needed to be published again");
    assert_eq!(reader.refused(), 0);
}

#[tokio::test]
async fn towards_others_all_is_as_ever() {
    let pair = Pair::new().await;
    let gateway = pair.program(GATEWAY);
    gateway.announce().await.unwrap();
    send(&gateway, READER, "62.1", Need { receipts: true, aead: false }).await.unwrap();
    let plain = Envelopes::new(pair.town.client(READER), None, None);
    let incoming = next(&plain).await;
    let content = plain.open(&incoming).await.unwrap();
    assert_eq!((content.plain.as_slice(), content.is_proved), (b"62.1".as_slice(), false));
    assert!(matches!(
        send(&gateway, READER, "62.1", AEAD).await,
        Err(EnvelopeError::Lacks { what: "aead", .. })
    ));
    // Who says that it seals, and did not, did not say that.
    assert!(plain.accept(&incoming).await.is_err());
    // Who says nothing has nothing else to say it in.
    send(&Envelopes::new(pair.town.client(READER), None, None), GATEWAY, "receipt", Need::default())
        .await
        .unwrap();
    let content = gateway.accept(&next(&gateway).await).await.unwrap();
    assert_eq!((content.plain.as_slice(), content.is_proved), (b"receipt".as_slice(), false));
}

#[tokio::test]
async fn nothing_is_sent_to_a_reader_whose_record_is_not_what_it_was() {
    let pair = Pair::new().await;
    let (gateway, reader) = pair.announced().await;
    let record = format!("public:caps.atedge{READER}");
    let old = pair.town.world().record(READER, &record).unwrap();
    let mut newer = Identity::open(&pair.folder.path().join("second.pem"), "second", CAN).unwrap();
    newer.claims.zstd = false;
    Envelopes::new(reader.client().clone(), Some(newer), None).announce().await.unwrap();
    let new = pair.town.world().record(READER, &record).unwrap();
    send(&gateway, READER, "62.1", AEAD).await.unwrap();

    let held = async |value: &str, metadata: &Metadata| {
        pair.edit_caps(|text, set| (*text, *set) = (value.to_owned(), metadata.clone()));
        // With and without need, and after each start.
        for need in [AEAD, Need::default()] {
            let sent = send(&pair.program(GATEWAY), READER, "62.2", need).await;
            match sent {
                Err(EnvelopeError::Held { source, .. }) => assert_ne!(source, CapsFault::OtherKey),
                other => panic!("{other:?}"),
            }
        }
    };
    held(&old.0, &old.1).await;
    held("null", &Metadata::default()).await;
    held(&new.0.replace("\"aead\":1", "\"aead\":0"), &new.1).await;
    held(&new.0, &Metadata { data_signature: None, ..new.1.clone() }).await;
    held("{}", &new.1).await;
    pair.edit_caps(|text, set| (*text, *set) = new);
    send(&pair.program(GATEWAY), READER, "62.2", AEAD).await.unwrap();
    assert_eq!(pair.town.world().received(READER).len(), 2);
}

#[tokio::test]
async fn nothing_is_sent_to_a_key_that_was_exchanged() {
    let pair = Pair::new().await;
    let (gateway, _) = pair.announced().await;
    send(&gateway, READER, "62.1", AEAD).await.unwrap();
    // A server that has made itself a key, and a record to go with it.
    let thief = keys(GATEWAY).encryption;
    let publickey = format!("public:publickey{READER}");
    pair.town.world().edit(READER, &publickey, |text, _| *text = thief.public().to_base64().to_owned());
    let sent = send(&pair.program(GATEWAY), READER, "62.2", Need::default()).await;
    assert!(matches!(sent, Err(EnvelopeError::Held { source: CapsFault::OtherKey, .. })), "{sent:?}");
    pair.edit_caps(|text, set| {
        set.data_signature = Some(thief.sign(text.as_bytes(), at_protocol::crypto::Hash::Sha256));
    });
    let sent = send(&pair.program(GATEWAY), READER, "62.2", Need::default()).await;
    assert!(matches!(sent, Err(EnvelopeError::Held { source: CapsFault::OtherKey, .. })), "{sent:?}");
}

#[tokio::test]
async fn what_a_server_makes_up_is_refused() {
    let pair = Pair::new().await;
    let (gateway, reader) = pair.announced().await;
    send(&gateway, READER, "62.1", AEAD).await.unwrap();
    let genuine = pair.town.world().received(READER).last().unwrap().clone();
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = genuine.clone();
        change(&mut frame);
        frame
    };
    // The server's own key, wrapped to the reader, and what it would have the reader believe.
    let own = AesKey::from_bytes([9; 32]);
    let (from, to) = (GATEWAY.parse().unwrap(), READER.parse().unwrap());
    let forged = |inner: &str| {
        with(&|frame| {
            frame.id = "forged".to_owned();
            frame.value = Some(own.encrypt(&Iv::ZERO, inner.as_bytes()));
            let metadata = frame.metadata.as_mut().unwrap();
            metadata.iv_nonce = None;
            metadata.shared_key_enc = Some(keys(READER).encryption.public().wrap_key(&own));
        })
    };
    let about = About { from: &from, to: &to, name: &NAME.parse().unwrap(), id: "forged" };
    let lie = envelope::seal(&own, &about, [1; 12], true, b"99.9");
    for frame in [
        forged(&lie),
        forged("99.9"),
        forged("AE1"),
        // A flipped bit in the platform's ciphertext flips one of the envelope's.
        with(&|frame| {
            frame.id = "flipped".to_owned();
            let value = frame.value.as_mut().unwrap();
            let flipped = if value.starts_with('A') { "B" } else { "A" };
            value.replace_range(..1, flipped);
        }),
        // Another name, another id.
        with(&|frame| {
            frame.id = "moved".to_owned();
            frame.key = frame.key.replace("oven", "kiln");
        }),
        with(&|frame| frame.id = "renumbered".to_owned()),
        with(&|frame| {
            frame.id = "cleared".to_owned();
            frame.value = Some("99.9".to_owned());
            frame.is_encrypted = false;
            frame.metadata = None;
        }),
    ] {
        let id = frame.id.clone();
        assert_eq!(pair.shows(frame, &reader).await.err(), Some(Refused), "{id}");
    }
    assert_eq!(reader.refused(), 7);
    let again = pair.shows(with(&|_| {}), &pair.program(READER)).await.unwrap();
    assert!(again.is_proved, "the genuine one still is");
}

#[tokio::test]
async fn without_the_statement_nothing_is_proved() {
    let pair = Pair::new().await;
    let (gateway, reader) = pair.announced().await;
    send(&gateway, READER, "62.1", AEAD).await.unwrap();
    let incoming = next(&reader).await;
    let record = format!("{READER}:pair.atedge{GATEWAY}");
    let (text, metadata) = pair.town.world().record(GATEWAY, &record).unwrap();
    let show = |value: &str, set: &Metadata| {
        pair.town.world().edit(GATEWAY, &record, |text, metadata| {
            (*text, *metadata) = (value.to_owned(), set.clone());
        });
    };
    for value in ["null", "AAAA"] {
        show(value, &metadata);
        let fresh = pair.program(READER);
        assert!(fresh.accept(&incoming).await.is_err());
        assert!(!fresh.open(&incoming).await.unwrap().is_proved, "to be looked at");
        assert_eq!(fresh.refused(), 1);
    }
    show(&text, &metadata);
    assert!(pair.program(READER).accept(&incoming).await.unwrap().is_proved);
}

#[tokio::test]
async fn a_peer_whose_server_is_down_is_spoken_to_as_it_is_known() {
    let pair = Pair::new().await;
    let (gateway, _) = pair.announced().await;
    send(&gateway, READER, "62.1", AEAD).await.unwrap();
    let again = pair.program(GATEWAY);
    // Twice: once for the request, once for its repetition.
    for _ in 0..2 {
        pair.town.world().fault("plookup:bypassCache:true:all:caps", When::Before);
    }
    for _ in 0..3 {
        send(&again, READER, "62.2", AEAD).await.unwrap();
    }
    assert_eq!(
        pair.town.world().count("plookup:bypassCache:true:all:caps"),
        2 + 2,
        "and not asked each time"
    );
}
