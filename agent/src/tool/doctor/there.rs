//! The road to the atServer: directory, server, certificate, authentication.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use at_client::tls::DialError;
use at_client::{Client, ConnectError, RecordKeeper};
use at_protocol::directory::VerifiedRecord;
use atedge_service::OneLine;
use tokio::time::timeout;

use super::Finding;
use crate::clock::SystemClock;
use crate::config::GatewayConfig;
use crate::connect;
use crate::seal::Seal;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the good-bye may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Keeps nothing: a look leaves no trace.
struct Forgetful;

impl RecordKeeper for Forgetful {
    fn keep<'a>(&'a self, _: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// All steps, up to the first that fails.
pub(super) async fn road(gateway: &GatewayConfig, state: &Path, seal: Option<&Seal>) -> Vec<Finding> {
    let client = match connect::client(gateway, state, seal, Arc::new(SystemClock::start()), |_| {
        Arc::new(Forgetful)
    }) {
        Ok(client) => client,
        Err(error) => {
            let why = OneLine(error.as_ref()).to_string();
            return vec![Finding::skipped("atServer", format_args!("nobody can be asked: {why}"))];
        }
    };
    let mut findings = Vec::new();
    let found = timeout(PATIENCE, client.config().directory.find(&gateway.atsign)).await;
    let address = match found {
        Ok(Ok(Some(found))) => {
            let says = format!("{} says that {} is at {}", gateway.directory, gateway.atsign, found.address);
            findings.push(Finding::good("directory", says));
            found.address
        }
        Ok(Ok(None)) => {
            let why = format_args!("{} does not know {}", gateway.directory, gateway.atsign);
            let fix = "is the atSign spelled right? Its host adds it there: `atedge-server tenant add`";
            findings.push(Finding::bad("directory", why, fix));
            return findings;
        }
        Ok(Err(error)) => {
            let fix = "check `[gateway] directory` and `ca`, this machine's DNS, and that no firewall is in between";
            findings.push(Finding::bad("directory", error, fix));
            return findings;
        }
        Err(_) => {
            findings.push(Finding::bad("directory", "it did not answer in time", "check the network"));
            return findings;
        }
    };
    findings.extend(connected(&client, &address.to_string()).await);
    client.config().dialer.close(FAREWELL).await;
    findings
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
