//! A node that listens: on the address that all tenants share, and on those that are one tenant's alone.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use at_client::tls::{ClientTls, Trust};
use at_protocol::AtSign;
use at_protocol::directory::Address;
use atedge_service::tls::{BothCertificates, NodeIdentity, NodeIdentityError, OwnCertificate};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announce::Announcer;
use crate::config::ServerConfig;
use crate::descriptors;
use crate::house::House;
use crate::identity::{Identity, IdentityError, KEY_FILE};
use crate::listen::{Bound, ResetKey, Shown};
use crate::moving::Mover;
use crate::node::Node;
use crate::peers::{CertificateCheck, Reach, deliver, serve_made};
use crate::store::{Departure, StoreError, Tenant};

/// The certificates of a server, at both ends of its connections.
pub struct ServerTls {
    /// For those who connect.
    shown: Shown,
    /// What is shown at both ends.
    certificate: Arc<OwnCertificate>,
    identity: Arc<NodeIdentity>,
    /// For connecting to other servers; none where no directory is configured.
    peers: Option<Reach>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("cannot open {}: {source}; is another server running on it?", path.display())]
    Store {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        source: crate::store::OpenError,
    },
    /// The store was opened and failed.
    #[error(transparent)]
    StoreFailed(#[from] StoreError),
    /// An address is not to be had.
    #[error("cannot listen on {address}: {source}; is another program using it?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the state folder.
    #[error("cannot write to {}: {source}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The node's own key.
    #[error(transparent)]
    Identity(#[from] NodeIdentityError),
    /// The server's own certificate.
    #[error(transparent)]
    Tls(#[from] atedge_service::tls::TlsError),
    /// The certificate as it is shown to other servers.
    #[error(transparent)]
    PeerTls(#[from] at_client::tls::TlsError),
    /// No authority to check other servers by.
    #[error("this machine trusts no certificate authority; install ca-certificates or set [directory] ca")]
    NobodyTrusted,
    /// The node's grant.
    #[error(transparent)]
    Granted(#[from] IdentityError),
    /// There is a grant, but no name that records could say.
    #[error(
        "[server] node_grant needs [server] host or [listen] domain: the name by which others find this node"
    )]
    NoHost,
    /// The runtime is going down.
    #[error("interrupted")]
    Interrupted,
}

/// Why a tenant was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddTenantError {
    /// It is here already.
    #[error("{0} is hosted here already")]
    Exists(AtSign),
    /// Its address is not to be had.
    #[error("cannot listen on {address}: {source}; is another program using it?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ServerTls {
    /// The configuration of a listener over TCP.
    #[must_use]
    pub fn listener(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.shown.tls)
    }

    /// Reads (or with `dev`, makes) the certificates that the configuration names.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn load(config: &ServerConfig, state: &Path) -> Result<Self, StartError> {
        let certificate = config.tls.certificate(state)?;
        let identity = Arc::new(NodeIdentity::open_or_create(&state.join(KEY_FILE))?);
        let shown = Shown::of(&BothCertificates::new(Arc::clone(&certificate), Arc::clone(&identity)))?;
        let peers = match &config.directory {
            None => None,
            Some(directory) => {
                let ca = directory.ca.clone().or_else(|| config.tls.dev.then(|| state.join("ca.pem")));
                let certificates = CertificateCheck::new(ca.as_deref())?;
                let tls = ClientTls::new(&Trust::System { and: ca }, Some(certificate.clone()))?;
                Some(Reach { tls, certificates, identity: Arc::clone(&identity) })
            }
        };
        Ok(Self { shown, certificate, identity, peers })
    }

    /// Whether the certificates that the configuration names would do; nothing is made.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn check(config: &ServerConfig, state: &Path) -> Result<(), StartError> {
        config.tls.certificate(state)?;
        if let Some(directory) = &config.directory {
            CertificateCheck::new(directory.ca.as_deref())?;
        }
        Ok(())
    }

    /// The node's key, by which other nodes know it.
    #[must_use]
    pub fn identity(&self) -> &Arc<NodeIdentity> {
        &self.identity
    }
}

/// Starts servers.
pub struct Server;

/// A server that runs.
pub struct Running {
    house: Arc<House>,
    shared: SocketAddr,
}

impl Server {
    /// Opens the store below `state` and listens, for all tenants that are in it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        mut config: ServerConfig,
        tls: ServerTls,
        state: &Path,
        stop: CancellationToken,
    ) -> Result<Running, StartError> {
        let most = &mut config.limits.node.connections;
        *most = descriptors::fitting(*most);
        let client = tls.peers.as_ref().map(|reach| reach.tls.clone());
        let address = config.listen.address;
        let node = Arc::new(Node::open(config, state, tls.peers).await?);
        let unwritable = |source| StartError::State { path: state.to_owned(), source };
        let resets = ResetKey::open_or_create(state).map_err(unwritable)?;
        let failed = |source| StartError::Listen { address, source };
        let bound = Bound::to(address, node.config.listen.quic).await.map_err(failed)?;
        let shared = bound.address().map_err(failed)?;
        let announcer = announcer(&node.config, client, state, shared.port())?;
        let mover = announcer.clone().map(|announcer| Mover {
            node: Arc::clone(&node),
            announcer,
            identity: tls.identity,
            folder: state.to_owned(),
            settling: tokio::sync::Mutex::default(),
            copying: Arc::default(),
        });
        let house = Arc::new(House {
            node,
            dedicated: Mutex::default(),
            shown: tls.shown,
            resets,
            certificate: tls.certificate,
            shared,
            announcer,
            mover,
            leaving: Mutex::default(),
            away: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
            moving: tokio::sync::Mutex::default(),
        });
        house.find_away().await?;
        house.listen(bound, None, house.stop.clone());
        for Tenant { atsign, listen } in house.node.store.tenants().await? {
            if house.is_away(&atsign) {
                continue;
            }
            house
                .move_in(&atsign, listen)
                .await
                .map_err(|(address, source)| StartError::Listen { address, source })?;
        }
        let tasks = &house.tasks;
        tasks.spawn(Arc::clone(&house).keep_up());
        tasks.spawn(serve_made(Arc::clone(&house.node), house.stop.clone()));
        if house.announcer.is_some() {
            tasks.spawn(Arc::clone(&house).announce());
            tasks.spawn(Arc::clone(&house).let_in());
        }
        let (node, stop) = (Arc::clone(&house.node), house.stop.clone());
        tasks.spawn(async move {
            if let Err(error) = deliver(node, stop).await {
                tracing::error!(%error, "notifications are not delivered any more");
            }
        });
        Ok(Running { house, shared })
    }
}

impl Running {
    /// The node.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.house.node
    }

    /// The address that all tenants share.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared
    }

    /// The address of one tenant: its own if it has one, else the shared one.
    #[must_use]
    pub fn address_of(&self, atsign: &AtSign) -> SocketAddr {
        let dedicated = self.house.dedicated.lock().unwrap_or_else(PoisonError::into_inner);
        dedicated.get(atsign).map_or(self.shared, |door| door.address)
    }

    /// All tenants and their own addresses.
    ///
    /// # Errors
    /// The store failed.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.house.node.store.tenants().await
    }

    /// Adds a tenant, to be activated with `secret`, and gives the address at which it is served: `listen`
    /// if that is given (with the port that was found, if it says 0), else the shared one. The address is
    /// kept, so that the tenant is found there after a restart.
    ///
    /// # Errors
    /// See [`AddTenantError`].
    pub async fn add_tenant(
        &self,
        atsign: AtSign,
        secret: &str,
        listen: Option<SocketAddr>,
    ) -> Result<SocketAddr, AddTenantError> {
        let house = &self.house;
        let _turn = house.moving.lock().await;
        if house.node.is_hosted(&atsign) {
            return Err(AddTenantError::Exists(atsign));
        }
        let bound = match listen {
            Some(address) => {
                let failed = |source| AddTenantError::Listen { address, source };
                let bound = Bound::to(address, house.node.config.listen.quic).await.map_err(failed)?;
                let address = bound.address().map_err(failed)?;
                Some((bound, address))
            }
            None => None,
        };
        let tenant = Tenant { atsign: atsign.clone(), listen: bound.as_ref().map(|(_, address)| *address) };
        if !house.node.add_tenant(tenant, secret).await? {
            return Err(AddTenantError::Exists(atsign));
        }
        if let Some((bound, address)) = bound {
            let stop = house.dedicate(&atsign, address);
            house.listen(bound, Some(atsign.clone()), stop);
        }
        house.hosts_others();
        house.make_signing_key(atsign.clone());
        Ok(self.address_of(&atsign))
    }

    /// How many other nodes it is connected with.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.house.node.links().map_or(0, |links| links.nodes().count())
    }

    /// Moves a tenant to the node at `to`; see [`Running::departure`] for how far it is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn move_tenant(&self, atsign: &AtSign, to: Address) -> Result<(), StoreError> {
        self.house.node.store.set_departure(atsign, Some(Departure::Asked { to })).await?;
        Arc::clone(&self.house).tend().await
    }

    /// How far a tenant is that is to move to another node; `None` if none was asked to.
    ///
    /// # Errors
    /// The store failed.
    pub async fn departure(&self, atsign: &AtSign) -> Result<Option<Departure>, StoreError> {
        let departures = self.house.node.store.departures().await?;
        Ok(departures.into_iter().find(|(who, _)| who == atsign).map(|(_, state)| state))
    }

    /// Waits until everything has ended, after `stop`, and what was accepted is on disk.
    pub async fn finished(self) {
        self.house.stop.cancelled().await;
        self.house.tasks.close();
        self.house.tasks.wait().await;
        if let Err(error) = self.house.node.flush_visits().await {
            tracing::warn!(%error, "the newest entries of the access log are lost");
        }
    }
}

/// Who tells the directory of a node's atSigns; nobody where no registrar has granted it any.
fn announcer(
    config: &ServerConfig,
    tls: Option<ClientTls>,
    state: &Path,
    quic: u16,
) -> Result<Option<Arc<Announcer>>, StartError> {
    if config.server.node_grant.is_none() {
        return Ok(None);
    }
    let identity = Identity::open(&config.server, state)?;
    let Some((directory, tls)) = config.directory.as_ref().zip(tls) else {
        tracing::warn!("there is a grant, but no [directory] that could be told of records");
        return Ok(None);
    };
    if config.server.host.is_none() && config.listen.domain.is_none() {
        return Err(StartError::NoHost);
    }
    let directory = (directory.address.clone(), &tls);
    let announcer = Announcer::new(config.server.clone(), &config.listen, identity, directory, quic);
    Ok(Some(Arc::new(announcer)))
}
