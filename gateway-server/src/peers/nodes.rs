//! The nodes that serve other atSigns: reaching each of them over one connection, and leaving alone for a while
//! who cannot be reached.

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::quic;
use super::roads::{ALONE, Failed, HEAD_START, Look, PATIENCE, Race, Road, RoadError, UDP_AGAIN, Way};

/// Connections that were made and wait to be served.
const MADE: usize = 64;

/// A stream to another node, over either way.
pub(crate) type Stream = Pin<Box<dyn Duplex>>;

/// Both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// The nodes that were spoken to, by their keys.
pub(crate) struct Nodes {
    identity: Arc<NodeIdentity>,
    neighbours: Mutex<HashMap<Ed25519Public, Arc<Neighbour>>>,
    endpoint: Mutex<Option<Endpoint>>,
    made: mpsc::Sender<Connection>,
    to_serve: Mutex<Option<mpsc::Receiver<Connection>>>,
}

/// One node that was spoken to.
#[derive(Default)]
struct Neighbour {
    /// Held while a connection is made: who else wants one waits for it.
    road: tokio::sync::Mutex<Road<Over>>,
    /// A connection that the node has made.
    met: Mutex<Option<Connection>>,
    /// Told when the node can be reached again.
    back: Notify,
}

/// How a node is spoken to.
#[derive(Clone)]
enum Over {
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
    Way(Over),
    Stream(Stream),
}

impl Nodes {
    /// Nobody was spoken to yet.
    pub(crate) fn new(identity: Arc<NodeIdentity>) -> Self {
        let (made, to_serve) = mpsc::channel(MADE);
        Self {
            identity,
            neighbours: Mutex::default(),
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
        let neighbour = self.neighbour(record.node());
        let address = record.quic();
        let way = match self.way(&neighbour, record.node(), &address).await? {
            Taken::Stream(stream) => return Ok(stream),
            Taken::Way(way) => way,
        };
        match way {
            Over::Quic(connection) => match timeout(PATIENCE, quic::open(&connection)).await {
                Ok(Ok(stream)) => Ok(Box::pin(stream)),
                Ok(Err(error)) => Err(RoadError::Failed(address, error.to_string())),
                Err(_) => Err(RoadError::Failed(address, "no stream is to be had".to_owned())),
            },
            Over::Tls(tls, _) => match Box::pin(dial(&address, &tls, PATIENCE)).await {
                Ok(stream) => Ok(Box::pin(stream)),
                Err(error) => {
                    let quic = "it did not get through before".to_owned();
                    let why = RoadError::Unreachable { address, quic, tcp: error.to_string() };
                    neighbour.road.lock().await.down(why.clone(), now(), crate::random::byte());
                    Err(why)
                }
            },
        }
    }

    /// A node has made a connection, and was found to speak for somebody: it can be reached over that. It makes
    /// one at a time, so what it has made before is lost: where it was killed, this is the first that is heard of
    /// it, long before the silence is.
    pub(crate) fn met(&self, key: &Ed25519Public, connection: &Connection) {
        let neighbour = self.neighbour(key);
        let before = neighbour.met().replace(connection.clone());
        if let Some(before) = before {
            quic::close(&before, quic::Reason::Replaced);
        }
        neighbour.back.notify_waiters();
    }

    /// Waits as long, or until the node of this key can be reached again.
    pub(crate) async fn rest(&self, key: &Ed25519Public, time: Duration) {
        let neighbour = self.neighbour(key);
        // Who finds it back in the meantime says so.
        drop(timeout(time, neighbour.back.notified()).await);
    }

    /// Closes what has not been used for a while, and forgets who is not spoken to.
    pub(crate) fn sweep(&self) {
        self.neighbours().retain(|_, neighbour| {
            let Ok(mut road) = neighbour.road.try_lock() else { return true };
            neighbour.met().take_if(|met| !is_open(met));
            if let Some(Over::Quic(connection)) = road.way() {
                let (connection, stats) = (connection.clone(), connection.stats());
                if road.is_unused(stats.frame_rx.stream + stats.frame_tx.stream, now()) {
                    quic::close(&connection, quic::Reason::Unused);
                }
            }
            !road.is_forgettable(now()) || Arc::strong_count(neighbour) > 1
        });
    }

    /// How many nodes are connected.
    pub(crate) fn count(&self) -> usize {
        let neighbours = self.neighbours();
        let is_connected = |one: &&Arc<Neighbour>| one.road.try_lock().is_ok_and(|road| road.way().is_some());
        neighbours.values().filter(is_connected).count()
    }

    async fn way(
        &self,
        neighbour: &Neighbour,
        key: &Ed25519Public,
        address: &Address,
    ) -> Result<Taken, RoadError> {
        let mut road = neighbour.road.lock().await;
        let met = neighbour.met().clone().map(Over::Quic);
        match road.look(met, now()) {
            Look::Take(way) => return Ok(Taken::Way(way)),
            Look::Leave(why) => return Err(why),
            Look::Connect => {}
        }
        // On the heap: what uses the connection for long does not carry its making along.
        let taken = match Box::pin(self.connect(key, address)).await {
            Ok(First::Quic(connection)) => {
                road.up(Over::Quic(connection.clone()));
                Taken::Way(Over::Quic(connection))
            }
            Ok(First::Tls(tls, stream)) => {
                tracing::info!(%address, "UDP does not get through: the node is spoken to over TCP");
                road.up(Over::Tls(tls, now() + UDP_AGAIN));
                Taken::Stream(Box::pin(stream))
            }
            Err((quic, tcp)) => {
                let why = RoadError::Unreachable { address: address.clone(), quic, tcp };
                road.down(why.clone(), now(), crate::random::byte());
                return Err(why);
            }
        };
        neighbour.back.notify_waiters();
        Ok(taken)
    }

    async fn connect(&self, key: &Ed25519Public, address: &Address) -> Result<First, (String, String)> {
        let shown = Arc::clone(&self.identity) as Arc<dyn rustls::client::ResolvesClientCert>;
        let tls = ClientTls::from(pinned(key, Some(shown), ALPN));
        let hurry = CancellationToken::new();
        let mut over_quic = pin!(self.over_quic(key, address));
        let mut over_tcp = pin!(async {
            drop(timeout(HEAD_START, hurry.cancelled()).await);
            dial(address, &tls, PATIENCE).await
        });
        let (mut race, mut late) = (Race::default(), pin!(sleep(PATIENCE)));
        loop {
            let failed = tokio::select! {
                quic = &mut over_quic, if race.has_quic() => match quic {
                    Ok(connection) => return Ok(First::Quic(connection)),
                    Err(error) => race.on_quic_failed(error.to_string()),
                },
                tcp = &mut over_tcp, if race.has_tcp() => match tcp {
                    Ok(stream) => return Ok(First::Tls(tls.clone(), Box::new(stream))),
                    Err(error) => {
                        late.as_mut().reset((now() + ALONE).into());
                        race.on_tcp_failed(error.to_string())
                    }
                },
                () = &mut late, if !race.has_tcp() => race.on_quic_failed("no answer over UDP".to_owned()),
            };
            match failed {
                Failed::Wait => {}
                Failed::Hurry => hurry.cancel(),
                Failed::Both(quic, tcp) => return Err((quic, tcp)),
            }
        }
    }

    /// Connects to the first of the host's addresses that answers within its share of the patience.
    async fn over_quic(&self, key: &Ed25519Public, address: &Address) -> io::Result<Connection> {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no answer over UDP");
        let (endpoint, until) = (self.endpoint()?, now() + PATIENCE);
        let found = timeout(PATIENCE, tokio::net::lookup_host((address.host(), address.port())));
        let found: Vec<_> = found.await.map_err(|_| silent())??.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
        for (tried, candidate) in found.iter().enumerate() {
            let left = u32::try_from(found.len() - tried).unwrap_or(u32::MAX);
            let share = until.saturating_duration_since(now()) / left;
            let connecting = quic::connect(&endpoint, &self.identity, key, (*candidate, address.host()));
            match timeout(share, connecting).await.unwrap_or_else(|_| Err(silent())) {
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

    fn neighbour(&self, key: &Ed25519Public) -> Arc<Neighbour> {
        Arc::clone(self.neighbours().entry(key.clone()).or_default())
    }

    fn neighbours(&self) -> MutexGuard<'_, HashMap<Ed25519Public, Arc<Neighbour>>> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Neighbour {
    fn met(&self) -> MutexGuard<'_, Option<Connection>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way for Over {
    fn is_good(&self, now: Instant) -> bool {
        match self {
            Self::Quic(connection) => is_open(connection),
            Self::Tls(_, until) => *until > now,
        }
    }
}

fn is_open(connection: &Connection) -> bool {
    connection.close_reason().is_none()
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
