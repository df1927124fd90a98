//! A node that listens: on the address that all tenants share, and on those that are one tenant's alone.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_client::tls::{ClientTls, Trust};
use at_protocol::AtSign;
use at_protocol::directory::SignedRecord;
use atedge_service::tls::{BothCertificates, NodeIdentity, NodeIdentityError, OwnCertificate};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announce::{Announcer, Household};
use crate::config::ServerConfig;
use crate::descriptors;
use crate::identity::{Identity, IdentityError, KEY_FILE};
use crate::listen::{Bound, Door, ResetKey, Shown};
use crate::node::Node;
use crate::peers::{CertificateCheck, Reach, deliver, serve_made};
use crate::store::{StoreError, Tenant};
use crate::tenant::ensure_signing_key;
use crate::timers::{self, Job};

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

/// A node and its doors.
struct House {
    node: Arc<Node>,
    dedicated: Mutex<BTreeMap<AtSign, Dedicated>>,
    shown: Shown,
    resets: ResetKey,
    certificate: Arc<OwnCertificate>,
    shared: SocketAddr,
    /// Tells the directory who is served here.
    announcer: Option<Announcer>,
    /// Tenants of the store that another node serves now.
    away: Mutex<HashSet<AtSign>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Held while a tenant moves in, so that nobody lets it in twice.
    moving: tokio::sync::Mutex<()>,
}

/// A door that is one tenant's alone.
struct Dedicated {
    address: SocketAddr,
    /// Closes it.
    stop: CancellationToken,
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
        let house = Arc::new(House {
            node,
            dedicated: Mutex::default(),
            shown: tls.shown,
            resets,
            certificate: tls.certificate,
            shared,
            announcer,
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

impl House {
    /// Serves a tenant of the store.
    async fn move_in(
        &self,
        atsign: &AtSign,
        listen: Option<SocketAddr>,
    ) -> Result<(), (SocketAddr, io::Error)> {
        if let Some(address) = listen {
            let failed = |source| (address, source);
            let bound = Bound::to(address, self.node.config.listen.quic).await.map_err(failed)?;
            let stop = self.dedicate(atsign, bound.address().map_err(failed)?);
            self.listen(bound, Some(atsign.clone()), stop);
        }
        self.node.host(atsign);
        self.hosts_others();
        Ok(())
    }

    /// Does what has to be done now and again, until the server stops.
    async fn keep_up(self: Arc<Self>) {
        let (house, node) = (&self, &self.node);
        let stop = self.stop.clone();
        let work = |job| async move {
            let done = match job {
                Job::Sweep => node.sweep().await,
                Job::AccessLog => node.flush_visits().await,
                Job::Adoption => house.adopt().await,
                Job::Ticker => {
                    node.monitors().tick(node.now());
                    Ok(())
                }
                Job::Certificate => {
                    let certificate = Arc::clone(&house.certificate);
                    // It waits for the disk; a panic in there is in the log already.
                    drop(tokio::task::spawn_blocking(move || certificate.refresh()).await);
                    Ok(())
                }
                Job::Grant => {
                    house.announcer.iter().for_each(Announcer::refresh);
                    Ok(())
                }
                Job::Refresh => node.refresh_copies().await,
                Job::Clock => {
                    node.clock().compare();
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!(?job, %error, "not done, and tried again later");
            }
        };
        timers::run(&node.config, || node.now(), stop, work).await;
    }

    /// Takes in tenants that another process, `tenant add`, has put into the store, and lets go those that
    /// `tenant remove` has removed.
    async fn adopt(&self) -> Result<(), StoreError> {
        let _turn = self.moving.lock().await;
        // An atSign may have been removed and added again since the last look.
        self.node.store.reconcile().await?;
        let tenants = self.node.store.tenants().await?;
        let there: HashSet<&AtSign> = tenants.iter().map(|tenant| &tenant.atsign).collect();
        for atsign in self.node.hosted().iter().filter(|atsign| !there.contains(atsign)) {
            // What is out of service may not even be able to say whom it holds.
            if let Err(StoreError::Damaged(_)) = self.node.store.last_commit(atsign).await {
                continue;
            }
            self.move_out(atsign);
            tracing::info!(%atsign, "a tenant has gone");
        }
        // Who has gone from the store may be added again.
        self.away().retain(|atsign| there.contains(atsign));
        for Tenant { atsign, listen } in tenants {
            if self.node.is_hosted(&atsign) || self.is_away(&atsign) {
                continue;
            }
            match self.move_in(&atsign, listen).await {
                Ok(()) => {
                    tracing::info!(%atsign, "a new tenant");
                    // An imported one may have brought its queue.
                    let pairs = self.node.store.waiting_pairs().await?;
                    pairs
                        .into_iter()
                        .filter(|pair| pair.0 == atsign)
                        .for_each(|pair| self.node.waiting().tell(pair));
                }
                Err((address, error)) => tracing::warn!(%atsign, %address, %error, "cannot listen"),
            }
        }
        Ok(())
    }

    /// Serves a tenant no more.
    fn move_out(&self, atsign: &AtSign) {
        let door = self.dedicated.lock().unwrap_or_else(PoisonError::into_inner).remove(atsign);
        if let Some(door) = door {
            door.stop.cancel();
        }
        self.node.unhost(atsign);
        self.hosts_others();
    }

    /// Finds the tenants that another node serves, as far as that was known at the last stop.
    async fn find_away(&self) -> Result<(), StoreError> {
        let Some(announcer) = &self.announcer else { return Ok(()) };
        let store = &self.node.store;
        let elsewhere = announcer.elsewhere(&store.signed_records().await?, self.node.now());
        for tenant in store.tenants().await? {
            if let Some(record) = elsewhere.get(&tenant.atsign) {
                self.retire(record);
            }
        }
        Ok(())
    }

    fn is_away(&self, atsign: &AtSign) -> bool {
        self.away().contains(atsign)
    }

    fn away(&self) -> MutexGuard<'_, HashSet<AtSign>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts_others(&self) {
        if let Some(announcer) = &self.announcer {
            announcer.hosts_others();
        }
    }

    /// Tells the directory who is served here, until the stop.
    async fn announce(self: Arc<Self>) {
        if let Some(announcer) = &self.announcer {
            announcer.run(&self.node, &*self, &self.stop).await;
        }
    }

    /// Notes the address that is a tenant's alone; gives what closes it.
    fn dedicate(&self, atsign: &AtSign, address: SocketAddr) -> CancellationToken {
        let stop = self.stop.child_token();
        let door = Dedicated { address, stop: stop.clone() };
        self.dedicated.lock().unwrap_or_else(PoisonError::into_inner).insert(atsign.clone(), door);
        stop
    }

    fn listen(&self, bound: Bound, tenant: Option<AtSign>, stop: CancellationToken) {
        let door = Door {
            node: Arc::clone(&self.node),
            shown: self.shown.clone(),
            resets: self.resets.clone(),
            tenant,
            tasks: self.tasks.clone(),
            stop,
        };
        door.open(bound);
    }

    fn make_signing_key(&self, atsign: AtSign) {
        let (node, stop) = (Arc::clone(&self.node), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                made = ensure_signing_key(&node, &atsign) => if let Err(error) = made {
                    tracing::error!(%atsign, %error, "no signing key: other servers will not believe us");
                },
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Household for House {
    fn hosted(&self) -> Vec<AtSign> {
        self.node.hosted()
    }

    fn port_of(&self, atsign: &AtSign) -> u16 {
        let dedicated = self.dedicated.lock().unwrap_or_else(PoisonError::into_inner);
        dedicated.get(atsign).map_or(self.shared, |door| door.address).port()
    }

    fn retire(&self, record: &SignedRecord) {
        let (atsign, at) = (&record.atsign, &record.at);
        tracing::error!(
            %atsign, node = %record.node(), address = %at.address, seq = at.seq,
            "another node serves this atSign now, by a record that is newer than ours: it is NOT SERVED HERE any \
             more; what it has here is kept until `tenant remove`"
        );
        self.away().insert(atsign.clone());
        self.move_out(atsign);
    }
}

/// Who tells the directory of a node's atSigns; nobody where no registrar has granted it any.
fn announcer(
    config: &ServerConfig,
    tls: Option<ClientTls>,
    state: &Path,
    quic: u16,
) -> Result<Option<Announcer>, StartError> {
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
    Ok(Some(Announcer::new(config.server.clone(), &config.listen, identity, directory, quic)))
}
