//! What all connections share: the registry, and the rules, which may change while the directory runs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, Distrust, EXTENDED, Registrars, SignedRecord};
use at_protocol::{AtSign, Timestamp};
use atedge_service::tls::{ClientCertificates, OwnCertificate, TlsError};
use rustls::ServerConfig;
use tokio::sync::Semaphore;

use crate::registry::{Registered, Registry, RegistryError};
use crate::upstream::Upstream;
use crate::wire::Known;

/// What a directory goes by. Another set may take its place at any time; open connections go on.
#[derive(Clone)]
pub struct Rules {
    /// The certificate it shows.
    pub certificate: Arc<OwnCertificate>,
    /// What it puts up with.
    pub limits: Limits,
    /// Whose records it takes.
    pub registrars: Registrars,
    /// Whom it asks for names that it does not know, but for those about which a registrar is believed.
    pub upstream: Option<Arc<Upstream>>,
    /// The node keys of directories that may follow this one.
    pub followers: Vec<Ed25519Public>,
}

/// What a directory puts up with. The reference sets none; clients need at least a minute of silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more are closed before TLS begins.
    pub connections: usize,
    /// How many of them one source may have: an IPv4 address, or an IPv6 /64.
    pub connections_per_source: usize,
    /// How long the TLS handshake may take.
    pub handshake: Duration,
    /// How long a connection may say nothing, or take no answer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_source: 1024,
            handshake: Duration::from_secs(10),
            idle: Duration::from_mins(2),
        }
    }
}

impl Rules {
    /// Those of a directory that only answers what operators told it.
    pub fn plain(certificate: Arc<OwnCertificate>) -> Self {
        Self {
            certificate,
            limits: Limits::default(),
            registrars: Registrars::default(),
            upstream: None,
            followers: Vec::new(),
        }
    }
}

/// Rules, and what is made of them.
pub(crate) struct InForce {
    pub(crate) rules: Rules,
    /// For clients that ask for no protocol, or for one that is not ours.
    pub(crate) classic: Arc<ServerConfig>,
    /// For those that ask for ours.
    pub(crate) extended: Arc<ServerConfig>,
}

/// Why a signed record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It is not to be believed.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// Its number is too large.
    #[error("the record has number {0}, which is beyond 2^63")]
    TooHigh(u64),
    /// Records are taken by another directory.
    #[error("this directory follows another one: register there")]
    Follows,
    /// The disk, or the database.
    #[error("the registry cannot be written now")]
    Registry,
}

/// The desk at which all clients are served.
pub(crate) struct Desk {
    pub(crate) registry: Arc<Registry>,
    in_force: RwLock<Arc<InForce>>,
    seats: Mutex<Seats>,
    /// One writes at a time: who waits here holds no thread.
    writing: Semaphore,
    reading: Semaphore,
}

/// Who has how many connections.
#[derive(Default)]
struct Seats {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place for one connection, given back when dropped.
pub(crate) struct Seat {
    desk: Arc<Desk>,
    source: IpAddr,
}

impl Desk {
    pub(crate) fn new(registry: Arc<Registry>, rules: Rules) -> Result<Self, TlsError> {
        Ok(Self {
            registry,
            in_force: RwLock::new(Arc::new(InForce::new(rules)?)),
            seats: Mutex::default(),
            writing: Semaphore::new(1),
            reading: Semaphore::new(1),
        })
    }

    /// The rules of this moment.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes by other rules from now on.
    pub(crate) fn apply(&self, rules: Rules) -> Result<(), TlsError> {
        let in_force = Arc::new(InForce::new(rules)?);
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        Ok(())
    }

    /// A place for one more, if there is one.
    pub(crate) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let Limits { connections, connections_per_source, .. } = self.in_force().rules.limits;
        let source = source(address);
        let mut seats = self.seats();
        let of_source = seats.by_source.get(&source).copied().unwrap_or(0);
        if seats.all >= connections || of_source >= connections_per_source {
            return None;
        }
        seats.all += 1;
        seats.by_source.insert(source, of_source + 1);
        Some(Seat { desk: Arc::clone(self), source })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a directory with this node key may follow.
    pub(crate) fn is_follower(&self, key: &Ed25519Public) -> bool {
        self.in_force().rules.followers.contains(key)
    }

    /// Where a name is served, appended to `out`, as far as it is known here.
    pub(crate) fn find(&self, name: &str, out: &mut Vec<u8>) -> Known {
        if self.registry.write(name, out) {
            return Known::Here;
        }
        let Rules { registrars, upstream, .. } = &self.in_force().rules;
        match name.parse::<AtSign>() {
            // A private name is nobody else's business.
            Ok(atsign) if upstream.is_some() && atsign.as_str() == name && !registrars.govern(&atsign) => {
                Known::Elsewhere(atsign)
            }
            _ => Known::Nowhere,
        }
    }

    /// What the directory above says of an atSign.
    pub(crate) async fn ask_upstream(&self, atsign: &AtSign) -> Option<Address> {
        let upstream = self.in_force().rules.upstream.clone()?;
        upstream.find(atsign).await
    }

    /// The signed record of an atSign.
    pub(crate) async fn record(&self, atsign: &AtSign) -> Result<Option<String>, RegistryError> {
        // Those that cannot have one need not wait for the disk.
        if self.registry.is_signed(atsign.as_str()) != Some(true) {
            return Ok(None);
        }
        let _turn = self.reading.acquire().await.expect("it is never closed");
        let (registry, atsign) = (Arc::clone(&self.registry), atsign.clone());
        blocking(move || registry.record(&atsign)).await
    }

    /// Checks signed records and keeps those that are to be believed, all in one commit. Gives their
    /// numbers.
    pub(crate) async fn register(&self, records: Vec<SignedRecord>) -> Vec<Result<u64, RegisterError>> {
        let _turn = self.writing.acquire().await.expect("it is never closed");
        let (registry, in_force) = (Arc::clone(&self.registry), self.in_force());
        blocking(move || register(&registry, &in_force.rules.registrars, records)).await
    }
}

impl InForce {
    fn new(rules: Rules) -> Result<Self, TlsError> {
        let config = |protocols| rules.certificate.server_config(ClientCertificates::Ignored, protocols);
        Ok(Self { classic: config(&[])?, extended: config(&[EXTENDED])?, rules })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.desk.seats();
        seats.all -= 1;
        if let Entry::Occupied(mut of_source) = seats.by_source.entry(self.source) {
            *of_source.get_mut() -= 1;
            if *of_source.get() == 0 {
                of_source.remove();
            }
        }
    }
}

/// What counts as one source: a site with IPv6 has as many addresses as it likes.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Runs what waits for the disk on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn register(
    registry: &Registry,
    registrars: &Registrars,
    records: Vec<SignedRecord>,
) -> Vec<Result<u64, RegisterError>> {
    let now = Timestamp::from(SystemTime::now());
    let mut believed = Vec::with_capacity(records.len());
    let mut results: Vec<Result<u64, RegisterError>> = records
        .into_iter()
        .map(|record| {
            let seq = record.at.seq;
            believed.push(registrars.verify(record, now)?);
            Ok(seq)
        })
        .collect();
    let kept = match registry.register(&believed) {
        Ok(kept) => kept,
        Err(error) => {
            let is_follower = matches!(error, RegistryError::Follows);
            if !is_follower {
                tracing::error!(%error, "registrations are refused");
            }
            results.iter_mut().filter(|result| result.is_ok()).for_each(|result| {
                let why = if is_follower { RegisterError::Follows } else { RegisterError::Registry };
                *result = Err(why);
            });
            return results;
        }
    };
    for (result, registered) in results.iter_mut().filter(|result| result.is_ok()).zip(kept) {
        let Ok(found) = *result else { continue };
        match registered {
            Registered::New | Registered::Again => {}
            Registered::Older { known } => *result = Err(Distrust::Older { found, known }.into()),
            Registered::TooHigh => *result = Err(RegisterError::TooHigh(found)),
        }
    }
    results
}

impl RegisterError {
    /// Whether who sent it may be guessing.
    pub(crate) fn is_suspicious(&self) -> bool {
        match self {
            Self::Distrust(Distrust::Older { .. }) | Self::TooHigh(_) | Self::Follows | Self::Registry => {
                false
            }
            Self::Distrust(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use atedge_service::tls::DevAuthority;

    use super::*;

    #[test]
    fn seats_are_counted_by_source_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::open_or_create(folder.path(), &[]).unwrap();
        let certificate = OwnCertificate::open(&authority.cert(), &authority.key()).unwrap();
        let limits = Limits { connections: 3, connections_per_source: 2, ..Limits::default() };
        let rules = Rules { limits, ..Rules::plain(certificate) };
        let desk = Arc::new(Desk::new(Registry::open(folder.path()).unwrap(), rules).unwrap());
        let seat = |address: &str| desk.seat(address.parse().unwrap());
        let (first, second) = (seat("2001:db8:0:1::1").unwrap(), seat("2001:db8:0:1:ffff::2").unwrap());
        assert!(seat("2001:db8:0:1::3").is_none(), "the same /64");
        let third = seat("192.0.2.1").unwrap();
        assert!(seat("192.0.2.2").is_none(), "full");
        drop(first);
        let _fourth = seat("::ffff:192.0.2.1").unwrap();
        drop(second);
        assert!(seat("192.0.2.1").is_none(), "mapped addresses are the same source");
        drop(third);
        assert!(seat("192.0.2.1").is_some());
    }
}
