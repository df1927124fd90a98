//! What all connections of a process share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use at_protocol::session::server::Hosts;
use at_protocol::{AtSign, Timestamp};
use tokio::sync::Semaphore;

use crate::admission::Admission;
use crate::blocklist::Blocklists;
use crate::clock::{Clock, Wall, system_wall};
use crate::config::ServerConfig;
use crate::enrollment::Enrolling;
use crate::login_keys::LoginKeys;
use crate::monitors::Monitors;
use crate::moving::Gate;
use crate::peers::{AskError, Cookies, Fences, Lanes, Links, Reach, Waiting};
use crate::server::StartError;
use crate::sessions::Sessions;
use crate::store::{Committed, Expired, OpenError, SqliteStore, Store, StoreError, Tenant, Watcher};
use crate::streams::Streams;
use crate::tenant::{first_records, label};
use crate::testing::Testing;
use crate::visits::Visits;

/// Many atServers: their store and all that happens around it.
pub struct Node {
    pub(crate) config: ServerConfig,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cookies: Cookies,
    /// Which deliveries are under way.
    pub(crate) lanes: Arc<Lanes>,
    /// Where tenants come in that move here.
    pub(crate) gate: Gate,
    /// Which streams of other nodes are under way.
    pub(crate) fences: Arc<Fences>,
    pub(crate) login_keys: LoginKeys,
    pub(crate) blocklists: Blocklists,
    pub(crate) streams: Arc<Streams>,
    pub(crate) visits: Visits,
    swept: Mutex<Option<Swept>>,
    /// Settings that test programs may change, if they may.
    pub(crate) testing: Option<Testing>,
    watchers: Arc<Watchers>,
    links: Option<Links>,
    sessions: Arc<Sessions>,
    pub(crate) enrolling: Enrolling,
    tenants: RwLock<Tenants>,
    /// Who is let in.
    pub(crate) admission: Admission,
    /// Signing keys are made one at a time: each takes a core for seconds.
    pub(crate) key_maker: Semaphore,
    clock: Clock,
}

#[derive(Default)]
struct Tenants {
    by_atsign: HashMap<AtSign, Hosted>,
    by_label: HashMap<String, AtSign>,
}

/// What is known of a tenant without asking the store.
#[derive(Default)]
struct Hosted {
    /// Milliseconds since the epoch; 0 for never.
    last_login: AtomicI64,
}

/// One removal of what had expired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Swept {
    /// When it began.
    pub(crate) at: Timestamp,
    /// How long it took.
    pub(crate) took: Duration,
    /// How much was removed, of all tenants.
    pub(crate) expired: Expired,
}

/// Those whom the store tells what is on disk.
#[derive(Default)]
pub(crate) struct Watchers {
    monitors: Monitors,
    waiting: Waiting,
}

impl Watcher for Watchers {
    fn committed(&self, what: Committed) {
        self.monitors.committed(&what);
        if let Committed::Queued { from, to } = what {
            self.waiting.tell((from, to));
        }
    }
}

impl Node {
    /// A node whose store is the configured file below `state`, and which reaches others by `reach`.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub(crate) async fn open(
        config: ServerConfig,
        state: &std::path::Path,
        reach: Option<Reach>,
    ) -> Result<Self, StartError> {
        let path = state.join(&config.store.path);
        let watchers = Arc::new(Watchers::default());
        let opened = {
            let (path, watchers) = (path.clone(), Arc::clone(&watchers));
            let (settings, quota) = (config.store.clone(), config.limits.tenant.quota());
            let open = move || {
                let mut store =
                    SqliteStore::open(&path, settings.shards, settings.hot_bytes, quota, watchers)?;
                if settings.check {
                    store.look_for_damage()?;
                }
                Ok::<_, OpenError>(store)
            };
            tokio::task::spawn_blocking(open).await
        };
        let store = opened.map_err(|_| StartError::Interrupted)?;
        let store = store.map_err(|source| StartError::Store { path, source })?;
        let store: Arc<dyn Store> = Arc::new(store);
        let links = match (&config.directory, reach) {
            (Some(directory), Some(reach)) => {
                Some(Links::new(&directory.address, config.server.trusted(), reach, &store).await?)
            }
            _ => None,
        };
        Self::with(config, store, watchers, links, system_wall()).await
    }

    /// A node that forgets everything when it is dropped and reaches no other server: for tests.
    ///
    /// # Errors
    /// SQLite does not work at all.
    pub async fn in_memory(config: ServerConfig) -> Result<Self, StartError> {
        Self::in_memory_by(config, system_wall()).await
    }

    /// The same, by another wall clock than the system's.
    pub(crate) async fn in_memory_by(config: ServerConfig, wall: Wall) -> Result<Self, StartError> {
        let watchers = Arc::new(Watchers::default());
        let store = SqliteStore::in_memory(config.limits.tenant.quota(), watchers.clone());
        let store = store.map_err(|source| StartError::Store { path: ":memory:".into(), source })?;
        Self::with(config, Arc::new(store), watchers, None, wall).await
    }

    async fn with(
        config: ServerConfig,
        store: Arc<dyn Store>,
        watchers: Arc<Watchers>,
        links: Option<Links>,
        wall: Wall,
    ) -> Result<Self, StartError> {
        let clock = Clock::start(wall, store.newest().await?);
        let admission = Admission::new(&config.limits);
        let node = Self {
            testing: config.testing.enabled.then(Testing::default),
            blocklists: Blocklists::default(),
            streams: Arc::default(),
            visits: Visits::default(),
            swept: Mutex::default(),
            config,
            store,
            cookies: Cookies::default(),
            lanes: Arc::default(),
            gate: Gate::default(),
            fences: Arc::default(),
            login_keys: LoginKeys::default(),
            watchers,
            links,
            sessions: Arc::default(),
            enrolling: Enrolling::default(),
            tenants: RwLock::default(),
            admission,
            key_maker: Semaphore::new(1),
            clock,
        };
        for tenant in node.store.tenants().await? {
            node.host(&tenant.atsign);
        }
        Ok(node)
    }

    /// Adds a tenant, which its owner will activate with `secret`; `false` if it is here already, and
    /// then nothing changes.
    ///
    /// # Errors
    /// The store failed.
    pub async fn add_tenant(&self, tenant: Tenant, secret: &str) -> Result<bool, StoreError> {
        let atsign = tenant.atsign.clone();
        let added = self.store.add_tenant(tenant, first_records(secret), self.now()).await?;
        self.host(&atsign);
        Ok(added)
    }

    /// Serves an atSign of the store from now on.
    pub(crate) fn host(&self, atsign: &AtSign) {
        // There may have been one of this name before.
        self.store.forget(atsign);
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.by_label.insert(label(atsign), atsign.clone());
        tenants.by_atsign.entry(atsign.clone()).or_default();
    }

    /// Serves an atSign no more, and ends its connections.
    pub(crate) fn unhost(&self, atsign: &AtSign) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.by_label.remove(&label(atsign));
        tenants.by_atsign.remove(atsign);
        self.blocklists.forget(atsign);
        drop(tenants);
        self.sessions().cut_tenant(atsign);
    }

    /// Who is hosted now.
    pub(crate) fn hosted(&self) -> Vec<AtSign> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).by_atsign.keys().cloned().collect()
    }

    /// Whether an atSign is one of this node's.
    pub(crate) fn is_hosted(&self, atsign: &AtSign) -> bool {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).by_atsign.contains_key(atsign)
    }

    /// The tenant whose host name was asked for in a TLS handshake.
    pub(crate) fn tenant_of_host(&self, host: &str) -> Option<AtSign> {
        let domain = self.config.listen.domain.as_deref()?;
        let label = host.strip_suffix(domain)?.strip_suffix('.')?.to_ascii_lowercase();
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).by_label.get(&label).cloned()
    }

    /// The time, which never jumps.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    pub(crate) fn monitors(&self) -> &Monitors {
        &self.watchers.monitors
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.watchers.waiting
    }

    /// The connections that are open.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The way to other servers.
    pub(crate) fn links(&self) -> Result<&Links, AskError> {
        self.links.as_ref().ok_or_else(|| AskError::Unreachable("no directory is configured".to_owned()))
    }

    /// Connections to other servers.
    pub(crate) fn outbound(&self) -> usize {
        self.links.as_ref().map_or(0, Links::count)
    }

    /// Notes that the owner has proved itself by a key.
    pub(crate) fn note_login(&self, tenant: &AtSign, now: Timestamp) {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(hosted) = tenants.by_atsign.get(tenant) {
            hosted.last_login.store(now.as_millis(), Ordering::Relaxed);
        }
    }

    /// When the owner last proved itself by a key since the start.
    pub(crate) fn last_login(&self, tenant: &AtSign) -> Option<Timestamp> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let millis = tenants.by_atsign.get(tenant)?.last_login.load(Ordering::Relaxed);
        (millis != 0).then(|| Timestamp::from_millis(millis))
    }

    /// Fetches the copies of others' records again whose time has come, which may take a while.
    pub(crate) async fn refresh_copies(&self) -> Result<(), StoreError> {
        crate::verbs::refresh(self).await
    }

    /// Removes what has expired and closes what is not used.
    ///
    /// # Errors
    /// The store failed.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        if let Some(links) = &self.links {
            links.sweep();
        }
        let (at, began) = (self.now(), tokio::time::Instant::now());
        let mut expired = Expired::default();
        loop {
            let more = self.store.expire(self.now()).await?;
            if more.is_none() {
                break;
            }
            expired += more;
        }
        let swept = Swept { at, took: began.elapsed(), expired };
        *self.swept.lock().unwrap_or_else(PoisonError::into_inner) = Some(swept);
        Ok(())
    }

    /// The last run of [`Node::sweep`].
    pub(crate) fn swept(&self) -> Option<Swept> {
        *self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosts for Node {
    fn hosts(&self, atsign: &AtSign) -> bool {
        self.is_hosted(atsign)
    }

    fn blocks(&self, tenant: &AtSign, caller: &AtSign) -> bool {
        self.blocklists.blocks(tenant, caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn host_names_below_the_domain_name_a_tenant() {
        let config = toml::from_str("[listen]\ndomain = \"fleet.example\"").unwrap();
        let node = Node::in_memory(config).await.unwrap();
        let alice: AtSign = "@alice".parse().unwrap();
        node.add_tenant(Tenant { atsign: alice.clone(), listen: None }, "s").await.unwrap();
        assert_eq!(node.tenant_of_host("alice.fleet.example"), Some(alice.clone()));
        assert_eq!(node.tenant_of_host("ALICE.fleet.example"), Some(alice));
        for host in [
            "bob.fleet.example",
            "fleet.example",
            "alicefleet.example",
            "alice.example",
            "a.alice.fleet.example",
        ] {
            assert_eq!(node.tenant_of_host(host), None, "{host}");
        }
    }
}
