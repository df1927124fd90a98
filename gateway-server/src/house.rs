//! A node and its doors: who is let in at which, who moves in and out, and what has to be done now and again.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::SignedRecord;
use atedge_service::tls::OwnCertificate;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announce::{Announcer, Household};
use crate::listen::{Bound, Door, ResetKey, Shown};
use crate::moving::{Doors, Mover, Visit};
use crate::node::Node;
use crate::store::{Departure, StoreError, Tenant};
use crate::tenant::ensure_signing_key;
use crate::timers::{self, Job};

/// How long a tenant that leaves waits for answers to what it has sent.
const SETTLING: Duration = Duration::from_secs(60);

/// Tenants that move in at the same time; others wait.
const VISITS: usize = 4;

/// A node and its doors.
pub(crate) struct House {
    pub(crate) node: Arc<Node>,
    pub(crate) dedicated: Mutex<BTreeMap<AtSign, Dedicated>>,
    pub(crate) shown: Shown,
    pub(crate) resets: ResetKey,
    pub(crate) certificate: Arc<OwnCertificate>,
    pub(crate) shared: SocketAddr,
    /// Tells the directory who is served here.
    pub(crate) announcer: Option<Arc<Announcer>>,
    /// Moves tenants between this node and others.
    pub(crate) mover: Option<Mover>,
    /// Who is about to leave.
    pub(crate) leaving: Mutex<HashSet<AtSign>>,
    /// Tenants of the store that another node serves now.
    pub(crate) away: Mutex<HashSet<AtSign>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Held while a tenant moves in, so that nobody lets it in twice.
    pub(crate) moving: tokio::sync::Mutex<()>,
}

/// A door that is one tenant's alone.
pub(crate) struct Dedicated {
    pub(crate) address: SocketAddr,
    /// Closes it.
    pub(crate) stop: CancellationToken,
}

impl House {
    /// Serves a tenant of the store.
    pub(crate) async fn move_in(
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
    pub(crate) async fn keep_up(self: Arc<Self>) {
        let (house, node) = (&self, &self.node);
        let stop = self.stop.clone();
        let work = |job| async move {
            let done = match job {
                Job::Sweep => node.sweep().await,
                Job::AccessLog => node.flush_visits().await,
                Job::Adoption => match house.adopt().await {
                    Ok(()) => Arc::clone(house).tend().await,
                    failed => failed,
                },
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
                    if let Some(announcer) = &house.announcer {
                        announcer.refresh();
                        announcer.worry(&node.hosted(), node.now());
                    }
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
        self.away().retain(|atsign| {
            let stays = there.contains(atsign);
            if !stays {
                self.node.store.thaw(atsign);
            }
            stays
        });
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

    /// Finds the tenants that another node serves, or may serve, as far as that was known at the last stop.
    pub(crate) async fn find_away(&self) -> Result<(), StoreError> {
        let store = &self.node.store;
        for (atsign, state) in store.departures().await? {
            if matches!(state, Departure::Given { .. }) {
                store.freeze(&atsign);
                self.away().insert(atsign);
            }
        }
        let Some(announcer) = &self.announcer else { return Ok(()) };
        if let Some(mover) = &self.mover {
            mover.forget_copies().await?;
        }
        let elsewhere = announcer.elsewhere(&store.signed_records().await?, self.node.now());
        for tenant in store.tenants().await? {
            if let Some(record) = elsewhere.get(&tenant.atsign) {
                self.retire(record);
            }
        }
        Ok(())
    }

    pub(crate) fn is_away(&self, atsign: &AtSign) -> bool {
        self.away().contains(atsign)
    }

    fn away(&self) -> MutexGuard<'_, HashSet<AtSign>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hosts_others(&self) {
        if let Some(announcer) = &self.announcer {
            announcer.hosts_others();
        }
    }

    /// Goes on with tenants that move to other nodes, or came from there.
    pub(crate) async fn tend(self: Arc<Self>) -> Result<(), StoreError> {
        for (atsign, state) in self.node.store.departures().await? {
            let is_new = state.is_underway()
                && self.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(atsign.clone());
            if is_new {
                let house = Arc::clone(&self);
                self.tasks.spawn(async move { house.send_off(atsign, state).await });
            }
        }
        match &self.mover {
            Some(mover) => mover.settle_all(&*self).await,
            None => Ok(()),
        }
    }

    /// Moves a tenant to another node, unless the stop comes first; then it is gone on with after the start.
    async fn send_off(&self, atsign: AtSign, state: Departure) {
        let moved = async {
            match &self.mover {
                Some(mover) => mover.leave(&atsign, state, self).await,
                None => {
                    let why = "this node has no grant of a registrar, or no directory".to_owned();
                    self.node.store.set_departure(&atsign, Some(Departure::Refused { why })).await
                }
            }
        };
        if let Some(Err(error)) = self.stop.run_until_cancelled(moved).await {
            tracing::error!(%atsign, %error, "its move waits for the store");
        }
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(&atsign);
    }

    /// Lets in those that other nodes send, until the stop.
    pub(crate) async fn let_in(self: Arc<Self>) {
        let Some(mut visits) = self.node.gate.to_serve() else { return };
        let mut underway = JoinSet::new();
        loop {
            tokio::select! {
                visit = visits.recv(), if underway.len() < VISITS => {
                    let (house, Some(visit)) = (Arc::clone(&self), visit) else { return };
                    underway.spawn(async move { house.receive(visit).await });
                }
                Some(_) = underway.join_next() => {}
                () = self.stop.cancelled() => break,
            }
        }
        while underway.join_next().await.is_some() {}
    }

    async fn receive(&self, visit: Visit) {
        if let Some(mover) = &self.mover {
            // A stop ends it where it is; what is on disk tells how to go on.
            self.stop.run_until_cancelled(mover.receive(visit, self)).await;
        }
    }

    /// Tells the directory who is served here, until the stop.
    pub(crate) async fn announce(self: Arc<Self>) {
        if let Some(announcer) = &self.announcer {
            announcer.run(&self.node, &*self, &self.stop).await;
        }
    }

    /// Notes the address that is a tenant's alone; gives what closes it.
    pub(crate) fn dedicate(&self, atsign: &AtSign, address: SocketAddr) -> CancellationToken {
        let stop = self.stop.child_token();
        let door = Dedicated { address, stop: stop.clone() };
        self.dedicated.lock().unwrap_or_else(PoisonError::into_inner).insert(atsign.clone(), door);
        stop
    }

    pub(crate) fn listen(&self, bound: Bound, tenant: Option<AtSign>, stop: CancellationToken) {
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

    pub(crate) fn make_signing_key(&self, atsign: AtSign) {
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
        self.node.store.freeze(atsign);
        self.away().insert(atsign.clone());
        self.move_out(atsign);
    }
}

impl Doors for House {
    async fn shut(&self, atsign: &AtSign) {
        self.away().insert(atsign.clone());
        self.move_out(atsign);
        if timeout(SETTLING, self.node.lanes.leave(atsign)).await.is_err() {
            tracing::warn!(%atsign, "what it sent last is not confirmed, and may be sent once more from there");
        }
    }

    async fn open(&self, atsign: &AtSign) -> Result<(), StoreError> {
        self.away().remove(atsign);
        self.adopt().await
    }
}
