//! A private atPlatform of real processes: a directory and servers, on loopback, in one folder.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use atedge_service::tls::DevAuthority;
use rustls::ClientConfig;
use serde_json::Value;

use crate::net::{Host, Net};
use crate::process::{PATIENCE, Process, program, run};
use crate::registrar::Registrar;
use crate::wire::{Wire, client_config};

/// An address of this machine where nobody listens at the moment, and which this process has not given
/// out before. Below the ports that the system hands to those who connect, so that none of them takes it.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 20_000;
    const MANY: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..MANY {
        // Two runs at the same time begin at different places.
        let place = std::process::id().wrapping_mul(769).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(FIRST + place % MANY)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("every port is taken")
}

/// An address that names this machine.
fn loopback(text: &str) -> Result<SocketAddr> {
    text.replace("localhost", "127.0.0.1").parse().with_context(|| format!("not an address: {text}"))
}

/// Somebody who is hosted here.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// As `@alice`.
    pub atsign: String,
    /// Where this atSign alone is served.
    pub address: SocketAddr,
    /// What activates the atSign, once.
    pub secret: String,
}

/// Where a part of a town runs: on this machine itself, or on a host of its own.
#[derive(Debug, Clone)]
struct Place {
    ip: Ipv4Addr,
    /// The program and first arguments that start others there.
    under: Vec<String>,
}

impl Place {
    fn of(net: Option<&Net>, name: &str) -> Result<Self> {
        let Some(net) = net else { return Ok(Self { ip: Ipv4Addr::LOCALHOST, under: Vec::new() }) };
        let host = net.host(name)?;
        Ok(Self { ip: host.address(), under: host.under().map(str::to_owned).to_vec() })
    }

    /// An address here where nobody listens.
    fn free_address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.ip, free_address()?.port())))
    }

    /// What to listen on for an address here: a host of its own may get others.
    fn listening(&self, address: SocketAddr) -> SocketAddr {
        if self.ip.is_loopback() { address } else { (Ipv4Addr::UNSPECIFIED, address.port()).into() }
    }

    /// A command that runs here.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self.under.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

/// An address as it stands in configurations and in the directory.
fn named(address: SocketAddr) -> String {
    format!("{}:{}", named_host(address.ip()), address.port())
}

/// The same without the port.
fn named_host(ip: IpAddr) -> String {
    if ip.is_loopback() { "localhost".to_owned() } else { ip.to_string() }
}

/// Enters an atSign in the registry of the directory in this folder, whether it runs or not.
fn enter_in_directory(folder: &Path, atsign: &str, address: SocketAddr) -> Result<()> {
    let mut command = Command::new(program("atedge-directory")?);
    command.args(["add", atsign, &named(address), "--state"]).arg(folder.join("directory"));
    let entered = run("directory-add", &mut command, folder)?;
    ensure!(entered.status.success(), "{}", String::from_utf8_lossy(&entered.stderr));
    Ok(())
}

/// One server and those it hosts. Killed and started again, it finds everything as it was.
pub struct Node {
    name: String,
    folder: PathBuf,
    /// Another program than the server as built.
    instead: Option<String>,
    place: Place,
    /// What all its atSigns share.
    address: SocketAddr,
    process: Option<Process>,
}

/// What is out of the ordinary in a town.
#[derive(Default)]
pub struct Setup<'a> {
    /// Who is in the directory and served elsewhere.
    pub guests: &'a [(&'a str, SocketAddr)],
    /// Further tables of the servers' configuration.
    pub tables: &'a str,
    /// A program and its first arguments that start the servers in its place, such as `prlimit`.
    pub under: &'a [&'a str],
    /// Hosts for all parts: `directory`, `server1` and so on, and `clients`, where the town is used from.
    pub net: Option<&'a Net>,
    /// A registrar grants the servers their atSigns, and they tell the directory themselves, by records.
    pub registrar: bool,
    /// Whether the atSigns of a server share its port, instead of having one each.
    pub shared_ports: bool,
}

impl Node {
    /// Starts the server, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.command()?;
        command.arg("run").args(self.arguments());
        self.process = Some(Process::start_ready(&self.name, &mut command, &self.folder)?);
        Ok(())
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the server does not run")?.kill()
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the server does not run")
    }

    /// The address that all its atSigns share.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A command that has it move an atSign to another server, and ends when that is decided.
    ///
    /// # Errors
    /// The server has not been built.
    pub fn moving(&self, atsign: &str, to: SocketAddr) -> Result<Command> {
        let mut command = self.command()?;
        command.args(["tenant", "move", atsign, &named(to), "--json"]).args(self.arguments());
        Ok(command)
    }

    /// Runs another program from its next start on.
    pub fn run_instead(&mut self, program: String) {
        self.instead = Some(program);
    }

    /// Adds to its configuration, for its next start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, text: &str) -> Result<()> {
        let mut file = std::fs::File::options().append(true).open(self.config())?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not run, or does not end well.
    pub fn stop(&mut self) -> Result<()> {
        let ended = self.process.take().context("the server does not run")?.terminate()?;
        ensure!(ended.success(), "the server ended with {ended}");
        Ok(())
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// There is no log.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join(format!("{}.log", self.name)))?)
    }

    /// Waits until its log says this, behind so many bytes.
    ///
    /// # Errors
    /// It does not come within [`PATIENCE`].
    pub fn until_logged(&self, behind: usize, text: &str) -> Result<()> {
        let since = Instant::now();
        while !self.log()?[behind..].contains(text) {
            ensure!(since.elapsed() < PATIENCE, "the log never said: {text}");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Has every page of its store looked at, while it runs or not.
    ///
    /// # Errors
    /// Something is wrong with it.
    pub fn check_store(&self) -> Result<()> {
        self.check_store_by(&mut self.command()?)
    }

    /// The same, by a command that runs the server's program in some other way.
    ///
    /// # Errors
    /// Something is wrong with it.
    pub fn check_store_by(&self, command: &mut Command) -> Result<()> {
        command.args(["check", "--store"]).args(self.arguments());
        let checked = run("check", command, &self.folder)?;
        let said = String::from_utf8_lossy(&checked.stdout);
        ensure!(checked.status.success(), "the store is damaged: {}", said.trim());
        Ok(())
    }

    /// Where it keeps its store.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn config(&self) -> PathBuf {
        self.folder.join(format!("{}.toml", self.name))
    }

    fn command(&self) -> Result<Command> {
        let server = match &self.instead {
            Some(program) => program.into(),
            None => program("atedge-server")?,
        };
        Ok(self.place.command(server))
    }

    fn arguments(&self) -> [PathBuf; 4] {
        ["--config".into(), self.config(), "--state".into(), self.state()]
    }

    /// Adds a tenant on the server's port, or on one of its own.
    fn add_tenant(&self, atsign: &str, shared: Option<SocketAddr>) -> Result<Tenant> {
        let address = shared.map_or_else(|| self.place.free_address(), Ok)?;
        let mut command = self.command()?;
        command.args(["tenant", "add", atsign, "--json"]).args(self.arguments());
        if shared.is_none() {
            command.args(["--listen", &self.place.listening(address).to_string()]);
        }
        let added = run("tenant-add", &mut command, &self.folder)?;
        ensure!(added.status.success(), "{atsign} was not added: {}", String::from_utf8_lossy(&added.stderr));
        let json: Value = serde_json::from_slice(&added.stdout)?;
        let secret = json["cram"].as_str().with_context(|| format!("no secret in {json}"))?.to_owned();
        Ok(Tenant { atsign: atsign.to_owned(), address, secret })
    }
}

/// A directory and servers.
pub struct Town {
    /// Where everything is kept.
    pub folder: PathBuf,
    /// The authority that all trust.
    pub ca: PathBuf,
    /// Where the directory listens.
    pub directory: SocketAddr,
    /// Who lives here.
    pub tenants: Vec<Tenant>,
    /// Who grants the servers their atSigns, if anybody does.
    pub registrar: Option<Registrar>,
    /// The servers, in the order asked for; none in the tool's own town, which is one process.
    pub nodes: Vec<Node>,
    directory_place: Place,
    /// Where the town is used from, if not from everywhere.
    clients: Option<Host>,
    process: Option<Process>,
}

impl Town {
    /// Starts a directory, and a server for each list of atSigns.
    ///
    /// # Errors
    /// A part is not built or does not start.
    pub fn start(folder: &Path, hosted: &[&[&str]]) -> Result<Self> {
        Self::with_guests(folder, hosted, &[])
    }

    /// The same, and the directory also knows guests, who are served elsewhere.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with_guests(folder: &Path, hosted: &[&[&str]], guests: &[(&str, SocketAddr)]) -> Result<Self> {
        Self::with(folder, hosted, &Setup { guests, ..Setup::default() })
    }

    /// The same, with what is out of the ordinary.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with(folder: &Path, hosted: &[&[&str]], setup: &Setup<'_>) -> Result<Self> {
        let server_name = |number: usize| format!("server{}", number + 1);
        let directory_place = Place::of(setup.net, "directory")?;
        let places = (0..hosted.len()).map(|number| Place::of(setup.net, &server_name(number)));
        let places = places.collect::<Result<Vec<_>>>()?;
        let everywhere = [&directory_place].into_iter().chain(&places);
        // A host may move to the next address.
        let names = everywhere.flat_map(|place| [place.ip, Ipv4Addr::from_bits(place.ip.to_bits() + 1)]);
        let names: Vec<String> = names.map(|ip| ip.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let authority = DevAuthority::open_or_create(&folder.join("ca"), &names)?;
        let tls = format!("[tls]\ncert = {:?}\nkey = {:?}\n", authority.cert(), authority.key());
        let registrar = setup.registrar.then(|| {
            let atsigns = hosted.iter().flat_map(|atsigns| atsigns.iter().map(ToString::to_string));
            Registrar::init(folder, atsigns)
        });
        let registrar = registrar.transpose()?;
        let directory = directory_place.free_address()?;
        let (mut nodes, mut tenants) = (Vec::new(), Vec::new());
        for (number, (atsigns, mut place)) in hosted.iter().zip(places).enumerate() {
            let name = server_name(number);
            let address = place.free_address()?;
            let text = format!(
                "schema = 1\n[listen]\naddress = \"{}\"\n{tls}[store]\nkind = \"sqlite\"\n[directory]\naddress = \
                 {:?}\nca = {:?}\n{}",
                place.listening(address),
                named(directory),
                authority.ca(),
                setup.tables,
            );
            std::fs::write(folder.join(format!("{name}.toml")), text)?;
            place.under.extend(setup.under.iter().map(ToString::to_string));
            let node = Node { name, folder: folder.to_owned(), instead: None, place, address, process: None };
            for atsign in *atsigns {
                tenants.push(node.add_tenant(atsign, setup.shared_ports.then_some(address))?);
            }
            if let Some(registrar) = &registrar {
                let mut shown = node.command()?;
                let grant =
                    registrar.grant(&node.name, shown.args(["node", "--json"]).args(node.arguments()))?;
                node.configure(&registrar.server_tables(&named_host(node.place.ip.into()), &grant))?;
            }
            nodes.push(node);
        }
        let served = tenants.iter().map(|tenant: &Tenant| (tenant.atsign.as_str(), tenant.address));
        let served = served.filter(|_| registrar.is_none());
        for (atsign, address) in served.chain(setup.guests.iter().copied()) {
            enter_in_directory(folder, atsign, address)?;
        }
        let config = folder.join("directory.toml");
        let trust = registrar.as_ref().map(Registrar::directory_tables).unwrap_or_default();
        std::fs::write(&config, format!("schema = 1\n[listen]\naddress = \"{directory}\"\n{tls}{trust}"))?;
        let clients = setup.net.map(|net| net.host("clients")).transpose()?.cloned();
        let mut town = Self {
            folder: folder.to_owned(),
            ca: authority.ca(),
            directory,
            tenants,
            registrar,
            nodes,
            directory_place,
            clients,
            process: None,
        };
        town.start_directory()?;
        for node in &mut town.nodes {
            node.start()?;
        }
        if setup.registrar {
            town.until_found()?;
        }
        Ok(town)
    }

    /// The town that the tool makes for developers: `atedge town`.
    ///
    /// # Errors
    /// It does not start, or its first line is not as documented.
    pub fn of_tool(folder: &Path, atsigns: &[&str]) -> Result<Self> {
        let mut command = Command::new(program("atedge")?);
        command.args(["town", "--atsigns", &atsigns.join(","), "--dir"]).arg(folder.join("town"));
        let process = Process::start("town", &mut command, folder)?;
        let first = process.line()?.context("atedge town ended; see town.log")?;
        let json: Value = serde_json::from_str(&first).with_context(|| format!("not JSON: {first}"))?;
        let text =
            |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("not whole: {json}"));
        let mut tenants = Vec::new();
        for atsign in atsigns {
            let one = &json["atsigns"][atsign];
            let (address, secret) = (loopback(&text(&one["address"])?)?, text(&one["cram"])?);
            tenants.push(Tenant { atsign: (*atsign).to_owned(), address, secret });
        }
        let directory = loopback(&text(&json["directory"])?)?;
        let ca = text(&json["ca"])?.into();
        Ok(Self {
            folder: folder.to_owned(),
            ca,
            directory,
            tenants,
            registrar: None,
            nodes: Vec::new(),
            directory_place: Place::of(None, "directory")?,
            clients: None,
            process: Some(process),
        })
    }

    /// The process of the directory.
    ///
    /// # Errors
    /// It does not run.
    pub fn directory_process(&self) -> Result<&Process> {
        self.process.as_ref().context("the directory does not run")
    }

    /// Starts the directory, which does not run, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_directory(&mut self) -> Result<()> {
        let mut command = self.directory_place.command(program("atedge-directory")?);
        command.args(["run", "--config"]).arg(self.folder.join("directory.toml"));
        command.arg("--state").arg(self.folder.join("directory"));
        self.process = Some(Process::start_ready("directory", &mut command, &self.folder)?);
        Ok(())
    }

    /// Waits until the directory knows all who live here.
    fn until_found(&self) -> Result<()> {
        let mut wire = self.dial_at(self.directory)?;
        let since = Instant::now();
        for tenant in &self.tenants {
            let is_found = |answer: &str| answer.starts_with(&named(tenant.address));
            while !wire.ask(&tenant.atsign[1..]).is_ok_and(|answer| is_found(&answer)) {
                ensure!(since.elapsed() < PATIENCE, "the directory never heard of {}", tenant.atsign);
                // A directory takes who asks too often for names that are not there for one who guesses.
                std::thread::sleep(Duration::from_millis(200));
                wire = self.dial_at(self.directory)?;
            }
        }
        Ok(())
    }

    /// Has the directory say that an atSign is served elsewhere.
    ///
    /// # Errors
    /// It refuses.
    pub fn relocate(&self, atsign: &str, address: SocketAddr) -> Result<()> {
        enter_in_directory(&self.folder, atsign, address)
    }

    /// Kills the directory as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_directory(&mut self) -> Result<()> {
        self.process.take().context("the directory does not run")?.kill()
    }

    /// Somebody who is hosted in this town.
    ///
    /// # Errors
    /// Nobody is called so.
    pub fn tenant(&self, atsign: &str) -> Result<&Tenant> {
        let found = self.tenants.iter().find(|tenant| tenant.atsign == atsign);
        found.with_context(|| format!("{atsign} does not live here"))
    }

    /// The certificate that all servers of this town show, with its key.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca/server.pem")
    }

    /// What clients of this town trust.
    ///
    /// # Errors
    /// The authority's file is gone.
    pub fn trust(&self) -> Result<Arc<ClientConfig>> {
        client_config(&self.ca, None)
    }

    /// A greeted connection to an atSign's server.
    ///
    /// # Errors
    /// It is not served.
    pub fn dial(&self, atsign: &str) -> Result<Wire> {
        self.dial_at(self.tenant(atsign)?.address)
    }

    fn dial_at(&self, address: SocketAddr) -> Result<Wire> {
        let trust = self.trust()?;
        match &self.clients {
            Some(host) => host.inside(|| Wire::greeted(address, &trust)),
            None => Wire::greeted(address, &trust),
        }
    }

    /// The tool, set up for this town, with a home of its own.
    ///
    /// # Errors
    /// It has not been built.
    pub fn tool(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = match &self.clients {
            Some(host) => host.command(&program("atedge")?),
            None => Command::new(program("atedge")?),
        };
        command
            .args(arguments)
            .env_remove("ATEDGE_KEYS")
            .env("HOME", self.home())
            .env("ATEDGE_DIRECTORY", named(self.directory))
            .env("ATEDGE_CA", &self.ca);
        Ok(command)
    }

    /// Runs the tool to its end.
    ///
    /// # Errors
    /// It fails; the error says what it said.
    pub fn use_tool(&self, arguments: &[&str]) -> Result<Output> {
        let output = run("atedge", &mut self.tool(arguments)?, &self.folder)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "atedge {}: {}", arguments.join(" "), said.trim());
        Ok(output)
    }

    /// Activates an atSign by the tool; its keys are then in the town's home.
    ///
    /// # Errors
    /// The tool fails.
    pub fn onboard(&self, atsign: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(self.home())?;
        let secret = self.folder.join(format!("{atsign}.cram"));
        std::fs::write(&secret, &self.tenant(atsign)?.secret)?;
        let path = secret.to_str().context("a path in UTF-8")?;
        self.use_tool(&["onboard", atsign, "--cram-file", path])?;
        Ok(self.keys(atsign))
    }

    /// Where the tool keeps an atSign's keys, which is where all SDKs look for them.
    #[must_use]
    pub fn keys(&self, atsign: &str) -> PathBuf {
        self.home().join(".atsign/keys").join(format!("{atsign}_key.atKeys"))
    }

    /// The home of the tool's user.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }
}
