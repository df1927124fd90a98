//! `town`: a private atPlatform in a folder.
//!
//! A directory and one or more servers on loopback ports, with an authority and a registrar of their own. The
//! folder holds all of it: `ca.pem`, `registrar.key`, a folder each for the directory and the servers, and one
//! file a resident with its activation secret. Started again on the same folder, the town is as it was.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use at_protocol::crypto::{Ed25519Public, Ed25519Secret};
use at_protocol::directory::{Address, Grant, Pattern, Registrar, Registrars, SignedRecord};
use at_protocol::{AtSign, Timestamp};
use atedge_directory::{Directory, DirectoryConfig, Registry, Rules};
use atedge_server::config::{NodeConfig, RegistrarSetting};
use atedge_server::{Identity, Server, ServerConfig, ServerTls};
use atedge_service::tls::{DevAuthority, OwnCertificate};
use atedge_service::{Exit, files, stop_signal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::cmd::fresh_key;
use crate::output::Output;
use crate::registrar;

/// The name that every certificate and every answer of the directory has; it resolves on a bare machine.
const HOST: &str = "localhost";
/// How long the registrar's grants last: longer than anybody develops anything.
const GRANTED_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1000;
/// How soon the directory has to know all residents.
const ANNOUNCED: Duration = Duration::from_secs(60);

/// A town that runs.
pub struct Town {
    folder: PathBuf,
    ca: PathBuf,
    registrar: Ed25519Secret,
    directory: atedge_directory::Running,
    servers: Vec<atedge_server::Running>,
    residents: Vec<(AtSign, Resident)>,
}

/// An atSign that is hosted in the town.
#[derive(Debug, Clone)]
pub struct Resident {
    /// The secret that activates it.
    pub cram: String,
    /// Where its atServer listens.
    pub address: Address,
}

/// What a folder remembers that no store of the town does.
#[derive(Serialize, Deserialize)]
struct Charter {
    directory: SocketAddr,
}

/// Runs a town until SIGTERM, or until whoever holds the other end of its standard input lets go.
///
/// # Errors
/// The folder or the ports cannot be used.
pub async fn run(args: cli::Town) -> Result<Exit> {
    let stop = stop_signal()?;
    let temporary =
        if args.dir.is_none() { Some(tempfile::tempdir().context("make a folder")?) } else { None };
    let folder = match (&args.dir, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => bail!("a town needs a folder"),
    };
    let town = Town::start(&folder, &[args.atsigns], args.port, stop.clone()).await?;
    Output::new(true).say(String::new, || town.description())?;
    if has_holder()? {
        let closed = stop.clone();
        // A thread of its own, since nothing interrupts a read of standard input.
        std::thread::spawn(move || {
            let mut sink = [0; 4096];
            while matches!(io::stdin().read(&mut sink), Ok(length) if length > 0) {}
            closed.cancel();
        });
    }
    stop.cancelled().await;
    town.finished().await;
    Ok(Exit::Done)
}

/// Whether standard input is a pipe, whose other end closes with whoever started this. A terminal or `/dev/null` says
/// nothing about that.
fn has_holder() -> io::Result<bool> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let kind = input.metadata()?.file_type();
    Ok(kind.is_fifo() || kind.is_socket())
}

impl Town {
    /// Starts a town in `folder`: one server for each group of atSigns. With `port` the directory listens
    /// there and the atSigns after it, in their order; without, on free ports, which the folder remembers.
    ///
    /// # Errors
    /// The folder or the ports cannot be used.
    pub async fn start(
        folder: &Path,
        groups: &[Vec<AtSign>],
        port: Option<u16>,
        stop: CancellationToken,
    ) -> Result<Self> {
        let ports = u16::try_from(groups.iter().map(Vec::len).sum::<usize>())
            .context("too many atSigns for ports")?;
        ensure!(
            port.is_none_or(|port| port.checked_add(ports).is_some()),
            "there are not so many ports above --port"
        );
        files::make_private_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))?;
        let authority = DevAuthority::open_or_create(&folder, &[])?;
        let registrar = registrar(&folder)?;
        let trusted = Registrars::new(vec![Registrar { key: registrar.public(), atsigns: everybody() }]);
        let directory = start_directory(&folder, &authority, trusted, port, stop.clone()).await?;
        let mut town = Self {
            ca: authority.ca(),
            registrar,
            directory,
            servers: Vec::new(),
            residents: Vec::new(),
            folder,
        };
        let mut next_port = port;
        for (place, atsigns) in groups.iter().enumerate() {
            let state = town.folder.join(format!("server{}", place + 1));
            let server = town.start_server(&authority, &state, stop.clone()).await?;
            for atsign in atsigns {
                next_port = next_port.map(|port| port + 1);
                let resident = town.settle(&server, atsign, next_port.unwrap_or(0)).await?;
                town.residents.push((atsign.clone(), resident));
            }
            town.servers.push(server);
        }
        tokio::time::timeout(ANNOUNCED, town.announced())
            .await
            .context("the servers do not announce anybody")??;
        Ok(town)
    }

    /// Waits until the directory has a record of each resident by the server that runs now.
    async fn announced(&self) -> Result<()> {
        for (atsign, resident) in &self.residents {
            loop {
                let record = self.directory.registry.record(atsign)?;
                let record: Option<SignedRecord> = record.map(|text| text.parse()).transpose()?;
                let runs = |record: &SignedRecord| {
                    let ports = self.servers.iter().map(|server| server.address().port());
                    record.at.address == resident.address
                        && ports.into_iter().any(|port| port == record.at.quic)
                };
                if record.as_ref().is_some_and(runs) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn start_server(
        &self,
        authority: &DevAuthority,
        state: &Path,
        stop: CancellationToken,
    ) -> Result<atedge_server::Running> {
        files::make_private_folder(state).with_context(|| format!("cannot make {}", state.display()))?;
        let mut config = ServerConfig::default();
        config.listen.address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.tls.cert = Some(authority.cert());
        config.tls.key = Some(authority.key());
        config.directory = Some(atedge_server::config::DirectoryConfig {
            address: self.directory(),
            ca: Some(self.ca.clone()),
        });
        config.server = NodeConfig {
            host: Some(HOST.to_owned()),
            registrars: vec![RegistrarSetting::Owner { key: self.registrar.public(), atsigns: everybody() }],
            node_grant: Some(state.join("node.grant")),
        };
        self.grant(state)?;
        let tls = ServerTls::load(&config, state)?;
        Ok(Server::start(config, tls, state, stop).await?)
    }

    /// Lets the server whose state is in a folder serve everybody, if it may not already.
    fn grant(&self, state: &Path) -> Result<()> {
        let node = Identity::open(&NodeConfig::default(), state)?.public();
        let (file, now) = (state.join("node.grant"), Timestamp::from(SystemTime::now()));
        let is_good = |grant: &Grant| {
            let is_ours = grant.node == node && grant.registrar == self.registrar.public();
            is_ours && grant.is_signed() && grant.not_after > now.plus_millis(GRANTED_MS / 2)
        };
        let granted = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        if granted.as_ref().is_some_and(is_good) {
            return Ok(());
        }
        let grant = Grant::sign(&self.registrar, node, everybody(), now.plus_millis(GRANTED_MS));
        files::write_public(&file, format!("{grant}\n").as_bytes())
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Has `server` host `atsign`, if it does not yet, and the directory know it.
    async fn settle(&self, server: &atedge_server::Running, atsign: &AtSign, port: u16) -> Result<Resident> {
        let secret_file = self.folder.join(format!("{}.cram", atsign.as_str()));
        let hosted = server.tenants().await?.into_iter().any(|tenant| tenant.atsign == *atsign);
        let (cram, bound) = if hosted {
            let cram = std::fs::read_to_string(&secret_file)
                .with_context(|| format!("cannot read {}", secret_file.display()))?;
            (cram.trim().to_owned(), server.address_of(atsign))
        } else {
            let cram = fresh_key()? + &fresh_key()?;
            files::write_private(&secret_file, cram.as_bytes())
                .with_context(|| format!("cannot write {}", secret_file.display()))?;
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let bound = server.add_tenant(atsign.clone(), &cram, Some(listen)).await?;
            (cram, bound)
        };
        ensure!(
            port == 0 || bound.port() == port,
            "{atsign} was settled on port {}; leave out --port, or begin in another folder",
            bound.port()
        );
        let address: Address = format!("{HOST}:{}", bound.port()).parse()?;
        self.directory.registry.put(atsign, &address)?;
        Ok(Resident { cram, address })
    }

    /// Where the directory listens.
    #[must_use]
    pub fn directory(&self) -> Address {
        self.directory.address.to_string().parse().expect("a socket address is an address")
    }

    /// The certificate of the town's authority, in PEM.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// The registrar's key, which all servers and the directory trust.
    #[must_use]
    pub fn registrar(&self) -> Ed25519Public {
        self.registrar.public()
    }

    /// How many connections between servers each end knows of.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.servers.iter().map(atedge_server::Running::peers).sum()
    }

    /// Who lives here, in the order given.
    pub fn residents(&self) -> impl Iterator<Item = (&AtSign, &Resident)> {
        self.residents.iter().map(|(atsign, resident)| (atsign, resident))
    }

    /// What a program needs to know of the town.
    #[must_use]
    pub fn description(&self) -> Value {
        let residents: Map<String, Value> = self
            .residents()
            .map(|(atsign, Resident { cram, address })| {
                (atsign.to_string(), json!({ "cram": cram, "address": address }))
            })
            .collect();
        let registrar = self.registrar();
        json!({ "directory": self.directory(), "ca": self.ca, "registrar": registrar, "atsigns": residents })
    }

    /// Waits until all of it has ended, after `stop`.
    pub async fn finished(self) {
        for server in self.servers {
            server.finished().await;
        }
        self.directory.wait().await;
    }
}

/// The town's registrar, which is made once.
fn registrar(folder: &Path) -> Result<Ed25519Secret> {
    let file = folder.join("registrar.key");
    if file.exists() { registrar::open(&file) } else { registrar::create(&file) }
}

fn everybody() -> Vec<Pattern> {
    vec!["*".parse().expect("a star is a pattern")]
}

async fn start_directory(
    folder: &Path,
    authority: &DevAuthority,
    registrars: Registrars,
    port: Option<u16>,
    stop: CancellationToken,
) -> Result<atedge_directory::Running> {
    let charter_file = folder.join("town.json");
    let remembered = match std::fs::read(&charter_file) {
        Ok(json) => Some(
            serde_json::from_slice::<Charter>(&json).with_context(|| charter_file.display().to_string())?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", charter_file.display())),
    };
    let address = match (&remembered, port) {
        (Some(charter), Some(port)) if charter.directory.port() != port => bail!(
            "this town was founded on port {}; leave out --port, or begin in another folder",
            charter.directory.port()
        ),
        (Some(charter), _) => charter.directory,
        (None, port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0))),
    };
    let state = folder.join("directory");
    files::make_private_folder(&state).with_context(|| format!("cannot make {}", state.display()))?;
    let config = DirectoryConfig {
        address,
        https: None,
        registry: Registry::open(&state)?,
        rules: Rules {
            registrars,
            ..Rules::plain(OwnCertificate::open(&authority.cert(), &authority.key())?)
        },
        nodes: None,
    };
    let running = Directory::start(config, stop)
        .await
        .with_context(|| format!("cannot listen on {address}; does another town run in this folder?"))?;
    let charter = Charter { directory: running.address };
    files::write_public(&charter_file, serde_json::to_string(&charter)?.as_bytes())?;
    Ok(running)
}
