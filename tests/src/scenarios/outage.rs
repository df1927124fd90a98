//! The link is cut for a while and the agent is started again meanwhile: readings keep coming, and all
//! arrive in order once it is back.

use anyhow::{Result, ensure};

use super::crash::{Accounts, account, await_arrivals};
use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, Reader, gateway_town, mqtt_tables};
use crate::plant::publish;
use crate::publisher::Publisher;
use crate::scenario::Run;

/// Cuts of the link, one after the other.
const CUTS: u64 = 3;

/// Stops the server, publishes, starts it again.
///
/// # Errors
/// A reading is lost or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let during = if run.long { 20_000 } else { 1_000 };
    let mut town = gateway_town(&run.folder)?;
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let mut gateway = Gateway::new(&town, &mqtt_tables(&broker.address))?;
    let mut reader = Reader::start(&town)?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let mut published = 0;
    for cut in 0..CUTS {
        // The first cut falls before there was anything to read.
        publish(&mut devices, &mut published, 100 * cut)?;
        town.nodes[0].kill()?;
        // Two lives of the agent fall into each cut: what the first has kept goes before the second's.
        for many in [during / 10, during] {
            gateway.kill()?;
            gateway.start()?;
            publish(&mut devices, &mut published, many)?;
            broker.until("acknowledgements during the cut", |view| {
                view.acknowledged().len() as u64 >= published
            })?;
        }
        town.nodes[0].start()?;
        await_arrivals(&mut reader, &broker.view, &gateway)?;
    }
    run.note("cuts", CUTS);
    run.note("published", published);
    let Accounts(accounts) = account(run, &broker.view, &reader.arrivals)?;
    for account in accounts.values() {
        ensure!(account.lost == 0, "readings were lost");
        ensure!(account.inversions == 0, "readings arrived out of order");
        ensure!(account.duplicates_after_dedup == 0, "ids were given twice as new");
        ensure!(account.captured_again == 0, "readings were captured twice");
    }
    gateway.stop()
}
