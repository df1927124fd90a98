//! The peer: a broker that keeps messages for somebody who is away.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use atedge_tests::process::Process;
use atedge_tests::town::free_address;

use super::site::{BYTES, Crew};
use crate::mqtt::{Mqtt, broker};

/// Connections of devices, as many as the gateway has.
const CONNECTIONS: usize = 16;
/// Who is away.
const AWAY: &str = "away";

/// How sure it is that what was acknowledged is kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keeps {
    /// In memory; a snapshot is written now and then.
    Memory,
    /// The nearest that it has to durable: a snapshot after each change, but once a second at most, and behind the
    /// acknowledgement.
    Snapshots,
}

impl Keeps {
    fn lines(self, folder: &Path) -> String {
        let place = folder.display();
        let interval = match self {
            Self::Memory => "autosave_interval 1800\n",
            Self::Snapshots => "autosave_on_changes true\nautosave_interval 1\n",
        };
        format!("persistence true\npersistence_location {place}/\n{interval}max_queued_bytes 0\n")
    }
}

/// It, its devices, and the folder of its snapshots.
pub(super) struct Mosquitto {
    process: Process,
    address: SocketAddr,
    pub(super) crew: Crew,
}

impl Mosquitto {
    /// Starts it in a folder of its own, and has somebody subscribe to everything and go away.
    pub(super) async fn start(folder: &Path, name: &str, keeps: Keeps) -> Result<Self> {
        let place = folder.join(name);
        std::fs::create_dir_all(&place)?;
        let address = free_address()?;
        let process = broker(&place, name, address, &keeps.lines(&place))?;
        Mqtt::connect(address, AWAY, true).await?.subscribe("#").await?;
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            clients.push(Mqtt::connect(address, &format!("crew{number}"), false).await?);
        }
        Ok(Self { process, address, crew: Crew::of(clients, CONNECTIONS, BYTES) })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A device by itself.
    pub(super) async fn device(&self) -> Result<Mqtt> {
        Mqtt::connect(self.address, "device", false).await
    }

    /// Who was away is back, and takes what was kept.
    pub(super) async fn deliver(&self, many: usize) -> Result<()> {
        Mqtt::connect(self.address, AWAY, true).await?.absorb(many).await
    }
}
