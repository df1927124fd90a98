//! Connections to other atServers, kept while they are of use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use at_client::TlsWire;
use at_client::resolve::Directory;
use at_client::tls::{ClientTls, dial};
use at_client::wire::{RequestError, WireError};
use at_protocol::crypto::{Hash, RsaPrivateKey};
use at_protocol::directory::Address;
use at_protocol::{AtSign, KeyName};
use tokio::time::{Instant, timeout};

use super::{AskError, CertificateCheck};
use crate::node::Node;
use crate::store::StoreError;
use crate::tenant::{ensure_signing_key, signing_private_key};

/// How long connecting and the handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take (atProtocol wire reference §2.5: 5 s for a look-up, 10 s for a notify).
const ANSWER: Duration = Duration::from_secs(10);
/// How long an unused connection is kept; below what other servers allow (wire reference §2.5).
const IDLE: Duration = Duration::from_secs(60);
/// Most connections that are kept unused.
const MOST_IDLE: usize = 200;

/// The way to other atServers.
pub(crate) struct Links {
    directory: Directory,
    tls: ClientTls,
    pub(super) certificates: CertificateCheck,
    idle: Mutex<HashMap<Ends, Vec<(Link, Instant)>>>,
    open: Arc<AtomicUsize>,
}

/// Who is connected with whom. Connections that proved nobody belong to all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ends {
    proved: Option<AtSign>,
    to: AtSign,
}

/// One connection, counted while it is open.
pub(super) struct Link {
    wire: TlsWire,
    counted: Arc<AtomicUsize>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.counted.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Links {
    pub(crate) fn new(directory: Directory, tls: ClientTls, certificates: CertificateCheck) -> Self {
        Self { directory, tls, certificates, idle: Mutex::default(), open: Arc::default() }
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Where the directory says that an atSign's server is.
    pub(super) async fn address(&self, of: &AtSign) -> Result<Address, AskError> {
        let found = self.directory.find(of).await;
        let found = found.map_err(|error| AskError::Unreachable(error.to_string()))?;
        found.map(|found| found.address).ok_or_else(|| AskError::NoSuchAtSign(of.clone()))
    }

    /// A new connection on which nobody has proved anything.
    pub(super) async fn open(&self, to: &AtSign) -> Result<Link, AskError> {
        let address = self.address(to).await?;
        let unreachable = |error: String| {
            self.directory.suspect(to);
            AskError::Unreachable(error)
        };
        let stream = dial(&address, &self.tls, PATIENCE).await;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        let wire = timeout(PATIENCE, TlsWire::open(stream)).await.map_err(|_| AskError::Timeout)?;
        let wire = wire.map_err(|error| unreachable(error.to_string()))?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Link { wire, counted: Arc::clone(&self.open) })
    }

    /// One question on a connection.
    pub(super) async fn request(&self, link: &mut Link, line: &str) -> Result<String, AskError> {
        let answer = timeout(ANSWER, link.wire.request(&line)).await.map_err(|_| AskError::Timeout)?;
        answer.map_err(AskError::from)
    }

    fn take(&self, ends: &Ends) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let links = idle.get_mut(ends)?;
        while let Some((link, since)) = links.pop() {
            if since.elapsed() < IDLE {
                return Some(link);
            }
        }
        None
    }

    fn keep(&self, ends: Ends, link: Link) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.values().map(Vec::len).sum::<usize>() < MOST_IDLE {
            idle.entry(ends).or_default().push((link, Instant::now()));
        }
    }

    /// Closes what has not been used for a while.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, links| {
            links.retain(|(_, since)| since.elapsed() < IDLE);
            !links.is_empty()
        });
    }
}

impl Node {
    /// Asks the server of `to`, as the server of `from` if that has to be `proved`.
    pub(crate) async fn ask(
        &self,
        from: &AtSign,
        to: &AtSign,
        line: &str,
        proved: bool,
    ) -> Result<String, AskError> {
        let links = self.links()?;
        let ends = Ends { proved: proved.then(|| from.clone()), to: to.clone() };
        // A kept connection may have been closed at the other end: then a new one is tried.
        if let Some(mut link) = links.take(&ends) {
            match links.request(&mut link, line).await {
                Err(AskError::Unreachable(error)) => tracing::debug!(%to, error, "connecting anew"),
                answer => {
                    if !link.wire.is_broken() {
                        links.keep(ends, link);
                    }
                    return answer;
                }
            }
        }
        let mut link = links.open(to).await?;
        if proved {
            self.prove(links, &mut link, from).await?;
        }
        let answer = links.request(&mut link, line).await;
        if !link.wire.is_broken() {
            links.keep(ends, link);
        }
        answer
    }

    /// Proves that we are the server of `me` (atProtocol wire reference §3.6, steps 2 to 7).
    async fn prove(&self, links: &Links, link: &mut Link, me: &AtSign) -> Result<(), AskError> {
        let answer = links.request(link, &format!("from:{me}")).await?;
        let strange = || AskError::Handshake("the other server asked for a strange proof".to_owned());
        let asked = answer.strip_prefix("proof:").ok_or_else(strange)?;
        let (cookie, proof) = asked.rsplit_once(':').ok_or_else(strange)?;
        let session = cookie.strip_suffix(&me.to_string()).ok_or_else(strange)?;
        // The other server must not make us show its words under the name of a real record.
        let name: KeyName = session.parse().map_err(|_| strange())?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !session.strip_prefix('_').is_some_and(|id| id.chars().all(plain)) {
            return Err(strange());
        }
        let signature = self.signature(me, proof.to_owned()).await?;
        self.cookies.show(name, me.clone(), signature);
        let accepted = timeout(ANSWER, link.wire.pol(me)).await.map_err(|_| AskError::Timeout)?;
        accepted.map_err(|error| AskError::Handshake(error.to_string()))
    }

    /// Shows under `cookie` how `me`, a tenant, answers the proof that another tenant's server asks for;
    /// `false` if it cannot. For tests: tenants of one node never ask each other over the wire.
    pub async fn show_signature(&self, me: &AtSign, cookie: KeyName, proof: &str) -> bool {
        let signature = self.signature(me, proof.to_owned()).await;
        signature.map(|signature| self.cookies.show(cookie, me.clone(), signature)).is_ok()
    }

    async fn signature(&self, me: &AtSign, proof: String) -> Result<String, AskError> {
        let no_key = || AskError::Handshake(format!("{me} has no signing key"));
        let failed = |error: StoreError| AskError::Unreachable(error.to_string());
        let key = signing_private_key(me);
        let mut record = self.store.record(me, &key).await.map_err(failed)?;
        if record.is_none() {
            // A tenant that was added a moment ago waits for its key here.
            ensure_signing_key(self, me).await.map_err(failed)?;
            record = self.store.record(me, &key).await.map_err(failed)?;
        }
        let text = record.ok_or_else(no_key)?.value;
        let sign = move || {
            RsaPrivateKey::from_pkcs8_base64(&text).map(|key| key.sign(proof.as_bytes(), Hash::Sha256))
        };
        let signature = tokio::task::spawn_blocking(sign).await;
        signature.ok().and_then(Result::ok).ok_or_else(no_key)
    }
}

impl From<RequestError> for AskError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(error) => error.into(),
            RequestError::Broken(WireError::Silent(_)) => Self::Timeout,
            RequestError::Broken(WireError::Dismissed(error)) => error.into(),
            RequestError::Broken(error) => Self::Unreachable(error.to_string()),
        }
    }
}
