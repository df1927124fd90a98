//! A node's store without a server: what the command line does to it.

use std::path::Path;

use at_protocol::AtSign;
use zeroize::Zeroizing;

use crate::config::ServerConfig;
use crate::node::Node;
use crate::server::{AddTenantError, StartError};
use crate::store::{StoreError, Tenant};
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
    pub async fn open(config: ServerConfig, state: &Path) -> Result<Self, StartError> {
        Ok(Self { node: Node::open(config, state, None).await? })
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

    /// All tenants.
    ///
    /// # Errors
    /// The store failed.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.node.store.tenants().await
    }
}
