//! The nodes that serve other atSigns: reaching each of them over one connection, and leaving alone for a while
//! who cannot be reached.

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use at_client::pin::pinned;
use at_client::tls::{ClientTls, dial};
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, VerifiedRecord};
use at_protocol::peer::ALPN;
use atedge_service::tls::NodeIdentity;
use quinn::{Connection, Endpoint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::delivery::pause;
use super::quic;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long QUIC has for itself before TLS over TCP is tried beside it.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long a node is spoken to over TCP, where UDP did not get through, before UDP is tried again.
const UDP_AGAIN: Duration = Duration::from_secs(60);
/// How long a connection is kept without a stream.
const UNUSED: Duration = Duration::from_secs(120);
/// Connections that were made and wait to be served.
const MADE: usize = 64;

/// A stream to another node, over either way.
pub(crate) type Stream = Pin<Box<dyn Duplex>>;

/// Both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// Why a node is not reached.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RoadError {
    /// Neither over QUIC nor over TLS.
    #[error("cannot reach the node at {address}: {quic}; over TCP: {tcp}")]
    Unreachable {
        /// Where.
        address: Address,
        /// What QUIC came to.
        quic: String,
        /// What TCP came to.
        tcp: String,
    },
    /// It was not reached a moment ago, and is left alone.
    #[error("{0}; it is left alone for a moment")]
    Resting(Box<RoadError>),
    /// The connection failed when a stream was asked for.
    #[error("the connection to the node at {0} failed: {1}")]
    Failed(Address, String),
}

/// The nodes that were spoken to, by their keys.
pub(crate) struct Nodes {
    identity: Arc<NodeIdentity>,
    roads: Mutex<HashMap<Ed25519Public, Arc<Road>>>,
    endpoint: Mutex<Option<Endpoint>>,
    made: mpsc::Sender<Connection>,
    to_serve: Mutex<Option<mpsc::Receiver<Connection>>>,
}

/// The way to one node.
#[derive(Default)]
struct Road {
    /// Held while a connection is made: who else wants one waits for it.
    state: tokio::sync::Mutex<State>,
    /// A connection that the node has made.
    met: Mutex<Option<Connection>>,
    /// Told when the node can be reached again.
    back: Notify,
}

#[derive(Default)]
struct State {
    way: Option<Way>,
    /// How much had been said on the streams of the connection, and since when it is no more.
    quiet: Option<(u64, Instant)>,
    failures: u32,
    /// Until when it is left alone, and why.
    resting: Option<(Instant, RoadError)>,
}

/// How a node is spoken to.
#[derive(Clone)]
enum Way {
    /// All streams on one connection.
    Quic(Connection),
    /// A connection for each stream, until UDP is to be tried again.
    Tls(ClientTls, Instant),
}

/// What came first.
enum First {
    Quic(Connection),
    Tls(ClientTls, Box<TlsStream<TcpStream>>),
}

/// A way, or the stream that was opened on the way there.
enum Taken {
    Way(Way),
    Stream(Stream),
}

impl Nodes {
    /// Nobody was spoken to yet.
    pub(crate) fn new(identity: Arc<NodeIdentity>) -> Self {
        let (made, to_serve) = mpsc::channel(MADE);
        Self {
            identity,
            roads: Mutex::default(),
            endpoint: Mutex::default(),
            made,
            to_serve: Mutex::new(Some(to_serve)),
        }
    }

    /// The connections that are made from here, which have to be served like those that come; once.
    pub(crate) fn to_serve(&self) -> Option<mpsc::Receiver<Connection>> {
        self.to_serve.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Opens a stream to the node of a record, over the connection that there is, or a new one.
    pub(crate) async fn open(&self, record: &VerifiedRecord) -> Result<Stream, RoadError> {
        let road = self.road(record.node());
        let address = record.quic();
        let way = match self.way(&road, record.node(), &address).await? {
            Taken::Stream(stream) => return Ok(stream),
            Taken::Way(way) => way,
        };
        match way {
            Way::Quic(connection) => match timeout(PATIENCE, quic::open(&connection)).await {
                Ok(Ok(stream)) => Ok(Box::pin(stream)),
                Ok(Err(error)) => Err(RoadError::Failed(address, error.to_string())),
                Err(_) => Err(RoadError::Failed(address, "no stream is to be had".to_owned())),
            },
            Way::Tls(tls, _) => match dial(&address, &tls, PATIENCE).await {
                Ok(stream) => Ok(Box::pin(stream)),
                Err(error) => {
                    let quic = "it did not get through before".to_owned();
                    Err(road.state.lock().await.rest(&address, quic, error.to_string()))
                }
            },
        }
    }

    /// A node has made a connection, and was found to speak for somebody: it can be reached over that.
    pub(crate) fn met(&self, key: &Ed25519Public, connection: &Connection) {
        let road = self.road(key);
        *road.met() = Some(connection.clone());
        road.back.notify_waiters();
    }

    /// Waits as long, or until the node of this key can be reached again.
    pub(crate) async fn rest(&self, key: &Ed25519Public, time: Duration) {
        let road = self.road(key);
        // Who finds it back in the meantime says so.
        drop(timeout(time, road.back.notified()).await);
    }

    /// Closes what has not been used for a while, and forgets who is not spoken to.
    pub(crate) fn sweep(&self) {
        self.roads().retain(|_, road| {
            let Ok(mut state) = road.state.try_lock() else { return true };
            road.met().take_if(|met| !is_open(met));
            state.close_unused();
            state.way.take_if(|way| !way.is_good());
            let is_resting = state.resting.as_ref().is_some_and(|(until, _)| *until > Instant::now());
            state.way.is_some() || is_resting || Arc::strong_count(road) > 1
        });
    }

    /// How many nodes are connected.
    pub(crate) fn count(&self) -> usize {
        let roads = self.roads();
        roads.values().filter(|road| road.state.try_lock().is_ok_and(|state| state.way.is_some())).count()
    }

    async fn way(&self, road: &Road, key: &Ed25519Public, address: &Address) -> Result<Taken, RoadError> {
        let mut state = road.state.lock().await;
        if let Some(way) = state.way.clone().filter(Way::is_good) {
            return Ok(Taken::Way(way));
        }
        if let Some(met) = road.met().clone().filter(is_open) {
            return Ok(Taken::Way(state.up(Way::Quic(met))));
        }
        if let Some((_, why)) = state.resting.as_ref().filter(|(until, _)| *until > Instant::now()) {
            return Err(RoadError::Resting(Box::new(why.clone())));
        }
        let taken = match self.connect(key, address).await {
            Ok(First::Quic(connection)) => Taken::Way(state.up(Way::Quic(connection))),
            Ok(First::Tls(tls, stream)) => {
                tracing::info!(%address, "UDP does not get through: the node is spoken to over TCP");
                state.up(Way::Tls(tls, Instant::now() + UDP_AGAIN));
                Taken::Stream(Box::pin(stream))
            }
            Err((quic, tcp)) => return Err(state.rest(address, quic, tcp)),
        };
        road.back.notify_waiters();
        Ok(taken)
    }

    /// QUIC, and if that takes long, TLS beside it: whichever is there first. Both prove the same keys, so
    /// whoever drops packets gains nothing.
    async fn connect(&self, key: &Ed25519Public, address: &Address) -> Result<First, (String, String)> {
        let shown = Arc::clone(&self.identity) as Arc<dyn rustls::client::ResolvesClientCert>;
        let tls = ClientTls::from(pinned(key, Some(shown), ALPN));
        let hurry = CancellationToken::new();
        let mut over_quic = pin!(timeout(PATIENCE, self.over_quic(key, address)));
        let mut over_tcp = pin!(async {
            drop(timeout(HEAD_START, hurry.cancelled()).await);
            dial(address, &tls, PATIENCE).await
        });
        let (mut quic_failed, mut tcp_failed) = (None, None);
        loop {
            tokio::select! {
                quic = &mut over_quic, if quic_failed.is_none() => match quic {
                    Ok(Ok(connection)) => return Ok(First::Quic(connection)),
                    Ok(Err(error)) => quic_failed = Some(error.to_string()),
                    Err(_) => quic_failed = Some("no answer over UDP".to_owned()),
                },
                tcp = &mut over_tcp, if tcp_failed.is_none() => match tcp {
                    Ok(stream) => return Ok(First::Tls(tls.clone(), Box::new(stream))),
                    Err(error) => tcp_failed = Some(error.to_string()),
                },
            }
            match (&mut quic_failed, &mut tcp_failed) {
                (Some(quic), Some(tcp)) => return Err((std::mem::take(quic), std::mem::take(tcp))),
                (Some(_), None) => hurry.cancel(),
                (None, _) => {}
            }
        }
    }

    async fn over_quic(&self, key: &Ed25519Public, address: &Address) -> io::Result<Connection> {
        let endpoint = self.endpoint()?;
        let found = tokio::net::lookup_host((address.host(), address.port())).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
        for candidate in found {
            match quic::connect(&endpoint, &self.identity, key, (candidate, address.host())).await {
                Ok(connection) => {
                    // It is served as long as it lives; where nobody does, it still carries what we send.
                    drop(self.made.try_send(connection.clone()));
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn endpoint(&self) -> io::Result<Endpoint> {
        let mut endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        match &*endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(endpoint.insert(quic::endpoint()?).clone()),
        }
    }

    fn road(&self, key: &Ed25519Public) -> Arc<Road> {
        Arc::clone(self.roads().entry(key.clone()).or_default())
    }

    fn roads(&self) -> MutexGuard<'_, HashMap<Ed25519Public, Arc<Road>>> {
        self.roads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Road {
    fn met(&self) -> MutexGuard<'_, Option<Connection>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn up(&mut self, way: Way) -> Way {
        (self.failures, self.resting, self.quiet) = (0, None, None);
        self.way.insert(way).clone()
    }

    fn rest(&mut self, address: &Address, quic: String, tcp: String) -> RoadError {
        let why = RoadError::Unreachable { address: address.clone(), quic, tcp };
        self.way = None;
        self.resting = Some((Instant::now() + pause(self.failures, crate::random::byte()), why.clone()));
        self.failures = self.failures.saturating_add(1);
        why
    }

    fn close_unused(&mut self) {
        let Some(Way::Quic(connection)) = &self.way else { return };
        let stats = connection.stats();
        let said = stats.frame_rx.stream + stats.frame_tx.stream;
        match self.quiet {
            Some((before, since)) if before == said => {
                if since.elapsed() > UNUSED {
                    quic::close(connection, quic::Reason::Unused);
                }
            }
            Some(_) | None => self.quiet = Some((said, Instant::now())),
        }
    }
}

impl Way {
    fn is_good(&self) -> bool {
        match self {
            Self::Quic(connection) => is_open(connection),
            Self::Tls(_, until) => *until > Instant::now(),
        }
    }
}

fn is_open(connection: &Connection) -> bool {
    connection.close_reason().is_none()
}
