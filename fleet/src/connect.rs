//! From the command line's options to a client.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use at_client::{Client, ClientConfig, ClientTls, Directory, Trust, keyfile};
use at_protocol::AtSign;

use crate::cli::Access;

impl Access {
    /// Whom to trust: this machine's authorities, and the one of `--ca`.
    ///
    /// # Errors
    /// The authority's file cannot be used.
    pub fn tls(&self) -> Result<ClientTls> {
        Ok(ClientTls::new(&Trust::System { and: self.ca.clone() }, None)?)
    }

    /// The key file of `atsign`: the one of `--keys`, or where SDKs keep it.
    #[must_use]
    pub fn key_file(&self, atsign: &AtSign) -> PathBuf {
        self.keys.clone().unwrap_or_else(|| {
            let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
            keyfile::default_path(&home, atsign)
        })
    }

    /// A client for `atsign` with its keys; nothing is connected yet.
    ///
    /// # Errors
    /// Its key file, or the authority's, cannot be used.
    pub fn client(&self, atsign: &AtSign) -> Result<Client> {
        let keys = keyfile::read(&self.key_file(atsign))?;
        let tls = self.tls()?;
        Ok(Client::new(ClientConfig {
            atsign: atsign.clone(),
            keys: Arc::new(keys),
            directory: Arc::new(Directory::new(self.directory.clone(), tls.clone())),
            dialer: tls.into(),
        }))
    }
}
