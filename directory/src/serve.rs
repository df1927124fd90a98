//! Listens, and keeps up what is answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use at_protocol::directory::EXTENDED;
use atedge_service::tls::{NodeIdentity, TlsError};
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::connection;
use crate::desk::{Desk, Rules};
use crate::follow::{Replica, ReplicaSettings};
use crate::quic;
use crate::registry::{Registry, RegistryError};
use crate::web;
use crate::wire::Dialect;

/// How soon a change by another process is answered.
const REFRESH: Duration = Duration::from_millis(500);
/// How soon a certificate that was replaced is shown.
const CERTIFICATE: Duration = Duration::from_mins(1);
/// How long to wait when the system gives out no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long open connections get to end when the directory stops.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What a directory needs to run.
pub struct DirectoryConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Where it answers over HTTPS as well, if it does.
    pub https: Option<SocketAddr>,
    /// What it answers.
    pub registry: Arc<Registry>,
    /// What it goes by.
    pub rules: Rules,
    /// What it needs to speak with other directories, over QUIC; without, it opens no UDP port.
    pub nodes: Option<Nodes>,
}

/// What a directory needs to speak with others.
pub struct Nodes {
    /// Who it is.
    pub identity: Arc<NodeIdentity>,
    /// Whom it follows.
    pub replica: Option<ReplicaSettings>,
}

/// Why a directory does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is not to be had.
    #[error("cannot listen on {address}: {source}; is another program using it?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate cannot be shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The registry cannot be changed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The service: [`Directory::start`].
pub struct Directory;

/// A directory that answers.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for HTTPS.
    pub https: Option<SocketAddr>,
    /// What it answers; changes are answered at once.
    pub registry: Arc<Registry>,
    desk: Arc<Desk>,
    tasks: JoinSet<()>,
}

impl Directory {
    /// Listens, and answers until `stop`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(config: DirectoryConfig, stop: CancellationToken) -> Result<Running, StartError> {
        let DirectoryConfig { address, https, registry, rules, nodes } = config;
        let replica = nodes.as_ref().and_then(|nodes| nodes.replica.clone());
        match &replica {
            Some(_) => drop(registry.begin()?),
            None => registry.lead()?,
        }
        let (listener, address) = listen(address).await?;
        let https = match https {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let desk = Arc::new(Desk::new(Arc::clone(&registry), rules)?);
        info!(%address, names = registry.len(), "answering");
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_up(Arc::clone(&desk), stop.clone()));
        if let Some(Nodes { identity, .. }) = nodes {
            let socket = quic::bind(address).map_err(|source| StartError::Listen { address, source })?;
            tasks.spawn(quic::hear(socket, Arc::clone(&identity), Arc::clone(&desk), stop.clone()));
            if let Some(settings) = replica {
                tasks.spawn(Replica { settings, identity, desk: Arc::clone(&desk) }.run(stop.clone()));
            }
        }
        let https = https.map(|(listener, address)| {
            info!(%address, "answering over HTTPS");
            tasks.spawn(accept(listener, Door::Web, Arc::clone(&desk), stop.clone()));
            address
        });
        tasks.spawn(accept(listener, Door::Lines, Arc::clone(&desk), stop));
        Ok(Running { address, https, registry, desk, tasks })
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// What is spoken behind a port.
#[derive(Clone, Copy)]
enum Door {
    /// What clients of directories speak.
    Lines,
    /// HTTP.
    Web,
}

impl Running {
    /// What it goes by.
    pub fn rules(&self) -> Rules {
        self.desk.in_force().rules.clone()
    }

    /// Goes by other rules from now on; open connections go on.
    ///
    /// # Errors
    /// When the certificate cannot be shown: nothing has changed then.
    pub fn apply(&self, rules: Rules) -> Result<(), TlsError> {
        self.desk.apply(rules)
    }

    /// Waits until the directory has stopped: no sooner than its token is cancelled.
    ///
    /// # Panics
    /// When one of its tasks did.
    pub async fn wait(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(failed) = ended
                && failed.is_panic()
            {
                std::panic::resume_unwind(failed.into_panic());
            }
        }
    }
}

/// Answers what other processes have changed, and shows a certificate that was replaced.
async fn keep_up(desk: Arc<Desk>, stop: CancellationToken) {
    let (mut changes, mut certificate) = (interval(REFRESH), interval(CERTIFICATE));
    for due in [&mut changes, &mut certificate] {
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        let is_certificate = tokio::select! {
            _ = changes.tick() => false,
            _ = certificate.tick() => true,
            () = stop.cancelled() => return,
        };
        let desk = Arc::clone(&desk);
        let work = move || {
            if is_certificate {
                desk.in_force().rules.certificate.refresh();
            } else if let Err(error) = desk.registry.refresh() {
                warn!(%error, "answering what was known before");
            }
        };
        if tokio::task::spawn_blocking(work).await.is_err() {
            return;
        }
    }
}

async fn accept(listener: TcpListener, door: Door, desk: Arc<Desk>, stop: CancellationToken) {
    let mut guests = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = guests.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(seat) = desk.seat(peer.ip()) else {
            debug!(%peer, "full: connection closed");
            continue;
        };
        let (desk, stop) = (Arc::clone(&desk), stop.clone());
        guests.spawn(async move {
            if let Err(error) = welcome(socket, door, &desk, &stop).await {
                debug!(%peer, %error, "connection ended");
            }
            drop(seat);
        });
    }
    drop(listener);
    let ending = async { while guests.join_next().await.is_some() {} };
    if timeout(STOP_GRACE, ending).await.is_err() {
        debug!("connections that would not end were cut");
    }
}

async fn welcome(socket: TcpStream, door: Door, desk: &Desk, stop: &CancellationToken) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let in_force = desk.in_force();
    let handshake = Box::pin(async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        // Who asks for protocols that are not ours is a client like any other.
        let is_extended =
            hello.client_hello().alpn().is_some_and(|mut asked| asked.any(|name| name == EXTENDED));
        let (config, dialect) = if is_extended {
            (&in_force.extended, Dialect::Extended)
        } else {
            (&in_force.classic, Dialect::Classic)
        };
        Ok::<_, io::Error>((hello.into_stream(Arc::clone(config)).await?, dialect))
    });
    let (stream, dialect) = tokio::select! {
        agreed = timeout(in_force.rules.limits.handshake, handshake) => agreed??,
        () = stop.cancelled() => return Ok(()),
    };
    drop(in_force);
    match door {
        Door::Lines => connection::serve(stream, desk, dialect, stop).await,
        Door::Web => {
            web::serve(stream, desk, stop).await;
            Ok(())
        }
    }
}
