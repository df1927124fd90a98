//! Acting for one atSign: its records, and what others share with it.

use std::fmt::Display;
use std::sync::Arc;

use at_protocol::crypto::{OpenError, Plain, Sealed, open, seal};
use at_protocol::metadata::RecordMetadata;
use at_protocol::verb::{Delete, LLookup, Lookup, PLookup, Scan, Shape, Update, Verb};
use at_protocol::{AtKey, AtSign, KeyName, Metadata};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::account::{ClientConfig, ConnectError};
use crate::peers::{Label, Own, PairError, Peers};
use crate::random;
use crate::requests::{AskError, Requests};

/// A client of one atSign. Cheap to clone; clones share the connection and the keys of peers.
///
/// Requests go one after the other over one connection, or over as many as it was told. Each is made when first
/// needed and anew when it breaks, after a pause that grows while it keeps breaking. A request that is dropped may
/// or may not have been carried out.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    requests: Requests,
    peers: Peers,
}

/// A record as it was read.
pub struct Record {
    /// Its value, decrypted where it was sealed.
    pub value: Zeroizing<Vec<u8>>,
    /// What the server says about it.
    pub metadata: RecordMetadata,
}

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The atServer did not do it.
    #[error("{key}: {source}")]
    Ask {
        /// Which record.
        key: AtKey,
        /// Why not.
        source: AskError,
    },
    /// There is no key for the atSign that it is to be shared with.
    #[error("cannot share {key}: {source}")]
    Pair {
        /// Which record.
        key: AtKey,
        /// Why not.
        source: PairError,
    },
    /// The record belongs to somebody else, or to the server.
    #[error("{key} is not for {atsign} to read or write like this")]
    NotOurs {
        /// Which record.
        key: AtKey,
        /// Who we are.
        atsign: AtSign,
    },
    /// A public value must be text.
    #[error("{key} is public and its value is not UTF-8 text; encode it, in base64 for example")]
    NotText {
        /// Which record.
        key: AtKey,
    },
    /// The value cannot be decrypted, or claims an encoding that it does not have.
    #[error("{key} cannot be opened with the keys of {atsign}; ask its owner to share it again")]
    Unreadable {
        /// Which record.
        key: AtKey,
        /// Who we are.
        atsign: AtSign,
    },
    /// The server's answer is not what the protocol says.
    #[error("the atServer gave a strange answer about {key}")]
    Answer {
        /// Which record.
        key: AtKey,
    },
}

impl RecordError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Ask { source, .. } => source.is_transient(),
            Self::Pair { source, .. } => source.is_transient(),
            Self::NotOurs { .. } | Self::NotText { .. } | Self::Unreadable { .. } | Self::Answer { .. } => {
                false
            }
        }
    }
}

/// `lookup:all:` and its kin.
#[derive(Deserialize)]
struct Answer {
    data: Option<String>,
    #[serde(rename = "metaData", default)]
    metadata: RecordMetadata,
}

impl Client {
    /// A client for the atSign of `config`. Nothing is connected yet.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self::with_connections(config, 1)
    }

    /// The same with up to so many connections, for who has much to say: an atServer performs the lines of one after
    /// each other, each with its own write to the disk. Requests that are made at once may overtake each other.
    #[must_use]
    pub fn with_connections(config: ClientConfig, most: usize) -> Self {
        Self(Arc::new(Inner { config, requests: Requests::new(most), peers: Peers::default() }))
    }

    /// Connects and signs in now rather than at the first request.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.0.requests.connect(&self.0.config).await
    }

    /// For whom this client acts.
    #[must_use]
    pub fn atsign(&self) -> &AtSign {
        &self.0.config.atsign
    }

    /// What it was made from.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    /// Says one verb, for what has no method of its own.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn ask(&self, verb: &Verb) -> Result<String, AskError> {
        self.say(verb).await
    }

    pub(crate) async fn say(&self, line: &impl Display) -> Result<String, AskError> {
        self.0.requests.ask(&self.0.config, line).await
    }

    pub(crate) fn own(&self) -> Own<'_> {
        Own { config: &self.0.config, requests: &self.0.requests }
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// Writes a record and gives its commit id: in the clear and signed where it is public, sealed for
    /// oneself or for the atSign that it is shared with otherwise. Of `metadata`, lifetimes and the like
    /// are taken; what describes the sealing is set here.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn put(&self, key: &AtKey, value: &[u8], mut metadata: Metadata) -> Result<i64, RecordError> {
        let keys = &self.0.config.keys;
        let text = match key {
            AtKey::Public { owner, .. } if owner == self.atsign() => {
                let value =
                    std::str::from_utf8(value).map_err(|_| RecordError::NotText { key: key.clone() })?;
                let plain = Plain::signed(&keys.encryption, value);
                plain.describe(&mut metadata);
                // An update keeps what it does not mention: an encoding of the value before must go.
                metadata.encoding.get_or_insert_with(|| "null".to_owned());
                plain.text().to_owned()
            }
            AtKey::Own { owner, .. } if owner == self.atsign() => {
                sealed(&seal::seal_self(&keys.self_key, random::iv(), value), &mut metadata)
            }
            AtKey::Shared { owner, with, .. } if owner == self.atsign() => {
                sealed(&self.seal_for(with, value).await.map_err(|e| pair_error(key, e))?, &mut metadata)
            }
            AtKey::Public { .. }
            | AtKey::Own { .. }
            | AtKey::Shared { .. }
            | AtKey::CachedPublic { .. }
            | AtKey::CachedShared { .. }
            | AtKey::PrivateKey { .. }
            | AtKey::Private { .. } => return Err(self.not_ours(key)),
        };
        let update = Verb::Update(Box::new(Update::of(key.clone(), metadata, text)));
        self.commit(key, &update).await
    }

    /// Seals for `to`, with the self key where that is ourselves.
    pub(crate) async fn seal_for(&self, to: &AtSign, value: &[u8]) -> Result<Sealed, PairError> {
        if to == self.atsign() {
            return Ok(seal::seal_self(&self.0.config.keys.self_key, random::iv(), value));
        }
        let pair = self.0.peers.outgoing(self.own(), to).await?;
        Ok(seal::seal_shared(&pair, random::iv(), value))
    }

    /// Reads a record: our own, one shared with us, or a public one of anybody. `None` where there is none,
    /// or none at this time.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn get(&self, key: &AtKey) -> Result<Option<Record>, RecordError> {
        let verb = self.reading(key).ok_or_else(|| self.not_ours(key))?;
        let asked = self.own().look(verb).await;
        let Some(json) = asked.map_err(|source| RecordError::Ask { key: key.clone(), source })? else {
            return Ok(None);
        };
        let answer: Answer =
            serde_json::from_str(&json).map_err(|_| RecordError::Answer { key: key.clone() })?;
        let Some(text) = answer.data.filter(|text| text != "null") else { return Ok(None) };
        let value = self.opened(key, &answer.metadata.set, &text).await?;
        Ok(Some(Record { value, metadata: answer.metadata }))
    }

    /// Removes a record, ours or our server's copy of another's, and gives the commit id. It need not exist.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn delete(&self, key: &AtKey) -> Result<i64, RecordError> {
        self.commit(key, &Verb::Delete(Delete::of(key.clone()))).await
    }

    /// Lists keys: our own in full, another's as it shows them to us, without their scope.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn scan(&self, scan: Scan) -> Result<Vec<String>, AskError> {
        let json = self.say(&Verb::Scan(scan)).await?;
        Ok(serde_json::from_str::<Option<Vec<String>>>(&json).ok().flatten().unwrap_or_default())
    }

    async fn commit(&self, key: &AtKey, verb: &Verb) -> Result<i64, RecordError> {
        let answer = self.say(verb).await.map_err(|source| RecordError::Ask { key: key.clone(), source })?;
        answer.trim().parse().map_err(|_| RecordError::Answer { key: key.clone() })
    }

    /// The verb that reads `key`, if we may hope to read it.
    fn reading(&self, key: &AtKey) -> Option<Verb> {
        let me = self.atsign();
        let llookup = || Some(Verb::LLookup(LLookup { key: key.clone(), shape: Shape::All }));
        match key {
            AtKey::Public { owner, .. } | AtKey::Own { owner, .. } | AtKey::Shared { owner, .. }
                if owner == me =>
            {
                llookup()
            }
            AtKey::CachedPublic { .. } => llookup(),
            AtKey::CachedShared { with, .. } if with == me => llookup(),
            AtKey::Public { name, owner } => Some(plookup(name, owner)),
            AtKey::Shared { name, owner, with } if with == me => Some(lookup(name, owner)),
            AtKey::Own { .. }
            | AtKey::Shared { .. }
            | AtKey::CachedShared { .. }
            | AtKey::PrivateKey { .. }
            | AtKey::Private { .. } => None,
        }
    }

    async fn opened(
        &self,
        key: &AtKey,
        metadata: &Metadata,
        text: &str,
    ) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        let me = self.atsign();
        let ask = |source| RecordError::Ask { key: key.clone(), source };
        let label = Label {
            shared_key_enc: metadata.shared_key_enc.as_deref(),
            iv_nonce: metadata.iv_nonce.as_deref(),
        };
        let plain = match key {
            AtKey::Public { .. } | AtKey::CachedPublic { .. } => {
                let text = seal::read_public(metadata, text);
                return text.map(|text| Zeroizing::new(text.into_bytes())).map_err(|_| self.unreadable(key));
            }
            AtKey::Shared { with, owner, .. } if owner == me && with != me => {
                let sent = self.0.peers.sent(self.own(), with).await.map_err(ask)?;
                sent.ok_or(OpenError).and_then(|key| open(&key, label.iv_nonce, text))
            }
            AtKey::Shared { owner, .. } | AtKey::CachedShared { owner, .. } => {
                let opened = self.0.peers.open(self.own(), owner, label, text).await.map_err(ask)?;
                opened.map(|opened| opened.plain)
            }
            AtKey::Own { .. } | AtKey::PrivateKey { .. } | AtKey::Private { .. } => {
                open(&self.0.config.keys.self_key, label.iv_nonce, text)
            }
        };
        match plain {
            Ok(plain) => Ok(plain),
            // Data from before there was a flag, and what applications chose to leave in the clear.
            Err(_) if !seal::is_sealed(metadata) => Ok(Zeroizing::new(text.as_bytes().to_vec())),
            Err(_) => Err(self.unreadable(key)),
        }
    }

    fn not_ours(&self, key: &AtKey) -> RecordError {
        RecordError::NotOurs { key: key.clone(), atsign: self.atsign().clone() }
    }

    fn unreadable(&self, key: &AtKey) -> RecordError {
        RecordError::Unreadable { key: key.clone(), atsign: self.atsign().clone() }
    }
}

fn sealed(sealed: &Sealed, metadata: &mut Metadata) -> String {
    sealed.describe(metadata);
    sealed.text().to_owned()
}

fn pair_error(key: &AtKey, source: PairError) -> RecordError {
    RecordError::Pair { key: key.clone(), source }
}

fn lookup(name: &KeyName, owner: &AtSign) -> Verb {
    let (name, owner) = (name.clone(), owner.clone());
    Verb::Lookup(Lookup { name, owner, shape: Shape::All, bypass_cache: false })
}

fn plookup(name: &KeyName, owner: &AtSign) -> Verb {
    let (name, owner) = (name.clone(), owner.clone());
    Verb::PLookup(PLookup { name, owner, shape: Shape::All, bypass_cache: false })
}

#[cfg(test)]
mod tests {
    use at_protocol::crypto::{AesKey, Iv};

    use super::*;
    use crate::stub::{Town, When, keys};

    fn key(text: &str) -> AtKey {
        text.parse().unwrap()
    }

    async fn get(client: &Client, name: &str) -> Option<String> {
        let record = client.get(&key(name)).await.unwrap();
        record.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
    }

    async fn put(client: &Client, name: &str, value: &str) {
        client.put(&key(name), value.as_bytes(), Metadata::default()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_put_is_got_by_those_it_is_for() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
        put(&alice, "public:motto.ns@alice", "two\nlines").await;
        put(&alice, "diary.ns@alice", "grüße").await;
        put(&alice, "@bobby3:phone.ns@alice", "+1 555").await;
        assert_eq!(get(&alice, "diary.ns@alice").await.as_deref(), Some("grüße"));
        // A client that knows nothing yet finds its way as well.
        for client in [&alice, &town.client("@alice"), &bob] {
            assert_eq!(get(client, "public:motto.ns@alice").await.as_deref(), Some("two\nlines"));
            assert_eq!(get(client, "@bobby3:phone.ns@alice").await.as_deref(), Some("+1 555"));
        }
        assert_eq!(get(&bob, "@bobby3:other.ns@alice").await, None);
        put(&bob, "@alice:phone.ns@bobby3", "+1 556").await;
        assert_eq!(get(&alice, "@alice:phone.ns@bobby3").await.as_deref(), Some("+1 556"));
        let listed = alice.scan(Scan { regex: Some(".ns@".into()), ..Scan::default() }).await.unwrap();
        assert_eq!(listed, ["@bobby3:phone.ns@alice", "diary.ns@alice", "public:motto.ns@alice"]);
        alice.delete(&key("diary.ns@alice")).await.unwrap();
        assert_eq!(get(&alice, "diary.ns@alice").await, None);
    }

    #[tokio::test]
    async fn the_server_sees_ciphertext_and_what_foreign_readers_need() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let alice = town.client("@alice");
        let mut nonces = Vec::new();
        for _ in 0..2 {
            put(&alice, "@bobby3:k.ns@alice", "canary-canary-canary").await;
            let (text, metadata) = town.world().record("@alice", "@bobby3:k.ns@alice").unwrap();
            assert!(!text.contains("canary"));
            assert_eq!(metadata.is_encrypted, Some(true));
            assert_eq!(metadata.pub_key_cs, Some(keys("@bobby3").encryption.public().checksum()));
            let pair = keys("@bobby3").encryption.unwrap_key(&metadata.shared_key_enc.unwrap()).unwrap();
            let opened = open(&pair, metadata.iv_nonce.as_deref(), &text).unwrap();
            assert_eq!(opened.as_slice(), b"canary-canary-canary");
            nonces.push(metadata.iv_nonce.unwrap());
            // The two records of the pair's key hold the same key, each for its reader.
            let (own, _) = town.world().record("@alice", "shared_key.bobby3@alice").unwrap();
            assert_eq!(keys("@alice").encryption.unwrap_key(&own).unwrap().to_base64(), pair.to_base64());
            let (his, metadata) = town.world().record("@alice", "@bobby3:shared_key@alice").unwrap();
            assert_eq!(keys("@bobby3").encryption.unwrap_key(&his).unwrap().to_base64(), pair.to_base64());
            assert_eq!(metadata.ttr, Some(3_888_000));
        }
        assert_ne!(nonces[0], nonces[1]);
        assert_eq!(town.world().count("update:shared_key.bobby3@alice"), 1);
    }

    #[tokio::test]
    async fn foreign_writers_are_understood() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
        let name = "@bobby3:k.ns@alice";
        put(&alice, name, "x").await;
        // The key is found by look-up where it does not come along.
        town.world().edit("@alice", name, |_, metadata| metadata.shared_key_enc = None);
        assert_eq!(get(&bob, name).await.as_deref(), Some("x"));
        // No initialisation vector, or one of name only, is the zero vector.
        let (own, _) = town.world().record("@alice", "shared_key.bobby3@alice").unwrap();
        let pair = keys("@alice").encryption.unwrap_key(&own).unwrap();
        for nonce in [None, Some("null".to_owned())] {
            town.world().edit("@alice", name, |value, metadata| {
                *value = pair.encrypt(&Iv::ZERO, b"zero");
                metadata.iv_nonce = nonce;
            });
            assert_eq!(get(&bob, name).await.as_deref(), Some("zero"));
            // Data from before there was a flag.
            town.world().edit("@alice", name, |_, metadata| metadata.is_encrypted = None);
            assert_eq!(get(&bob, name).await.as_deref(), Some("zero"));
        }
        town.world().edit("@alice", name, |value, metadata| {
            *value = "never sealed".to_owned();
            *metadata = Metadata::default();
        });
        assert_eq!(get(&bob, name).await.as_deref(), Some("never sealed"));
    }

    /// What @alice would have written with this pair key; all bytes are fixed, since one wrong key in 256
    /// opens to rubbish.
    fn shared_with(town: &Town, pair: [u8; 32], value: &str) {
        let pair = AesKey::from_bytes(pair);
        let wrapped = keys("@bobby3").encryption.public().wrap_key(&pair);
        town.world().edit("@alice", "@bobby3:shared_key@alice", |value, _| *value = wrapped);
        town.world().edit("@alice", "@bobby3:k.ns@alice", |text, metadata| {
            *text = pair.encrypt(&Iv::ZERO, value.as_bytes());
            metadata.is_encrypted = Some(true);
        });
    }

    #[tokio::test]
    async fn a_key_that_was_changed_is_looked_up_once_more_and_rubbish_only_once() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let bob = town.client("@bobby3");
        let name = "@bobby3:k.ns@alice";
        for (pair, value, lookups) in [([1; 32], "before", 1), ([2; 32], "after", 2)] {
            shared_with(&town, pair, value);
            assert_eq!(get(&bob, name).await.as_deref(), Some(value));
            assert_eq!(shared_key_lookups(&town), lookups);
        }
        town.world().edit("@alice", name, |value, _| *value = "AAAA".to_owned());
        for _ in 0..3 {
            assert!(matches!(bob.get(&key(name)).await, Err(RecordError::Unreadable { .. })));
        }
        assert_eq!(shared_key_lookups(&town), 3);
    }

    fn shared_key_lookups(town: &Town) -> usize {
        let world = town.world();
        world.count("lookup:shared_key@alice") + world.count("lookup:bypassCache:true:shared_key@alice")
    }

    #[tokio::test]
    async fn a_pair_key_survives_whatever_cuts_its_making_short() {
        for when in [When::Before, When::After] {
            for line in ["update:shared_key.bobby3@alice", "update:ttr:", "plookup:publickey@bobby3"] {
                let town = Town::with(&["@alice", "@bobby3"]).await;
                let alice = town.client("@alice");
                // Twice: once for the request, once for its repetition.
                town.world().fault(line, when);
                town.world().fault(line, when);
                let put_once = alice.put(&key("@bobby3:k.ns@alice"), b"x", Metadata::default()).await;
                assert!(put_once.is_err_and(|error| error.is_transient()), "{line} {when:?}");
                put(&town.client("@alice"), "@bobby3:k.ns@alice", "y").await;
                town.world().edit("@alice", "@bobby3:k.ns@alice", |_, m| m.shared_key_enc = None);
                let read = get(&town.client("@bobby3"), "@bobby3:k.ns@alice").await;
                assert_eq!(read.as_deref(), Some("y"), "{line} {when:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_request_outlives_its_connection() {
        let town = Town::with(&["@alice"]).await;
        let alice = town.client("@alice");
        put(&alice, "a.ns@alice", "1").await;
        for when in [When::Before, When::After] {
            town.world().fault("update:", when);
            put(&alice, "a.ns@alice", "2").await;
            assert_eq!(get(&alice, "a.ns@alice").await.as_deref(), Some("2"));
        }
        assert_eq!(town.world().count("pkam:"), 3);
    }

    #[tokio::test]
    async fn a_public_value_is_read_as_it_was_last_written() {
        let town = Town::with(&["@alice"]).await;
        let alice = town.client("@alice");
        for value in ["a\nb", "plain", "trailing "] {
            put(&alice, "public:m.ns@alice", value).await;
            assert_eq!(get(&alice, "public:m.ns@alice").await.as_deref(), Some(value));
        }
        let bytes = alice.put(&key("public:m.ns@alice"), &[0xff], Metadata::default()).await;
        assert!(matches!(bytes, Err(RecordError::NotText { .. })));
    }

    #[tokio::test]
    async fn the_largest_values_come_back() {
        let town = Town::with(&["@alice"]).await;
        let alice = town.client("@alice");
        // As text a line of ten million bytes; as JSON, with its escapes, twice that.
        let value = "\"".repeat(at_protocol::line::MAX_AUTHENTICATED - 1000);
        put(&alice, "public:big.ns@alice", &value).await;
        assert!(get(&alice, "public:big.ns@alice").await == Some(value));
    }

    #[tokio::test]
    async fn what_is_not_ours_is_refused_without_asking() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let alice = town.client("@alice");
        for name in ["public:k.ns@bobby3", "k.ns@bobby3", "cached:public:k.ns@bobby3", "privatekey:at_secret"]
        {
            let written = alice.put(&key(name), b"x", Metadata::default()).await;
            assert!(matches!(written, Err(RecordError::NotOurs { .. })), "{name}");
        }
        for name in ["k.ns@bobby3", "@carol:k.ns@bobby3", "privatekey:at_secret"] {
            assert!(matches!(alice.get(&key(name)).await, Err(RecordError::NotOurs { .. })), "{name}");
        }
        assert_eq!(town.world().lines.len(), 0);
    }

    #[tokio::test]
    async fn an_atsign_without_a_key_cannot_be_shared_with() {
        let town = Town::empty(&["@alice", "@bobby3"]).await;
        town.world().activate(&"@alice".parse().unwrap(), &keys("@alice"));
        let put = town.client("@alice").put(&key("@bobby3:k.ns@alice"), b"x", Metadata::default()).await;
        let error = put.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot share @bobby3:k.ns@alice: @bobby3 has no public key; is the name right, and the atSign activated?"
        );
        assert!(!error.is_transient());
    }
}
