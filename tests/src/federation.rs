//! A town across the network: a directory, servers and clients, each on a host of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ClientConfig;

use crate::net::{Host, Net};
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::{Setup, Town};
use crate::wire::Wire;

/// How servers speak with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As atServers always have: TLS, and a call back for proof.
    Classic,
    /// By their node keys, which a registrar has granted: QUIC, or the same over TCP.
    Nodes,
}

/// Where clients are.
const CLIENTS: &str = "clients";

/// A directory and servers on hosts `directory`, `server1` and so on, used from `clients`.
pub struct Federation {
    /// What runs. Ends before the network does.
    pub town: Town,
    /// What is between.
    pub net: Net,
    doors: Vec<Door>,
}

/// How an atSign's owner gets in, from the clients' host.
#[derive(Clone)]
pub struct Door {
    atsign: String,
    owner: Arc<Owner>,
    host: Host,
    address: SocketAddr,
    trust: Arc<ClientConfig>,
}

impl Federation {
    /// Starts a server for each list of atSigns, and activates them all. The network's chance comes from
    /// the run's seed.
    ///
    /// # Errors
    /// This machine cannot make such a network, or a part does not start.
    pub fn start(run: &Run, way: Way, hosted: &[&[&str]]) -> Result<Self> {
        Self::with(run, way, hosted, &[], &[])
    }

    /// The same with further hosts, and the directory also knows guests, who are served there.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with(
        run: &Run,
        way: Way,
        hosted: &[&[&str]],
        hosts: &[&str],
        guests: &[(&str, SocketAddr)],
    ) -> Result<Self> {
        let registrar = way == Way::Nodes;
        Self::build(run, hosted, hosts, Setup { guests, registrar, ..Setup::default() })
    }

    /// The same as [`Self::start`], but that the atSigns of a server share its port.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn on_shared_ports(run: &Run, hosted: &[&[&str]]) -> Result<Self> {
        Self::build(run, hosted, &[], Setup { shared_ports: true, ..Setup::default() })
    }

    fn build(run: &Run, hosted: &[&[&str]], hosts: &[&str], setup: Setup<'_>) -> Result<Self> {
        let servers: Vec<String> = (1..=hosted.len()).map(|number| format!("server{number}")).collect();
        let mut names = vec!["directory", CLIENTS];
        names.extend(servers.iter().map(String::as_str));
        names.extend(hosts);
        let net = Net::start(&run.folder, run.seed, &names)?;
        // Nothing may expire before it is counted.
        let tables = "[notifications]\nttln = \"24h\"\n";
        let setup = Setup { tables, net: Some(&net), ..setup };
        let town = Town::with(&run.folder, hosted, &setup)?;
        let (host, trust) = (net.host(CLIENTS)?, town.trust()?);
        let mut doors = Vec::new();
        for tenant in &town.tenants {
            let owner = Arc::new(Owner::new(&tenant.secret)?);
            owner.activate(&tenant.atsign, &mut town.dial(&tenant.atsign)?)?;
            doors.push(Door {
                atsign: tenant.atsign.clone(),
                owner,
                host: host.clone(),
                address: tenant.address,
                trust: Arc::clone(&trust),
            });
        }
        Ok(Self { town, net, doors })
    }

    /// How an atSign's owner gets in.
    ///
    /// # Errors
    /// The atSign is not hosted here.
    pub fn door(&self, atsign: &str) -> Result<&Door> {
        let door = self.doors.iter().find(|door| door.atsign == atsign);
        door.with_context(|| format!("{atsign} is not hosted here"))
    }

    /// A connection of an atSign's owner.
    ///
    /// # Errors
    /// The atSign's server is not there.
    pub fn enter(&self, atsign: &str) -> Result<Wire> {
        self.door(atsign)?.enter()
    }
}

impl Door {
    /// Whose it is.
    #[must_use]
    pub fn atsign(&self) -> &str {
        &self.atsign
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same at another address.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// A connection on which the owner is signed in.
    ///
    /// # Errors
    /// The atSign's server is not there.
    pub fn enter(&self) -> Result<Wire> {
        let mut wire = self.host.inside(|| Wire::greeted(self.address, &self.trust))?;
        self.owner.sign_in(&self.atsign, &mut wire)?;
        Ok(wire)
    }
}
