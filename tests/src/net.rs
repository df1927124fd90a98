//! Networks of our own: hosts in network namespaces, an address each, joined by the [`link`](crate::link).
//!
//! Host number N has the network 10.77.N.0/24 and begins as 10.77.N.2. Nothing leads out, and nothing of
//! this machine's own network is touched. All goes with the [`Net`]; what a run that was killed has left
//! goes when the next one starts.

use std::cell::RefCell;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::process::{Process, program};

/// How the namespaces of all runs begin; the process that made them follows.
const PREFIX: &str = "atedge-";
/// Where iproute2 keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// Hosts, and the link between them. It must outlive the processes on its hosts.
pub struct Net {
    hosts: Vec<Host>,
    /// Spoken to in turns.
    link: RefCell<Process>,
}

/// A machine of its own, as far as the network can tell.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: String,
    device: String,
    number: u8,
}

/// What a host does with packets behind its programs' backs.
const TABLE: &str = "atedge";

impl Net {
    /// Makes a host for each name. The link's chance comes from `seed`.
    ///
    /// # Errors
    /// This machine cannot make network namespaces or TUN devices, or not by this user.
    pub fn start(folder: &Path, seed: u64, names: &[&str]) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        sweep()?;
        let (process, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let host = |(place, name): (usize, &&str)| {
            Ok(Host {
                name: (*name).to_owned(),
                namespace: format!("{PREFIX}{process}-{made}-{name}"),
                device: format!("ae{process}n{made}p{place}"),
                number: u8::try_from(place + 1)?,
            })
        };
        let hosts = names.iter().enumerate().map(host).collect::<Result<Vec<_>>>()?;
        let mut command = Command::new(program("link")?);
        command.args(["--seed", &seed.to_string()]);
        for host in &hosts {
            command.arg(format!("{}={}@10.77.{}.0", host.name, host.device, host.number));
        }
        let link = Process::start("link", &mut command, folder)?;
        let ready = link.line()?;
        ensure!(ready.as_deref() == Some("ready"), "the link did not start; see link.log");
        // From here on, what was made goes with this.
        let net = Self { hosts, link: RefCell::new(link) };
        for host in &net.hosts {
            host.make().with_context(|| {
                format!(
                    "cannot make the network namespace {}; it takes root, iproute2, nftables and a kernel with both",
                    host.namespace
                )
            })?;
        }
        Ok(net)
    }

    /// A host by its name.
    ///
    /// # Errors
    /// None is called so.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| format!("no host is called {name}"))
    }

    /// Changes the link, as `one>two loss=3% delay=40ms` or `one<>* cut`; from the next packet on.
    ///
    /// # Errors
    /// It names no host of ours, or no impairment.
    pub fn tell(&self, command: &str) -> Result<()> {
        let answer = self.ask(command)?;
        ensure!(answer == "ok", "the link was told `{command}`: {answer}");
        Ok(())
    }

    /// From now on `to` sees `from` under the other address of this last part, as behind a router that
    /// translates; see [`Disguise`](crate::link::Disguise).
    ///
    /// # Errors
    /// There are no such hosts.
    pub fn show(&self, from: &str, to: &str, last: u8) -> Result<()> {
        let host = self.host(from)?;
        self.tell(&format!("{from}>{to} as {} for {}", host.other_address(last), host.address()))
    }

    /// What became of all packets so far, by direction as `one>two`.
    ///
    /// # Errors
    /// The link is gone.
    pub fn counters(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask("counters")?)?)
    }

    /// One counter of one direction; 0 for one that has seen no packet.
    ///
    /// # Errors
    /// The link is gone.
    pub fn counter(&self, direction: &str, what: &str) -> Result<u64> {
        Ok(self.counters()?[direction][what].as_u64().unwrap_or_default())
    }

    fn ask(&self, line: &str) -> Result<String> {
        let mut link = self.link.borrow_mut();
        link.say(line)?;
        link.line()?.context("the link ended; see link.log")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            // It may never have been made.
            ip(&["netns", "del", &host.namespace]).ok();
        }
    }
}

impl Host {
    /// As commands to the link call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that it begins with.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.other_address(2)
    }

    /// Another address that leads to it once it has taken it, by its last part.
    #[must_use]
    pub fn other_address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, last)
    }

    /// The program and first arguments that run a command here.
    #[must_use]
    pub fn under(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespace]
    }

    /// A command that runs here.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let [ip, rest @ ..] = self.under();
        let mut command = Command::new(ip);
        command.args(rest).arg(program);
        command
    }

    /// Does `work` on a thread that is here: the sockets that it opens are this host's for good.
    ///
    /// # Errors
    /// What `work` says, or the namespace is gone.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.namespace))?;
        let enter = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter a network namespace")?;
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(enter).join());
        done.map_err(|_| anyhow::anyhow!("a thread on {} panicked", self.name))?
    }

    /// Pulls the cable out.
    ///
    /// # Errors
    /// iproute2 refuses.
    pub fn unplug(&self) -> Result<()> {
        self.ip(&["link", "set", &self.device, "down"])
    }

    /// Puts the cable in.
    ///
    /// # Errors
    /// iproute2 refuses.
    pub fn plug(&self) -> Result<()> {
        self.ip(&["link", "set", &self.device, "up"])?;
        // Routes go when a device goes down.
        self.ip(&["route", "replace", "10.77.0.0/16", "dev", &self.device])
    }

    /// Moves to another address of its network, as a machine does that finds another access point: the one
    /// before is gone.
    ///
    /// # Errors
    /// iproute2 refuses.
    pub fn move_to(&self, address: Ipv4Addr) -> Result<()> {
        self.ip(&["addr", "flush", "dev", &self.device])?;
        self.ip(&["addr", "add", &format!("{address}/24"), "dev", &self.device])?;
        self.ip(&["route", "replace", "10.77.0.0/16", "dev", &self.device])
    }

    /// Lets no UDP out or in, as some firewalls do.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn block_udp(&self) -> Result<()> {
        self.drop_matching("iifname != lo meta l4proto udp", "oifname != lo meta l4proto udp")
    }

    /// Drops what matches, in nftables' words, coming in and going out, and tells nobody.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn drop_matching(&self, coming: &str, going: &str) -> Result<()> {
        self.filter(&format!(
            "chain in {{ type filter hook input priority 0; {coming} drop; }}\nchain out {{ type filter hook output priority \
             0; {going} drop; }}"
        ))
    }

    /// Ends what [`Self::block_udp`] and [`Self::drop_matching`] began.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn unfilter(&self) -> Result<()> {
        self.filter("")
    }

    /// Replaces this host's rules at once.
    fn filter(&self, chains: &str) -> Result<()> {
        let table =
            format!("add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n{chains}\n}}\n");
        let mut command = self.command(Path::new("nft"));
        checked(command.arg(table))
    }

    fn make(&self) -> Result<()> {
        ip(&["netns", "add", &self.namespace])?;
        ip(&["link", "set", &self.device, "netns", &self.namespace])?;
        self.ip(&["link", "set", "lo", "up"])?;
        // Nothing here speaks IPv6, and the kernel need not try.
        self.ip(&["link", "set", &self.device, "addrgenmode", "none"])?;
        self.ip(&["addr", "add", &format!("{}/24", self.address()), "dev", &self.device])?;
        // Whatever this machine prefers: as Linux comes.
        allow_cubic()?;
        self.inside(|| Ok(std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic")?))?;
        self.plug()
    }

    /// iproute2 in this host's namespace.
    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", self.namespace.as_str()], arguments].concat())
    }
}

/// Lets namespaces have cubic, where the machine prefers something else and has taken it off the list.
fn allow_cubic() -> Result<()> {
    const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = std::fs::read_to_string(ALLOWED)?;
    if allowed.split_whitespace().any(|one| one == "cubic") {
        return Ok(());
    }
    std::fs::write(ALLOWED, format!("{} cubic", allowed.trim())).with_context(|| ALLOWED.to_owned())
}

fn ip(arguments: &[&str]) -> Result<()> {
    checked(Command::new("ip").args(arguments))
}

fn checked(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{command:?}: {}", said.trim())
}

/// Removes the namespaces of runs that are no more, with what still runs in them.
fn sweep() -> Result<()> {
    // Without the folder there are none.
    let Ok(names) = std::fs::read_dir(NAMESPACES) else { return Ok(()) };
    for name in names {
        let name = name?.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        let left = Command::new("ip").args(["netns", "pids", &name]).output()?;
        for process in String::from_utf8_lossy(&left.stdout).lines() {
            if let Some(process) = process.trim().parse().ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                kill_process(process, Signal::KILL).ok();
            }
        }
        // Another run may sweep as well.
        ip(&["netns", "del", &name]).ok();
    }
    Ok(())
}
