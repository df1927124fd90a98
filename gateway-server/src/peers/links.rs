//! Connections to other atServers, kept while they are of use.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use at_client::resolve::{Directory, Found, RecordKeeper};
use at_client::tls::{ClientTls, dial};
use at_client::wire::{RequestError, Said, WireError};
use at_client::{TlsWire, Wire};
use at_protocol::crypto::{Ed25519Public, Hash, RsaPrivateKey};
use at_protocol::directory::{Address, Registrars, SignedRecord, VerifiedRecord};
use at_protocol::peer::Opening;
use at_protocol::{AtSign, KeyName};
use atedge_service::tls::NodeIdentity;
use tokio::time::{Instant, timeout};

use super::{AskError, CertificateCheck, Nodes};
use crate::node::Node;
use crate::store::{Store, StoreError};
use crate::tenant::{ensure_signing_key, signing_private_key};

/// How long connecting and the handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take (atProtocol wire reference §2.5: 5 s for a look-up, 10 s for a notify).
const ANSWER: Duration = Duration::from_secs(10);
/// How long an unused connection is kept; below what other servers allow (wire reference §2.5).
const IDLE: Duration = Duration::from_secs(60);
/// Connections to the directory that are kept for further questions.
const DIRECTORY: usize = 8;
/// Most connections that are kept unused.
const MOST_IDLE: usize = 200;

/// The way to other atServers.
pub(crate) struct Links {
    directory: Directory,
    tls: ClientTls,
    pub(super) certificates: CertificateCheck,
    nodes: Nodes,
    idle: Mutex<HashMap<Ends, Vec<(Link, Instant)>>>,
    open: Arc<AtomicUsize>,
}

/// What is shown to others and how they are judged.
pub(crate) struct Reach {
    /// For servers of old.
    pub(crate) tls: ClientTls,
    /// By which servers of old are judged that connect.
    pub(crate) certificates: CertificateCheck,
    /// For nodes.
    pub(crate) identity: Arc<NodeIdentity>,
}

/// The store, as it keeps the records that were believed.
struct Kept(Arc<dyn Store>);

impl RecordKeeper for Kept {
    fn keep<'a>(&'a self, record: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let kept = self.0.keep_signed_record(SignedRecord::clone(record)).await;
            if let Err(error) = kept {
                tracing::warn!(atsign = %record.atsign, %error, "a signed record is not kept over a restart");
            }
        })
    }
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
    /// The way to the servers that a directory names, as far as it is believed.
    ///
    /// # Errors
    /// The store does not say which signed records were believed before.
    pub(crate) async fn new(
        directory: &Address,
        registrars: Registrars,
        reach: Reach,
        store: &Arc<dyn Store>,
    ) -> Result<Self, StoreError> {
        let Reach { tls, certificates, identity } = reach;
        let mut directory = Directory::new(directory.clone(), tls.clone()).keeping(DIRECTORY);
        if !registrars.is_empty() {
            // Not those of our own, whom nobody here looks for: a fleet's are many.
            let others = |record: &SignedRecord| record.node().as_bytes() != identity.public();
            let kept = store.signed_records().await?.into_iter().filter(others);
            directory = directory.trusting(registrars, kept, Arc::new(Kept(Arc::clone(store))));
        }
        let nodes = Nodes::new(identity);
        Ok(Self { directory, tls, certificates, nodes, idle: Mutex::default(), open: Arc::default() })
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed) + self.nodes.count()
    }

    /// The nodes that prove themselves by their keys.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The directory, as far as it is believed.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Where an atSign is served, and by which node, if that is known.
    pub(crate) async fn find(&self, of: &AtSign) -> Result<Found, AskError> {
        let found = self.directory.find(of).await;
        let found = found.map_err(|error| AskError::Unreachable(error.to_string()))?;
        found.ok_or_else(|| AskError::NoSuchAtSign(of.clone()))
    }

    /// An atSign was not found where it should be.
    pub(crate) fn suspect(&self, atsign: &AtSign) {
        self.directory.suspect(atsign);
    }

    /// The key of the node that serves an atSign, as far as that is known.
    pub(super) fn bound_to(&self, atsign: &AtSign) -> Option<Ed25519Public> {
        self.directory.record(atsign).map(|record| record.node().clone())
    }

    /// Where the directory says that an atSign's server of old is. Who is found by signed records is spoken to
    /// in no other way.
    pub(super) async fn address(&self, of: &AtSign) -> Result<Address, AskError> {
        let found = self.find(of).await?;
        match found.record {
            None => Ok(found.address),
            Some(_) => Err(AskError::Handshake(format!("{of} is spoken to by its node's key alone"))),
        }
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

    /// One question, in a stream of its own to the node that serves the atSign of the record.
    async fn ask_node(
        &self,
        record: &VerifiedRecord,
        from: Option<&AtSign>,
        line: &str,
    ) -> Result<String, AskError> {
        let to = &record.atsign;
        let stream = self.nodes.open(record).await.map_err(|error| {
            self.suspect(to);
            AskError::Unreachable(error.to_string())
        })?;
        let mut wire = Wire::begin(stream);
        wire.say(&Opening::Ask { from: from.cloned(), to: to.clone() });
        wire.say(&line);
        let mut answer = async || loop {
            match wire.next().await {
                Ok(Said::Answer(answer)) => return answer.map_err(AskError::from),
                Ok(Said::Notification(_)) => {}
                Err(error) => return Err(RequestError::from(error).into()),
            }
        };
        let both = async {
            if let Err(refused) = answer().await {
                self.suspect(to);
                return Err(refused);
            }
            answer().await
        };
        timeout(ANSWER, both).await.map_err(|_| AskError::Timeout)?
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

    /// Keeps a connection that is good for more. One that gave no answer may lead nowhere any more.
    fn keep_after(&self, answer: &Result<String, AskError>, ends: Ends, link: Link) {
        if link.wire.is_broken() || matches!(answer, Err(AskError::Timeout)) {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.values().map(Vec::len).sum::<usize>() < MOST_IDLE {
            idle.entry(ends).or_default().push((link, Instant::now()));
        }
    }

    /// Closes what has not been used for a while.
    pub(crate) fn sweep(&self) {
        self.nodes.sweep();
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
        if let Some(record) = links.find(to).await?.record {
            return links.ask_node(&record, proved.then_some(from), line).await;
        }
        let ends = Ends { proved: proved.then(|| from.clone()), to: to.clone() };
        // A kept connection may have been closed at the other end: then a new one is tried.
        if let Some(mut link) = links.take(&ends) {
            match links.request(&mut link, line).await {
                Err(AskError::Unreachable(error)) => tracing::debug!(%to, error, "connecting anew"),
                answer => {
                    links.keep_after(&answer, ends, link);
                    return answer;
                }
            }
        }
        let mut link = links.open(to).await?;
        if proved {
            self.prove(links, &mut link, from).await?;
        }
        let answer = links.request(&mut link, line).await;
        links.keep_after(&answer, ends, link);
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
