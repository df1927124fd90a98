//! The keys between our atSign and others: made, published, found and remembered.
//!
//! Each ordered pair of atSigns has one AES key. The sender keeps a copy wrapped to itself
//! (`shared_key.bob@alice`) and publishes one wrapped to the recipient (`@bob:shared_key@alice`).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use at_protocol::crypto::{AesKey, KeyError, OpenError, PairKey, RsaPublicKey, open};
use at_protocol::metadata::RecordMetadata;
use at_protocol::response::ErrorCode;
use at_protocol::verb::{Delete, LLookup, Lookup, PLookup, Shape, Update, Verb};
use at_protocol::{AtKey, AtSign, KeyName, Metadata};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::account::ClientConfig;
use crate::random;
use crate::requests::{AskError, Requests};

/// How long the recipient's server may use its copy of our wrapped key, in seconds: 45 days, as other
/// SDKs say.
const TTR_SECONDS: i64 = 3_888_000;
/// How long a pair key is used before the recipient's public key is looked at again.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long a sender whose key is still the same is not asked for it again.
const QUIET: Duration = Duration::from_secs(60);
/// Senders whose keys are remembered. Beyond that all are forgotten and looked up again.
const MAX_SENDERS: usize = 4096;

/// Why there is no key for a recipient.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The own atServer did not help.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The recipient has published no key: it is not activated, or does not exist.
    #[error("{peer} has no public key; is the name right, and the atSign activated?")]
    NoPublicKey {
        /// For whom.
        peer: AtSign,
    },
    /// What the recipient has published is no key.
    #[error("the public key of {peer} cannot be used: {source}")]
    BadPublicKey {
        /// For whom.
        peer: AtSign,
        /// Why not.
        source: KeyError,
    },
    /// Our own copy of the key, which was just written, is not what it should be.
    #[error("the key for {peer} on the own atServer cannot be read; were its records tampered with?")]
    Damaged {
        /// For whom.
        peer: AtSign,
    },
}

impl PairError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Ask(error) => error.is_transient(),
            Self::NoPublicKey { .. } | Self::BadPublicKey { .. } | Self::Damaged { .. } => false,
        }
    }
}

/// Keys in use, by the other atSign.
#[derive(Default)]
pub(crate) struct Peers {
    /// Held while a key is made, so that two sends to one peer do not make two.
    outgoing: Mutex<HashMap<AtSign, Outgoing>>,
    incoming: std::sync::Mutex<HashMap<AtSign, Incoming>>,
}

struct Outgoing {
    pair: Arc<PairKey>,
    fresh_until: Instant,
}

/// What a sender's messages were opened with.
#[derive(Default, Clone)]
struct Incoming {
    /// By the key that came with a message.
    enclosed: Option<Wrapped>,
    /// By the key that the sender publishes.
    published: Option<Wrapped>,
    /// Until then no message that does not open makes us look the published key up.
    quiet_until: Option<Instant>,
}

/// A key and the text that it was unwrapped from, which tells whether another one is the same.
#[derive(Clone)]
struct Wrapped {
    text: Arc<str>,
    key: Arc<AesKey>,
}

/// What was sealed for us, in the clear.
pub(crate) struct Opened {
    pub(crate) plain: Zeroizing<Vec<u8>>,
    /// The key of the pair that opened it; none where it was our own.
    pub(crate) pair: Option<Arc<AesKey>>,
}

/// What is known about a sealed value besides its text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Label<'a> {
    pub(crate) shared_key_enc: Option<&'a str>,
    pub(crate) iv_nonce: Option<&'a str>,
}

/// The way to the own atServer, as the keys need it.
#[derive(Clone, Copy)]
pub(crate) struct Own<'a> {
    pub(crate) config: &'a ClientConfig,
    pub(crate) requests: &'a Requests,
}

impl Own<'_> {
    async fn ask(&self, verb: Verb) -> Result<String, AskError> {
        self.requests.ask(self.config, &verb).await
    }

    /// What the server answers, or `None` if there is no such record.
    pub(crate) async fn look(&self, verb: Verb) -> Result<Option<String>, AskError> {
        match self.ask(verb).await {
            Ok(text) if text == "null" => Ok(None),
            Ok(text) => Ok(Some(text)),
            Err(error) if error.code() == Some(ErrorCode::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn me(&self) -> &AtSign {
        &self.config.atsign
    }

    /// `shared_key.bob@alice`.
    fn own_copy(&self, peer: &AtSign) -> AtKey {
        AtKey::Own { name: name(&format!("shared_key.{}", peer.as_str())), owner: self.me().clone() }
    }

    /// `@bob:shared_key@alice`.
    fn published(&self, peer: &AtSign) -> AtKey {
        AtKey::Shared { name: shared_key(), owner: self.me().clone(), with: peer.clone() }
    }
}

impl Peers {
    /// The key for what we send to `peer`: found, or made and published in both copies.
    pub(crate) async fn outgoing(&self, own: Own<'_>, peer: &AtSign) -> Result<Arc<PairKey>, PairError> {
        let mut outgoing = self.outgoing.lock().await;
        let held = outgoing.get(peer).map(|held| (Arc::clone(&held.pair), held.fresh_until));
        if let Some((pair, _)) = held.as_ref().filter(|(_, fresh_until)| Instant::now() < *fresh_until) {
            return Ok(Arc::clone(pair));
        }
        match pair_with(own, peer).await {
            Ok(pair) => {
                let pair = Arc::new(pair);
                let fresh = Outgoing { pair: Arc::clone(&pair), fresh_until: Instant::now() + FRESH };
                outgoing.insert(peer.clone(), fresh);
                Ok(pair)
            }
            // Better the key of an hour ago than no word to a peer whose server is down.
            Err(error) if error.is_transient() => held.map(|(pair, _)| pair).ok_or(error),
            Err(error) => {
                outgoing.remove(peer);
                Err(error)
            }
        }
    }

    /// The key of what we sent to `peer`, if there ever was one.
    pub(crate) async fn sent(&self, own: Own<'_>, peer: &AtSign) -> Result<Option<AesKey>, AskError> {
        let copy = own.look(llookup(own.own_copy(peer), Shape::Value)).await?;
        Ok(copy.and_then(|text| own.config.keys.encryption.unwrap_key(&text).ok()))
    }

    /// Opens what `from` has sealed for us: with the key that came with it, else with the one that `from`
    /// publishes; where that does not fit, with the one that it publishes now.
    pub(crate) async fn open(
        &self,
        own: Own<'_>,
        from: &AtSign,
        label: Label<'_>,
        text: &str,
    ) -> Result<Result<Opened, OpenError>, AskError> {
        if from == own.me() {
            let plain = open(&own.config.keys.self_key, label.iv_nonce, text);
            return Ok(plain.map(|plain| Opened { plain, pair: None }));
        }
        let known = self.known(from);
        let enclosed = label.shared_key_enc.filter(|wrapped| *wrapped != "null");
        let enclosed = enclosed.and_then(|wrapped| self.enclosed(own, from, wrapped));
        let published = known.published.as_ref().map(|known| Arc::clone(&known.key));
        for key in [enclosed, published].into_iter().flatten() {
            if let Ok(plain) = open(&key, label.iv_nonce, text) {
                return Ok(Ok(Opened { plain, pair: Some(key) }));
            }
        }
        // A sender of rubbish shall not make us ask for each piece.
        if known.quiet_until.is_some_and(|quiet_until| Instant::now() < quiet_until) {
            return Ok(Err(OpenError));
        }
        let found = look_up(own, from, known.published.is_some()).await?;
        let news = found.as_ref().map(|new| &new.text) != known.published.as_ref().map(|old| &old.text);
        self.remember(from, |known| {
            known.published = found.clone();
            known.quiet_until = (!news).then(|| Instant::now() + QUIET);
        });
        let found = found.ok_or(OpenError);
        Ok(found.and_then(|found| {
            let plain = open(&found.key, label.iv_nonce, text)?;
            Ok(Opened { plain, pair: Some(found.key) })
        }))
    }

    /// `from` has published a key for us, this one.
    pub(crate) fn announced(&self, from: &AtSign, wrapped: Option<&str>) {
        self.remember(from, |known| {
            if known.published.as_ref().map(|known| &*known.text) != wrapped {
                known.published = None;
                known.quiet_until = None;
            }
        });
    }

    /// Unwraps the key that came with a message, once: it costs milliseconds.
    fn enclosed(&self, own: Own<'_>, from: &AtSign, wrapped: &str) -> Option<Arc<AesKey>> {
        if let Some(known) = self.known(from).enclosed.filter(|known| *known.text == *wrapped) {
            return Some(known.key);
        }
        let unwrapped = unwrap(own, wrapped)?;
        self.remember(from, |known| known.enclosed = Some(unwrapped.clone()));
        Some(unwrapped.key)
    }

    fn known(&self, from: &AtSign) -> Incoming {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.get(from).cloned().unwrap_or_default()
    }

    fn remember(&self, from: &AtSign, change: impl FnOnce(&mut Incoming)) {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if incoming.len() >= MAX_SENDERS && !incoming.contains_key(from) {
            incoming.clear();
        }
        change(incoming.entry(from.clone()).or_default());
    }
}

/// The key that `from` publishes for us: from its source, or from our server's copy where that will do or
/// the source is down.
async fn look_up(own: Own<'_>, from: &AtSign, bypass_cache: bool) -> Result<Option<Wrapped>, AskError> {
    let lookup = Lookup { name: shared_key(), owner: from.clone(), shape: Shape::Value, bypass_cache };
    let found = match own.look(Verb::Lookup(lookup)).await {
        Err(AskError::Refused { .. }) => {
            let (owner, with) = (from.clone(), own.me().clone());
            let copy = AtKey::CachedShared { name: shared_key(), owner, with };
            own.look(llookup(copy, Shape::Value)).await?
        }
        found => found?,
    };
    Ok(found.and_then(|wrapped| unwrap(own, &wrapped)))
}

/// Finds or makes the key for `peer`, and sees to it that `peer` can find it under its present public key.
async fn pair_with(own: Own<'_>, peer: &AtSign) -> Result<PairKey, PairError> {
    let public = public_key(own, peer).await?;
    let encryption = &own.config.keys.encryption;
    let copy = llookup(own.own_copy(peer), Shape::Value);
    let kept = own.look(copy.clone()).await?;
    let key = match kept.and_then(|text| encryption.unwrap_key(&text).ok()) {
        Some(key) => key,
        None => {
            // What others find must never be the predecessor of what we use, wherever we are cut off.
            if own.look(llookup(own.published(peer), Shape::Meta)).await?.is_some() {
                own.ask(Verb::Delete(Delete::of(own.published(peer)))).await?;
            }
            let wrapped = encryption.public().wrap_key(&random::key());
            own.ask(update(own.own_copy(peer), Metadata::default(), wrapped)).await?;
            // Another device of ours may have made one meanwhile: the last one written is the key.
            let written = own.look(copy).await?.ok_or(PairError::Damaged { peer: peer.clone() })?;
            encryption.unwrap_key(&written).map_err(|_| PairError::Damaged { peer: peer.clone() })?
        }
    };
    let pair = PairKey::new(key, &public);
    if !is_published(own, peer, &pair).await? {
        let metadata = Metadata {
            ttr: Some(TTR_SECONDS),
            pub_key_cs: Some(pair.recipient_checksum.clone()),
            ..Metadata::default()
        };
        own.ask(update(own.published(peer), metadata, pair.wrapped_for_recipient.clone())).await?;
    }
    Ok(pair)
}

/// Whether `peer` finds the key. Where nothing says for which public key it was wrapped, as other SDKs
/// leave it, it is taken to be the present one.
async fn is_published(own: Own<'_>, peer: &AtSign, pair: &PairKey) -> Result<bool, AskError> {
    let Some(json) = own.look(llookup(own.published(peer), Shape::Meta)).await? else { return Ok(false) };
    let metadata: RecordMetadata = serde_json::from_str(&json).unwrap_or_default();
    Ok(metadata.set.pub_key_cs.is_none_or(|checksum| checksum == pair.recipient_checksum))
}

pub(crate) async fn public_key(own: Own<'_>, peer: &AtSign) -> Result<RsaPublicKey, PairError> {
    let (name, owner) = (name("publickey"), peer.clone());
    let lookup = PLookup { name, owner, shape: Shape::Value, bypass_cache: false };
    let found = match own.look(Verb::PLookup(lookup)).await {
        Err(error) if error.code() == Some(ErrorCode::SecondaryNotFound) => None,
        found => found?,
    };
    let text = found.ok_or_else(|| PairError::NoPublicKey { peer: peer.clone() })?;
    RsaPublicKey::from_spki_base64(&text)
        .map_err(|source| PairError::BadPublicKey { peer: peer.clone(), source })
}

fn unwrap(own: Own<'_>, wrapped: &str) -> Option<Wrapped> {
    let key = own.config.keys.encryption.unwrap_key(wrapped).ok()?;
    Some(Wrapped { text: wrapped.into(), key: Arc::new(key) })
}

fn llookup(key: AtKey, shape: Shape) -> Verb {
    Verb::LLookup(LLookup { key, shape })
}

fn update(key: AtKey, metadata: Metadata, value: String) -> Verb {
    Verb::Update(Box::new(Update::of(key, metadata, value)))
}

fn shared_key() -> KeyName {
    name("shared_key")
}

/// atSigns may hold what a key name may, so that `shared_key.<atSign>` is one.
fn name(text: &str) -> KeyName {
    text.parse().expect("made of letters and an atSign, neither of which has what a name may not have")
}
