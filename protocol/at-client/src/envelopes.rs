//! What programs of ours say to each other so that no server in between can alter, move or forge it.
//!
//! The formats are in [`at_protocol::caps`] and [`at_protocol::crypto::envelope`]; this is who publishes, looks
//! up, seals and opens, and when. Towards whoever announces nothing, all is as every SDK does it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use at_protocol::caps::{CAPS, Caps, CapsFault, Claims, Enrolment, PAIR, PairStatement, Trusted};
use at_protocol::crypto::envelope::{self, About};
use at_protocol::crypto::{AesKey, KeyDigest, PairKey, RsaPublicKey, seal};
use at_protocol::{AtKey, AtSign, KeyName, Metadata, Timestamp};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::caps::{KnownCaps, Unknown, now};
use crate::client::{Client, RecordError};
use crate::identity::Identity;
use crate::lenient::TrustedTime;
use crate::monitor::{Incoming, Payload};
use crate::notify::{NotifyRequest, SendError};
use crate::random;
use crate::requests::AskError;

/// How long what is published holds; it is renewed when half of that is over.
const HOLDS_MS: u64 = 90 * 24 * 60 * 60 * 1000;
/// How long what was published is not looked at again.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The same while our clock is not right.
const MINUTE: Duration = Duration::from_secs(60);
/// How long a sender's statement is believed before it is looked up again.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long a sender whose statement does not fit is not asked for it again.
const QUIET: Duration = Duration::from_secs(10);
/// Senders whose statements are remembered. Beyond that all are forgotten and looked up again.
const MAX_SENDERS: usize = 4096;
/// How often what another program of ours has overwritten is written again.
const TRIES: usize = 3;

/// A client that speaks in envelopes to peers that open them. Cheap to clone.
#[derive(Clone)]
pub struct Envelopes(Arc<Inner>);

struct Inner {
    client: Client,
    identity: Option<Identity>,
    time: Option<Arc<dyn TrustedTime>>,
    known: KnownCaps,
    /// What we have published last. Held while it is published.
    announced: Mutex<Option<(Arc<Caps>, Instant)>>,
    /// What we have stated to whom. Held while it is stated.
    stated: Mutex<HashMap<AtSign, (KeyDigest, Instant)>>,
    /// What senders have stated.
    vouched: std::sync::Mutex<HashMap<AtSign, Vouched>>,
    refused: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Vouched {
    key: Option<(KeyDigest, Instant)>,
    serial: u64,
    quiet_until: Option<Instant>,
}

/// What a recipient must be able to do, for something to be sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Open envelopes.
    pub aead: bool,
    /// Confirm by receipts, if it says at all what it can do.
    pub receipts: bool,
}

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// As without envelopes.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The peer's capabilities are not what they should be.
    #[error(
        "nothing is sent to {peer}: {source}; if its owner says that this is right, remove its line from the file \
         of known capabilities"
    )]
    Held {
        /// For whom it was.
        peer: AtSign,
        /// What is wrong.
        source: CapsFault,
    },
    /// The peer does not announce what is needed.
    #[error("{peer} does not announce that it can do {what}")]
    Lacks {
        /// For whom it was.
        peer: AtSign,
        /// What is needed.
        what: &'static str,
    },
    /// It cannot be learnt what the peer can do.
    #[error("cannot look up what {peer} can do: {source}")]
    Ask {
        /// For whom it was.
        peer: AtSign,
        /// Why not.
        source: AskError,
    },
    /// More peers are known than can be remembered.
    #[error("nothing is sent to {peer}: what so many peers can do cannot be remembered")]
    Full {
        /// For whom it was.
        peer: AtSign,
    },
    /// Our own records cannot be published.
    #[error("cannot announce what we can do: {0}")]
    Record(#[from] RecordError),
}

/// What was opened.
pub struct Content {
    /// What is said.
    pub plain: Zeroizing<Vec<u8>>,
    /// Whether it is from whom it says, as it was sent: the envelope opened, and a program of the sender has
    /// vouched for its key.
    pub is_proved: bool,
}

/// What was altered, forged or moved, or is not known to be genuine. It has one form on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not known to be genuine")]
pub struct Refused;

impl Envelopes {
    /// For `client`; as the program `identity`, which without one only opens. What is known of peers is kept in
    /// the file `known`, one JSON object a line.
    #[must_use]
    pub fn new(client: Client, identity: Option<Identity>, known: Option<PathBuf>) -> Self {
        Self::on_time(client, identity, known, None)
    }

    /// The same on a machine whose clock may not be right.
    #[must_use]
    pub fn on_time(
        client: Client,
        identity: Option<Identity>,
        known: Option<PathBuf>,
        time: Option<Arc<dyn TrustedTime>>,
    ) -> Self {
        Self(Arc::new(Inner {
            client,
            identity,
            time,
            known: KnownCaps::open(known),
            announced: Mutex::default(),
            stated: Mutex::default(),
            vouched: std::sync::Mutex::default(),
            refused: AtomicU64::new(0),
        }))
    }

    /// The client underneath.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// How much was refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Publishes what this program can do, where that is not published or will soon end. Call it on connecting
    /// and now and again: it looks once a day.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn announce(&self) -> Result<(), RecordError> {
        match &self.0.identity {
            Some(identity) => self.announced(identity).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Whether this program has never run before, so that peers may still have to learn of it, for which they
    /// need up to [`LEARNT_WITHIN`](crate::LEARNT_WITHIN).
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.0.identity.as_ref().is_some_and(|identity| identity.is_new)
    }

    /// Sends a notification: in an envelope where its recipient announces that it opens them, in the way of all
    /// SDKs where it announces nothing.
    ///
    /// # Errors
    /// See [`EnvelopeError`]. Nothing was sent then, but perhaps with [`EnvelopeError::Send`].
    pub async fn notify(&self, request: NotifyRequest<'_>, need: Need) -> Result<String, EnvelopeError> {
        let to = request.to;
        // Who is nobody in particular has nothing to put into an envelope.
        let needs_nothing = self.0.identity.is_none() && need == Need::default();
        if to == self.client().atsign() || needs_nothing {
            return Ok(self.client().notify(request).await?);
        }
        let trusted =
            self.0.known.of(self.client(), to, need.aead).await.map_err(|unknown| match unknown {
                Unknown::Fault(source) => EnvelopeError::Held { peer: to.clone(), source },
                Unknown::Ask(source) => EnvelopeError::Ask { peer: to.clone(), source },
                Unknown::Full => EnvelopeError::Full { peer: to.clone() },
            })?;
        let lacks = |what| EnvelopeError::Lacks { peer: to.clone(), what };
        let claims = trusted.as_ref().map(|trusted| trusted.caps().claims);
        if need.receipts && claims.is_some_and(|claims| !claims.receipts) {
            return Err(lacks("receipts"));
        }
        match (&self.0.identity, trusted) {
            (Some(identity), Some(trusted)) if trusted.caps().claims.aead => {
                self.notify_enveloped(request, identity, &trusted).await
            }
            _ if need.aead => Err(lacks("aead")),
            _ => Ok(self.client().notify(request).await?),
        }
    }

    async fn notify_enveloped(
        &self,
        request: NotifyRequest<'_>,
        identity: &Identity,
        trusted: &Trusted,
    ) -> Result<String, EnvelopeError> {
        let to = request.to;
        let caps = self.announced(identity).await?;
        let pair = self.client().peers().outgoing(self.client().own(), to).await;
        let pair = pair.map_err(|source| SendError::Pair { to: to.clone(), source })?;
        if !Self::is_for(&pair, trusted) {
            tracing::error!(peer = %to, "holding what is for this peer: its public key was exchanged");
            return Err(EnvelopeError::Held { peer: to.clone(), source: CapsFault::OtherKey });
        }
        self.state(identity, &caps, to, &pair.key).await?;
        let id = request.id.map_or_else(random::uuid, str::to_owned);
        let about = About { from: self.client().atsign(), to, name: request.name, id: &id };
        let Claims { zstd, .. } = trusted.caps().claims;
        let inner = envelope::seal(&pair.key, &about, random::nonce(), zstd, request.plain);
        let sealed = seal::seal_shared(&pair, random::iv(), inner.as_bytes());
        Ok(self.client().notify_sealed(NotifyRequest { id: Some(&id), ..request }, &sealed).await?)
    }

    /// Whether the pair's key went to the public key by which the recipient is known. Its checksum is MD5, for
    /// which nobody can find a second text to a given one.
    fn is_for(pair: &PairKey, trusted: &Trusted) -> bool {
        let known = RsaPublicKey::from_spki_base64(trusted.owner());
        known.is_ok_and(|known| known.checksum() == pair.recipient_checksum)
    }

    /// Opens a notification, for somebody to look at. [`Content::is_proved`] says whether to believe it.
    ///
    /// # Errors
    /// It is an envelope that does not open: altered, moved, or for somebody else.
    pub async fn open(&self, incoming: &Incoming) -> Result<Content, Refused> {
        let opened = self.opened(incoming).await;
        if opened.is_err() {
            self.count(&incoming.from, incoming.name.as_str());
        }
        opened
    }

    /// Opens a notification that is to have an effect. Without an envelope it is taken only from a peer that is
    /// known to announce nothing.
    ///
    /// # Errors
    /// It is not known to be genuine.
    pub async fn accept(&self, incoming: &Incoming) -> Result<Content, Refused> {
        let content = self.acceptable(incoming).await;
        if content.is_err() {
            self.count(&incoming.from, incoming.name.as_str());
        }
        content
    }

    async fn acceptable(&self, incoming: &Incoming) -> Result<Content, Refused> {
        let content = self.opened(incoming).await?;
        if content.is_proved || incoming.from == *self.client().atsign() {
            return Ok(content);
        }
        let known = self.0.known.of(self.client(), &incoming.from, false).await.map_err(|_| Refused)?;
        let speaks_so = known.is_some_and(|trusted| trusted.caps().claims.aead);
        let is_envelope = matches!(&incoming.payload, Payload::Opened(plain) if envelope::is_envelope(plain));
        if speaks_so || is_envelope { Err(Refused) } else { Ok(content) }
    }

    async fn opened(&self, incoming: &Incoming) -> Result<Content, Refused> {
        let Payload::Opened(plain) = &incoming.payload else { return Err(Refused) };
        let Some(pair) = incoming.pair.as_ref().filter(|_| envelope::is_envelope(plain)) else {
            return Ok(Content { plain: plain.clone(), is_proved: false });
        };
        let (from, to) = (&incoming.from, self.client().atsign());
        let about = About { from, to, name: &incoming.name, id: &incoming.id };
        let plain = envelope::open(pair, &about, plain).map_err(|_| Refused)?;
        Ok(Content { plain, is_proved: self.is_vouched(from, pair).await })
    }

    /// Refuses something for a reason of the caller's own, such as a repeat.
    pub fn count(&self, from: &AtSign, name: &str) {
        let refused = self.0.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if refused.is_power_of_two() {
            tracing::warn!(%from, name, refused, "refused what is not known to be genuine");
        } else {
            tracing::debug!(%from, name, refused, "refused what is not known to be genuine");
        }
    }

    /// Whether a program of `from` says that this is its key towards us.
    async fn is_vouched(&self, from: &AtSign, pair: &AesKey) -> bool {
        let digest = pair.digest();
        let known = self.vouched(from);
        if known.key.is_some_and(|(key, until)| key == digest && Instant::now() < until) {
            return true;
        }
        if known.quiet_until.is_some_and(|quiet_until| Instant::now() < quiet_until) {
            return false;
        }
        let Ok(Some(trusted)) = self.0.known.of(self.client(), from, true).await else { return false };
        let me = self.client().atsign();
        let found = self.statement(&pair_key(from, me)).await;
        let proof = found
            .ok()
            .flatten()
            .filter(|found| found.serial >= known.serial && found.proves(trusted.caps(), me, pair, now()));
        let mut all = self.0.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_SENDERS && !all.contains_key(from) {
            all.clear();
        }
        let vouched = all.entry(from.clone()).or_default();
        match &proof {
            Some(proof) => {
                *vouched = Vouched {
                    key: Some((digest, Instant::now() + HOUR)),
                    serial: proof.serial,
                    quiet_until: None,
                };
            }
            None => vouched.quiet_until = Some(Instant::now() + QUIET),
        }
        proof.is_some()
    }

    fn vouched(&self, from: &AtSign) -> Vouched {
        let vouched = self.0.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        vouched.get(from).copied().unwrap_or_default()
    }

    /// States to `to` which key is ours, where that is not stated or will soon end.
    async fn state(
        &self,
        identity: &Identity,
        caps: &Caps,
        to: &AtSign,
        key: &AesKey,
    ) -> Result<(), RecordError> {
        let mut stated = self.0.stated.lock().await;
        let digest = key.digest();
        if stated.get(to).is_some_and(|(known, until)| *known == digest && Instant::now() < *until) {
            return Ok(());
        }
        let me = self.client().atsign();
        let record = pair_key(me, to);
        let before = self.statement(&record).await?;
        let middle = self.now().plus_millis(HOLDS_MS / 2);
        if !before.as_ref().is_some_and(|before| before.proves(caps, to, key, middle)) {
            let serial = self.serial_after(before.map(|before| before.serial));
            let (pair, end) = ((me.clone(), to.clone()), self.now().plus_millis(HOLDS_MS));
            let made = PairStatement::sign(&identity.secret, pair, digest, serial, end);
            self.client().put(&record, made.to_json().as_bytes(), Metadata::default()).await?;
        }
        stated.insert(to.clone(), (digest, Instant::now() + self.good_for()));
        Ok(())
    }

    /// The statement in a record, ours or another's; nothing where it cannot be read.
    async fn statement(&self, record: &AtKey) -> Result<Option<PairStatement>, RecordError> {
        let found = match self.client().get(record).await {
            Err(RecordError::Unreadable { .. } | RecordError::Answer { .. }) => None,
            found => found?,
        };
        let text = found.and_then(|found| String::from_utf8(found.value.to_vec()).ok());
        Ok(text.and_then(|text| PairStatement::parse(&text).ok()))
    }

    /// What we announce, published.
    async fn announced(&self, identity: &Identity) -> Result<Arc<Caps>, RecordError> {
        let mut announced = self.0.announced.lock().await;
        if let Some((caps, _)) = announced.as_ref().filter(|(_, until)| Instant::now() < *until) {
            return Ok(Arc::clone(caps));
        }
        let me = self.client().atsign();
        let record = AtKey::Public { name: key_name(CAPS), owner: me.clone() };
        let config = self.client().config();
        let id = config.keys.enrollment_id.clone().unwrap_or_else(|| "owner".to_owned());
        let own = Enrolment { id, name: identity.name.clone(), sign: identity.secret.public() };
        let mut caps = self.published(&record).await?;
        for _ in 0..TRIES {
            let joins = |caps: &Caps, serial, end| {
                Caps::joined(Some(caps), me.clone(), own.clone(), identity.claims, serial, end)
            };
            let middle = self.now().plus_millis(HOLDS_MS / 2);
            if let Some(caps) = caps.as_ref().filter(|caps| {
                let kept = joins(caps, caps.serial, caps.not_after);
                caps.has(&own.sign) && kept.claims == caps.claims && middle < caps.not_after
            }) {
                let caps = Arc::new(caps.clone());
                *announced = Some((Arc::clone(&caps), Instant::now() + self.good_for()));
                return Ok(caps);
            }
            let serial = self.serial_after(caps.as_ref().map(|caps| caps.serial));
            let end = self.now().plus_millis(HOLDS_MS);
            let next = Caps::joined(caps.as_ref(), me.clone(), own.clone(), identity.claims, serial, end);
            self.client().put(&record, next.to_json().as_bytes(), Metadata::default()).await?;
            // Another program of the atSign may have written in the same moment.
            caps = self.published(&record).await?;
        }
        Err(RecordError::Answer { key: record })
    }

    /// Above any before: by the clock, so that even a record that a server has lost is followed by a higher one.
    fn serial_after(&self, before: Option<u64>) -> u64 {
        let clock = u64::try_from(self.now().as_millis()).unwrap_or(0);
        before.map_or(clock, |before| clock.max(before.saturating_add(1)))
    }

    /// The time, or the least that it can be.
    fn now(&self) -> Timestamp {
        let least = self.0.time.as_ref().and_then(|time| time.least()).unwrap_or_default();
        let least = i64::try_from(least.as_millis()).unwrap_or(i64::MAX);
        now().max(Timestamp::from_millis(least))
    }

    /// How long what was published is not looked at again; soon it is where its end may have been reckoned by a
    /// clock that is wrong.
    fn good_for(&self) -> Duration {
        let is_wrong = self.0.time.as_ref().is_some_and(|time| time.least().is_some());
        if is_wrong { MINUTE } else { DAY }
    }

    /// What our server shows of us, if we have signed it.
    async fn published(&self, record: &AtKey) -> Result<Option<Caps>, RecordError> {
        let Some(found) = self.client().get(record).await? else { return Ok(None) };
        let Ok(text) = std::str::from_utf8(&found.value) else { return Ok(None) };
        let own = self.client().config().keys.encryption.public();
        let caps = Caps::parse(text).ok().filter(|_| seal::is_signed_by(own, &found.metadata.set, text));
        Ok(caps.filter(|caps| caps.atsign == *self.client().atsign()))
    }
}

fn pair_key(from: &AtSign, to: &AtSign) -> AtKey {
    AtKey::Shared { name: key_name(PAIR), owner: from.clone(), with: to.clone() }
}

fn key_name(text: &str) -> KeyName {
    text.parse().expect("a constant that is a key name")
}

#[cfg(test)]
mod tests;
