//! What a measurement stands on: a folder, an authority, one key for all tenants, and servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use at_protocol::crypto::RsaPrivateKey;
use at_protocol::{AtKey, AtSign, Metadata, Timestamp};
use atedge_server::store::{Committed, Edit, Quota, SqliteStore, Store, Tenant, Watcher, Write};
use atedge_service::tls::DevAuthority;
use atedge_tests::process::{Process, program};
use atedge_tests::town::free_address;
use atedge_tests::wire::client_config;
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::client::{Client, Crowd};

/// Bytes of each value, as in the limits' own rows.
pub(crate) const VALUE: usize = 256;
/// Edits in one transaction while a store is filled.
const FILL: usize = 500;

/// Where servers stand.
pub(crate) struct Ground {
    pub(crate) folder: TempDir,
    pub(crate) authority: DevAuthority,
    pub(crate) tls: Arc<ClientConfig>,
    /// The key by which every tenant's owner signs in.
    pub(crate) key: Arc<RsaPrivateKey>,
}

impl Ground {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("atedge-load-").tempdir()?;
        let authority = DevAuthority::open_or_create(&folder.path().join("ca"), &[])?;
        let mut tls = Arc::unwrap_or_clone(client_config(&authority.ca(), None)?);
        // Each handshake is a whole one.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { folder, authority, tls: Arc::new(tls), key: Arc::new(RsaPrivateKey::generate()) })
    }
}

/// What the names of tenants begin with, where nothing else is said.
const LETTER: &str = "a";

/// The atSign with this number.
pub(crate) fn atsign(number: usize) -> String {
    format!("@{LETTER}{number}")
}

/// A real server in a process of its own.
pub(crate) struct Host<'a> {
    pub(crate) ground: &'a Ground,
    name: String,
    /// What the names of its tenants begin with.
    letter: &'static str,
    pub(crate) address: SocketAddr,
    process: Option<Process>,
}

/// What a server's store holds before it starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holds {
    pub(crate) tenants: usize,
    /// Keys `k0.bench`, `k1.bench` … of the first tenant.
    pub(crate) keys: usize,
}

impl<'a> Host<'a> {
    /// A server that runs. Its store was filled through the store's own interface, which is quicker than
    /// the wire and makes the same rows.
    pub(crate) async fn start(ground: &'a Ground, name: &str, holds: Holds) -> Result<Self> {
        let mut host = Self::prepare(ground, name, holds).await?;
        host.run()?;
        Ok(host)
    }

    /// The same, not started yet.
    pub(crate) async fn prepare(ground: &'a Ground, name: &str, holds: Holds) -> Result<Self> {
        Self::with(ground, name, LETTER, holds, "").await
    }

    /// The same, with tenants of other names, and with further tables of its configuration.
    pub(crate) async fn with(
        ground: &'a Ground,
        name: &str,
        letter: &'static str,
        holds: Holds,
        tables: &str,
    ) -> Result<Self> {
        let host = Self { ground, name: name.to_owned(), letter, address: free_address()?, process: None };
        let authority = &ground.authority;
        let text = format!(
            "schema = 1\n[listen]\naddress = \"{}\"\n[tls]\ncert = {:?}\nkey = {:?}\n[notifications]\nticker = \
             \"0s\"\n[store]\ncheck = false\n[limits.node]\nconnections = 15000\nconnections_per_source = 15000\n\
             [limits.tenant]\nconnections = 15000\n{tables}",
            host.address,
            authority.cert(),
            authority.key()
        );
        std::fs::write(host.config(), text)?;
        std::fs::create_dir_all(host.state())?;
        host.fill(holds).await?;
        Ok(host)
    }

    fn config(&self) -> PathBuf {
        self.ground.folder.path().join(format!("{}.toml", self.name))
    }

    /// The folder of what it keeps.
    pub(crate) fn state(&self) -> PathBuf {
        self.ground.folder.path().join(&self.name)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("atedge-server")?);
        command.arg("run").arg("--config").arg(self.config()).arg("--state").arg(self.state());
        Ok(command)
    }

    /// Starts it, and waits until it says that it serves.
    pub(crate) fn run(&mut self) -> Result<()> {
        let started = Process::start_ready(&self.name, &mut self.command()?, self.ground.folder.path())?;
        self.process = Some(started);
        Ok(())
    }

    /// Starts it, and waits for nothing.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.process = Some(Process::start(&self.name, &mut self.command()?, self.ground.folder.path())?);
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("it does not run")?.terminate()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Its process id; 0 where it does not run.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    /// Its store, which it may have open as well.
    pub(crate) fn store(&self) -> Result<SqliteStore> {
        let path = self.state().join("server.db");
        Ok(SqliteStore::open(&path, None, 0, Quota::default(), Arc::new(Nobody))?)
    }

    /// Its tenant with this number.
    pub(crate) fn atsign(&self, number: usize) -> String {
        format!("@{}{number}", self.letter)
    }

    async fn fill(&self, holds: Holds) -> Result<()> {
        let store = self.store()?;
        let now = Timestamp::from(SystemTime::now());
        let plain = |key, value| Edit::Update { key, value, metadata: Metadata::default() };
        let of_server = |name: &str| anyhow::Ok(AtKey::PrivateKey { name: name.parse()? });
        for number in 0..holds.tenants {
            let records = vec![
                plain(of_server("at_pkam_publickey")?, self.ground.key.public().to_base64().to_owned()),
                // So that no signing key is made, which takes a core for a second each.
                plain(of_server("signing_keypair_generated")?, "true".to_owned()),
            ];
            let tenant = Tenant { atsign: self.atsign(number).parse()?, listen: None };
            store.add_tenant(tenant, records, now).await?;
        }
        let first: AtSign = self.atsign(0).parse()?;
        let mut number = 0;
        while number < holds.keys {
            let until = holds.keys.min(number + FILL);
            let edits = (number..until).map(|number| {
                let name = format!("k{number}.bench").parse()?;
                Ok(plain(AtKey::Own { name, owner: first.clone() }, "v".repeat(VALUE)))
            });
            let edits = edits.collect::<Result<Vec<_>>>()?;
            store.write(&first, Write { edits, notification: None, now }).await??;
            number = until;
        }
        Ok(())
    }

    /// A connection of nobody in particular.
    pub(crate) async fn dial(&self) -> Result<Client> {
        Client::dial(self.address, &self.ground.tls).await
    }

    /// A connection whose owner has signed in.
    pub(crate) async fn sign_in(&self, tenant: usize) -> Result<Client> {
        let mut client = self.dial().await?;
        client.sign_in(&self.atsign(tenant), &self.ground.key).await?;
        Ok(client)
    }

    /// This many connections of one tenant.
    pub(crate) async fn crowd(&self, tenant: usize, size: usize) -> Result<Crowd> {
        let mut crowd = Crowd::default();
        for _ in 0..size {
            crowd.clients.push(self.sign_in(tenant).await?);
        }
        Ok(crowd)
    }
}

/// Wants to know nothing.
struct Nobody;

impl Watcher for Nobody {
    fn committed(&self, _: Committed) {}
}
