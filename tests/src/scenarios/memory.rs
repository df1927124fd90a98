//! Resident memory of agent, server and directory, idle and under load. The figures are the point; the
//! bars only catch what has gone wrong entirely.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::crash::await_arrivals;
use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, Reader, gateway_town, mqtt_tables};
use crate::plant::publish;
use crate::publisher::Publisher;
use crate::scenario::Run;

/// No daemon may need more than this for a few devices.
const SANE_KIB: u64 = 128 * 1024;

/// Readings at once, again and again, and what the daemons need for it.
///
/// # Errors
/// A daemon needs absurdly much.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let readings = if run.long { 100_000 } else { 5_000 };
    let town = gateway_town(&run.folder)?;
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let mut gateway = Gateway::new(&town, &mqtt_tables(&broker.address))?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let mut reader = Reader::start(&town)?;
    let measure = |run: &mut Run, when: &str| -> Result<()> {
        let daemons = [
            ("agent", gateway.process()?.resident_kib()?),
            ("server", town.nodes[0].process()?.resident_kib()?),
            ("directory", town.directory_process()?.resident_kib()?),
        ];
        for (daemon, kib) in daemons {
            run.note(&format!("{daemon}_{when}_kib"), kib);
            ensure!(kib < SANE_KIB, "the {daemon} needs {kib} KiB");
        }
        Ok(())
    };
    measure(run, "idle")?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    let mut published = 0;
    while published < readings {
        publish(&mut devices, &mut published, 1_000)?;
        broker.until("acknowledgements", |view| {
            view.acknowledged().len() as u64 >= published - published / 2
        })?;
        measure(run, "loaded")?;
    }
    broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= published)?;
    await_arrivals(&mut reader, &broker.view, &gateway)?;
    measure(run, "after")?;
    run.note("readings", published);
    ensure!(
        reader.until(Duration::ZERO, |arrivals| arrivals.len() as u64 >= published)?,
        "readings are missing"
    );
    Ok(())
}
