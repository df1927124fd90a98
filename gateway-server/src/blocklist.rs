//! Whom a tenant turns away (atProtocol wire reference §4.20).
//!
//! The list is one of the tenant's records. Every `from` of somebody else asks for it, so it stays in
//! memory from its first use on; until it has been read, nobody is let in.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use at_protocol::{AtKey, AtSign, Metadata};
use serde::{Deserialize, Serialize};

use crate::node::Node;
use crate::store::{Edit, StoreError, Write};

/// The lists of the tenants whom somebody has asked for.
#[derive(Default)]
pub(crate) struct Blocklists {
    known: RwLock<HashMap<AtSign, Arc<Blocklist>>>,
    /// Held while a list is changed: it is read, changed and written.
    changing: tokio::sync::Mutex<()>,
}

/// Those whom one tenant turns away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blocklist {
    #[serde(rename = "blockList")]
    atsigns: BTreeSet<AtSign>,
}

/// The list would be longer than the configuration allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Blocklist {
    /// Where the list of a tenant is kept. No verb reads or writes there.
    pub(crate) fn key(tenant: &AtSign) -> AtKey {
        let name = "blocklist".parse().expect("our own names are key names");
        AtKey::Private { name, owner: tenant.clone() }
    }

    /// Reads the record's value.
    pub(crate) fn read(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }

    /// Whether this one is turned away.
    pub(crate) fn has(&self, atsign: &AtSign) -> bool {
        self.atsigns.contains(atsign)
    }

    /// Those who are turned away, in their order.
    pub(crate) fn atsigns(&self) -> &BTreeSet<AtSign> {
        &self.atsigns
    }
}

impl Blocklists {
    fn get(&self, tenant: &AtSign) -> Option<Arc<Blocklist>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    /// Whether `tenant` turns `caller` away: never itself, and everybody else while its list is not known.
    pub(crate) fn blocks(&self, tenant: &AtSign, caller: &AtSign) -> bool {
        tenant != caller && self.get(tenant).is_none_or(|list| list.has(caller))
    }

    /// Forgets the list of a tenant that is here no more.
    pub(crate) fn forget(&self, tenant: &AtSign) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }
}

impl Node {
    /// Whom a tenant turns away; read from the store at first use.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn blocklist(&self, tenant: &AtSign) -> Result<Arc<Blocklist>, StoreError> {
        if let Some(list) = self.blocklists.get(tenant) {
            return Ok(list);
        }
        let record = self.store.record(tenant, &Blocklist::key(tenant)).await?;
        let list = match record {
            Some(record) => Blocklist::read(&record.value)
                .ok_or_else(|| StoreError::Failed(format!("{} cannot be read", Blocklist::key(tenant))))?,
            None => Blocklist::default(),
        };
        let mut known = self.blocklists.known.write().unwrap_or_else(PoisonError::into_inner);
        // Who changed it meanwhile has put the newer one here.
        Ok(Arc::clone(known.entry(tenant.clone()).or_insert_with(|| Arc::new(list))))
    }

    /// Whether `tenant` turns `caller` away.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn is_blocked(&self, tenant: &AtSign, caller: &AtSign) -> Result<bool, StoreError> {
        Ok(tenant != caller && self.blocklist(tenant).await?.has(caller))
    }

    /// Changes whom a tenant turns away.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn change_blocklist(
        &self,
        tenant: &AtSign,
        change: impl FnOnce(&mut BTreeSet<AtSign>),
    ) -> Result<Result<(), TooLong>, StoreError> {
        let _turn = self.blocklists.changing.lock().await;
        let mut list = self.blocklist(tenant).await?.as_ref().clone();
        change(&mut list.atsigns);
        if list.atsigns.len() > self.config.limits.node.blocked {
            return Ok(Err(TooLong));
        }
        let value = serde_json::to_string(&list).expect("names are text");
        let edit = Edit::Update { key: Blocklist::key(tenant), value, metadata: Metadata::default() };
        let write = Write { edits: vec![edit], notification: None, now: self.now() };
        let written = self.store.write(tenant, write).await?;
        debug_assert!(written.is_ok(), "the list is never immutable");
        let mut known = self.blocklists.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(tenant.clone(), Arc::new(list));
        Ok(Ok(()))
    }
}
