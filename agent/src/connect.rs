//! Our side of the connections to atServers, as the configuration has it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use at_client::tls::TlsError;
use at_client::{Client, ClientConfig, ClientTls, Dialer, Directory, RecordKeeper, Trust, TrustedTime};
use at_protocol::AtSign;
use atedge_adapters::SecretSource;

use crate::config::GatewayConfig;
use crate::keys::{self, KeysError};
use crate::records::RecordFile;
use crate::seal::Seal;

/// In the state folder: the directory's records that were believed.
const RECORDS: &str = "records.jsonl";
/// How long the farewell to atServers may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The way to the atServers, which all atSigns of the agent share: one connection to each node.
pub struct Way {
    directory: Arc<Directory>,
    dialer: Dialer,
}

impl Way {
    /// A way that knows the records that were believed before, which are in the folder `state`, and has `keep` keep
    /// those that it comes to believe; `time` is for certificates. Connects to nobody yet.
    ///
    /// # Errors
    /// When the trust anchors cannot be read.
    pub fn new(
        gateway: &GatewayConfig,
        state: &Path,
        time: Arc<dyn TrustedTime>,
        keep: impl FnOnce(RecordFile) -> Arc<dyn RecordKeeper>,
    ) -> Result<Self, TlsError> {
        let trust = Trust::System { and: gateway.ca.clone() };
        let tls = ClientTls::with_time(&trust, time)?;
        let mut directory = Directory::new(gateway.directory.clone(), tls.clone());
        let registrars = gateway.registrars();
        if !registrars.is_empty() {
            let file = RecordFile::open(state.join(RECORDS));
            directory = directory.trusting(registrars, file.records(), keep(file));
        }
        Ok(Self { directory: Arc::new(directory), dialer: Dialer::new(tls, gateway.transport) })
    }

    /// A client of the atServer of `atsign`, with this many connections at most.
    ///
    /// # Errors
    /// When its keys cannot be read.
    pub fn client(
        &self,
        atsign: &AtSign,
        keys: &SecretSource,
        seal: Option<&Seal>,
        connections: usize,
    ) -> Result<Client, KeysError> {
        let (keys, _) = keys::load(keys, seal)?;
        let config = ClientConfig {
            atsign: atsign.clone(),
            keys: Arc::new(keys),
            directory: Arc::clone(&self.directory),
            dialer: self.dialer.clone(),
        };
        Ok(Client::with_connections(config, connections))
    }

    /// Says good-bye to the atServers.
    pub async fn close(&self) {
        self.dialer.close(FAREWELL).await;
    }
}
