//! The road to the atServer: directory, server, certificate, authentication.

use std::fmt::Display;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use at_client::tls::DialError;
use at_client::{Client, ConnectError, RecordKeeper};
use at_protocol::directory::VerifiedRecord;
use atedge_adapters::DeviceName;
use tokio::time::timeout;

use super::Finding;
use crate::clock::SystemClock;
use crate::config::{AgentConfig, DeviceConfig, GatewayConfig};
use crate::connect::Way;
use crate::seal::Seal;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps nothing: a look leaves no trace.
struct Forgetful;

impl RecordKeeper for Forgetful {
    fn keep<'a>(&'a self, _: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// All steps, up to the first that fails; then the devices with an atSign of their own, each by itself.
pub(super) async fn road(config: &AgentConfig, state: &Path, seal: Option<&Seal>) -> Vec<Finding> {
    let gateway = &config.gateway;
    let skipped =
        |why: &dyn Display| vec![Finding::skipped("atServer", format_args!("nobody can be asked: {why}"))];
    let way = match Way::new(gateway, state, Arc::new(SystemClock::start()), |_| Arc::new(Forgetful)) {
        Ok(way) => way,
        Err(error) => return skipped(&error),
    };
    let client = match way.client(&gateway.atsign, &gateway.keys, seal, 1) {
        Ok(client) => client,
        Err(error) => return skipped(&error),
    };
    let mut findings = Vec::new();
    if let Some(address) = found(gateway, &client, &mut findings).await {
        findings.extend(connected(&client, &address).await);
        for (name, device) in &config.device {
            findings.push(own(&way, name, device, seal).await);
        }
    }
    way.close().await;
    findings
}

/// A device with an atSign of its own.
async fn own(way: &Way, name: &DeviceName, device: &DeviceConfig, seal: Option<&Seal>) -> Finding {
    let what = "device";
    let atsign = &device.atsign;
    let client = match way.client(atsign, &device.keys, seal, 1) {
        Ok(client) => client,
        Err(error) => return Finding::skipped(what, format_args!("{name}: {error}")),
    };
    match timeout(PATIENCE, client.connect()).await {
        Ok(Ok(())) => Finding::good(what, format_args!("{name}: signed in as {atsign}")),
        Ok(Err(error)) => Finding::bad(
            what,
            format_args!("{name}: {error}"),
            "its readings wait, the others go on; use the keys that `atedge onboard` wrote for it",
        ),
        Err(_) => Finding::bad(what, format_args!("{name}: no answer in time"), "check the network"),
    }
}

/// Where the directory says that the gateway's atServer is.
async fn found(gateway: &GatewayConfig, client: &Client, findings: &mut Vec<Finding>) -> Option<String> {
    let found = timeout(PATIENCE, client.config().directory.find(&gateway.atsign)).await;
    match found {
        Ok(Ok(Some(found))) => {
            let says = format!("{} says that {} is at {}", gateway.directory, gateway.atsign, found.address);
            findings.push(Finding::good("directory", says));
            Some(found.address.to_string())
        }
        Ok(Ok(None)) => {
            let why = format_args!("{} does not know {}", gateway.directory, gateway.atsign);
            let fix = "is the atSign spelled right? Its host adds it there: `atedge-server tenant add`";
            findings.push(Finding::bad("directory", why, fix));
            None
        }
        Ok(Err(error)) => {
            let fix = "check `[gateway] directory` and `ca`, this machine's DNS, and that no firewall is in between";
            findings.push(Finding::bad("directory", error, fix));
            None
        }
        Err(_) => {
            findings.push(Finding::bad("directory", "it did not answer in time", "check the network"));
            None
        }
    }
}

async fn connected(client: &Client, address: &str) -> Vec<Finding> {
    let server = |says: &str| Finding::good("atServer", format_args!("{address} {says}"));
    let certificate = || Finding::good("certificate", "it is the server's, of an authority that is trusted");
    match timeout(PATIENCE, client.connect()).await {
        Ok(Ok(())) => vec![
            server("answers"),
            certificate(),
            Finding::good("authentication", format_args!("signed in as {}", client.atsign())),
        ],
        Ok(Err(ConnectError::Dial { source, .. })) if is_about_certificate(&source) => vec![
            server("answers"),
            Finding::bad(
                "certificate",
                source,
                "name the CA in `[gateway] ca`, or see to the server's certificate",
            ),
        ],
        Ok(Err(ConnectError::Login(error))) => vec![
            server("answers"),
            certificate(),
            Finding::bad("authentication", error, "use the keys that `atedge onboard` wrote for this atSign"),
        ],
        Ok(Err(error)) => {
            vec![Finding::bad(
                "atServer",
                error,
                "is it running, and does a firewall let TCP and UDP through?",
            )]
        }
        Err(_) => vec![Finding::bad(
            "atServer",
            format_args!("{address} did not answer in time"),
            "check the network",
        )],
    }
}

const fn is_about_certificate(error: &DialError) -> bool {
    matches!(
        error,
        DialError::WrongName { .. }
            | DialError::UnknownIssuer { .. }
            | DialError::Expired { .. }
            | DialError::NotYetValid { .. }
            | DialError::Certificate { .. }
            | DialError::WrongNode { .. }
    )
}
