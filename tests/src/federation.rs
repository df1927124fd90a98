//! A town across the network: a directory, servers and clients, each on a host of its own.

use anyhow::Result;

use crate::net::Net;
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::{Setup, Town};
use crate::wire::Wire;

/// A directory and servers on hosts `directory`, `server1` and so on, used from `clients`.
pub struct Federation {
    /// What runs. Ends before the network does.
    pub town: Town,
    /// What is between.
    pub net: Net,
    owners: Vec<(String, Owner)>,
}

impl Federation {
    /// Starts a server for each list of atSigns, and activates them all. The network's chance comes from
    /// the run's seed.
    ///
    /// # Errors
    /// This machine cannot make such a network, or a part does not start.
    pub fn start(run: &Run, hosted: &[&[&str]]) -> Result<Self> {
        let servers = (1..=hosted.len()).map(|number| format!("server{number}"));
        let names: Vec<String> =
            ["directory", "clients"].map(str::to_owned).into_iter().chain(servers).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let net = Net::start(&run.folder, run.seed, &names)?;
        // Nothing may expire before it is counted.
        let tables = "[notifications]\nttln = \"24h\"\n";
        let town = Town::with(&run.folder, hosted, &Setup { tables, net: Some(&net), ..Setup::default() })?;
        let mut owners = Vec::new();
        for tenant in &town.tenants {
            let owner = Owner::new(&tenant.secret)?;
            owner.activate(&tenant.atsign, &mut town.dial(&tenant.atsign)?)?;
            owners.push((tenant.atsign.clone(), owner));
        }
        Ok(Self { town, net, owners })
    }

    /// A connection of an atSign's owner, from the clients' host.
    ///
    /// # Errors
    /// The atSign's server is not there.
    pub fn enter(&self, atsign: &str) -> Result<Wire> {
        let mut wire = self.town.dial(atsign)?;
        let owner = self.owners.iter().find(|(name, _)| name == atsign);
        let (_, owner) = owner.ok_or_else(|| anyhow::anyhow!("{atsign} does not live here"))?;
        owner.sign_in(atsign, &mut wire)?;
        Ok(wire)
    }
}
