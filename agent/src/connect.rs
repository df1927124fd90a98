//! Our side of the connection to the atServer, as the configuration has it.

use std::path::Path;
use std::sync::Arc;

use at_client::{Client, ClientConfig, ClientTls, Dialer, Directory, RecordKeeper, Trust, TrustedTime};

use crate::config::GatewayConfig;
use crate::keys;
use crate::records::RecordFile;
use crate::seal::Seal;

/// In the state folder: the directory's records that were believed.
const RECORDS: &str = "records.jsonl";

/// A client of the gateway's atServer. It knows the records that were believed before, which are in the folder
/// `state`, and has `keep` keep those that it comes to believe; `time` is for certificates. Connects to nobody yet.
///
/// # Errors
/// When the keys or the trust anchors cannot be read.
pub fn client(
    gateway: &GatewayConfig,
    state: &Path,
    seal: Option<&Seal>,
    time: Arc<dyn TrustedTime>,
    keep: impl FnOnce(RecordFile) -> Arc<dyn RecordKeeper>,
) -> anyhow::Result<Client> {
    let trust = Trust::System { and: gateway.ca.clone() };
    let tls = ClientTls::with_time(&trust, time)?;
    let (keys, _) = keys::load(&gateway.keys, seal)?;
    let mut directory = Directory::new(gateway.directory.clone(), tls.clone());
    let registrars = gateway.registrars();
    if !registrars.is_empty() {
        let file = RecordFile::open(state.join(RECORDS));
        directory = directory.trusting(registrars, file.records(), keep(file));
    }
    let dialer = Dialer::new(tls, gateway.transport);
    Ok(Client::new(ClientConfig {
        atsign: gateway.atsign.clone(),
        keys: Arc::new(keys),
        directory: Arc::new(directory),
        dialer,
    }))
}
