//! The agent built for arm64, run by qemu, against servers of this machine.

use anyhow::{Context as _, Result, ensure};

use super::crash::await_arrivals;
use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, Reader, gateway_town, mqtt_tables};
use crate::plant::publish;
use crate::publisher::Publisher;
use crate::scenario::Run;

/// One reading goes through. `ATEDGE_AGENT` names the agent's program.
///
/// # Errors
/// It does not, or there is no such agent.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let agent = std::env::var("ATEDGE_AGENT")
        .context("ATEDGE_AGENT has to name a program that runs the arm64 agent; type: tests/run package")?;
    let town = gateway_town(&run.folder)?;
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let mut gateway = Gateway::with_program(vec![agent], &town, &mqtt_tables(&broker.address))?;
    let mut reader = Reader::start(&town)?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let mut published = 0;
    publish(&mut Publisher::connect(broker.address, "devices")?, &mut published, 1)?;
    broker.until("the acknowledgement", |view| !view.acknowledged().is_empty())?;
    await_arrivals(&mut reader, &broker.view, &gateway)?;
    ensure!(reader.arrivals.len() == 1, "{} readings arrived", reader.arrivals.len());
    run.note("readings", published);
    gateway.stop()
}
