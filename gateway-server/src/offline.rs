//! A node's store without a server: what the command line does to it.

use std::net::SocketAddr;
use std::path::Path;

use at_protocol::AtSign;
use at_protocol::directory::Address;
use zeroize::Zeroizing;

use crate::config::ServerConfig;
use crate::moving::{self, MoveError};
use crate::node::Node;
use crate::server::{AddTenantError, StartError};
use crate::store::{self, Departure, StoreError, Tenant, Usage};
use crate::tenant::ensure_signing_key;

/// The store of a server that may or may not be running.
pub struct Offline {
    node: Node,
}

impl Offline {
    /// Opens the store below `state`.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub async fn open(mut config: ServerConfig, state: &Path) -> Result<Self, StartError> {
        // That is for those who stay.
        config.store.check = false;
        Ok(Self { node: Node::open(config, state, None).await? })
    }

    /// The same, if there is a store already; nothing is made.
    ///
    /// # Errors
    /// As [`Offline::open`].
    pub async fn existing(config: ServerConfig, state: &Path) -> Result<Option<Self>, StartError> {
        let path = state.join(&config.store.path);
        match store::exists(&path) {
            Ok(true) => Self::open(config, state).await.map(Some),
            Ok(false) => Ok(None),
            Err(source) => Err(StartError::Store { path, source }),
        }
    }

    /// Adds a tenant with its signing key, and gives the secret by which its owner activates it.
    ///
    /// # Errors
    /// It is here already, or the store failed.
    pub async fn add_tenant(&self, tenant: Tenant) -> Result<Zeroizing<String>, AddTenantError> {
        let atsign: AtSign = tenant.atsign.clone();
        let secret = crate::random::secret();
        if !self.node.add_tenant(tenant, &secret).await? {
            return Err(AddTenantError::Exists(atsign));
        }
        ensure_signing_key(&self.node, &atsign).await?;
        Ok(secret)
    }

    /// What a tenant has stored, with the address that is its alone; `None` if it is not hosted.
    ///
    /// # Errors
    /// The store failed.
    pub async fn show(&self, atsign: &AtSign) -> Result<Option<(Tenant, Usage)>, StoreError> {
        let Some(tenant) = self.tenants().await?.into_iter().find(|tenant| tenant.atsign == *atsign) else {
            return Ok(None);
        };
        let usage = self.node.store.usage(atsign).await?;
        Ok(Some((tenant, usage)))
    }

    /// Removes a tenant and all that it has; `false` if it was not hosted. A running server ends its
    /// connections within seconds.
    ///
    /// # Errors
    /// The store failed; if the tenant is gone by then, the server sweeps what is left.
    pub async fn remove(&self, atsign: &AtSign) -> Result<bool, StoreError> {
        if !self.node.store.remove_tenant(atsign).await? {
            return Ok(false);
        }
        self.node.sweep().await?;
        Ok(true)
    }

    /// Writes all that a tenant has into a new file, as [`crate::moving`] describes it; gives its rows.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn export(&self, atsign: &AtSign, file: &Path) -> Result<u64, MoveError> {
        moving::export(self.node.store.as_ref(), atsign, file).await
    }

    /// Hosts the tenant of such a file, with its commit ids.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn import(&self, file: &Path, listen: Option<SocketAddr>) -> Result<Tenant, MoveError> {
        moving::import(self.node.store.as_ref(), file, listen, self.node.now()).await
    }

    /// Has the server that runs on the store move a tenant to the node at `to`, unless it moves already.
    ///
    /// # Errors
    /// The store failed.
    pub async fn move_tenant(&self, atsign: &AtSign, to: Address) -> Result<(), StoreError> {
        if self.departure(atsign).await?.is_some_and(|state| state.is_underway()) {
            return Ok(());
        }
        self.node.store.set_departure(atsign, Some(Departure::Asked { to })).await
    }

    /// Has the server that runs on the store serve a tenant though a record names another node, which is gone
    /// for good; `false` if it is about to move.
    ///
    /// # Errors
    /// The store failed.
    pub async fn claim(&self, atsign: &AtSign) -> Result<bool, StoreError> {
        if self.departure(atsign).await?.is_some_and(|state| state.is_underway()) {
            return Ok(false);
        }
        self.node.store.set_departure(atsign, Some(Departure::Claimed)).await?;
        Ok(true)
    }

    /// How far a tenant's move is; `None` if it was not asked to.
    ///
    /// # Errors
    /// The store failed.
    pub async fn departure(&self, atsign: &AtSign) -> Result<Option<Departure>, StoreError> {
        let departures = self.node.store.departures().await?;
        Ok(departures.into_iter().find(|(who, _)| who == atsign).map(|(_, state)| state))
    }

    /// Forgets a move whose end was seen.
    ///
    /// # Errors
    /// The store failed.
    pub async fn forget_departure(&self, atsign: &AtSign) -> Result<(), StoreError> {
        self.node.store.set_departure(atsign, None).await
    }

    /// All tenants.
    ///
    /// # Errors
    /// The store failed.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.node.store.tenants().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_moves_from_one_store_to_another_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let open = async |name: &str| {
            let state = folder.path().join(name);
            std::fs::create_dir_all(&state).unwrap();
            Offline::open(ServerConfig::default(), &state).await.unwrap()
        };
        let (here, there) = (open("here").await, open("there").await);
        let alice: AtSign = "@alice".parse().unwrap();
        let tenant = Tenant { atsign: alice.clone(), listen: Some("127.0.0.1:7".parse().unwrap()) };
        assert!(here.node.add_tenant(tenant.clone(), "secret").await.unwrap());
        let file = folder.path().join("alice.jsonl");
        assert!(matches!(there.export(&alice, &file).await, Err(MoveError::NotHosted(_))));
        assert_eq!(here.export(&alice, &file).await.unwrap(), 1);
        assert!(matches!(here.export(&alice, &file).await, Err(MoveError::File { .. })), "never overwritten");
        assert!(matches!(here.import(&file, None).await, Err(MoveError::Exists(_))));
        assert_eq!(there.import(&file, None).await.unwrap(), tenant);
        let shown = there.show(&alice).await.unwrap();
        assert_eq!(shown.map(|(tenant, usage)| (tenant, usage.keys)), Some((tenant, 1)));
        assert!(here.remove(&alice).await.unwrap());
        assert!(!here.remove(&alice).await.unwrap());
        assert_eq!(here.show(&alice).await.unwrap(), None);
        std::fs::write(&file, "{}").unwrap();
        assert!(matches!(here.import(&file, None).await, Err(MoveError::Format { .. })));
    }
}
