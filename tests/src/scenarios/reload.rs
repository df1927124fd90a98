//! The configuration is edited while readings flow: only what was edited is touched, and a mistake changes
//! nothing.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, READER, Reader, gateway_town, mqtt_tables};
use crate::ledger::Account;
use crate::process::Process;
use crate::publisher::Publisher;
use crate::random::Random;
use crate::scenario::Run;

/// The name at the broker of the adapter that is edited.
const EDITED: &str = "atedge-edited";
/// How long the reader may be silent before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(75);
/// Of so many edits, one is wrong.
const WRONG: u64 = 3;

/// What the edits make of the configuration. The adapters `shop` and `scale` are the same in all of it.
#[derive(Clone, Default, PartialEq, Eq)]
struct Shape {
    /// In `agent.toml`: the whole-line settings that edits change.
    linger: u64,
    outbox: u64,
    second_reader: bool,
    command: bool,
    /// In `agent.d/edited.toml`: the adapter that edits change, where it is there.
    edited: Option<u64>,
    /// An adapter that comes and goes.
    extra: bool,
}

impl Shape {
    /// Changes one thing.
    fn edit(&mut self, random: &mut Random) {
        match random.below(7) {
            0 => self.linger = 10 + random.below(90),
            1 => self.outbox = 64 + random.below(64),
            2 => self.second_reader = !self.second_reader,
            3 => self.command = !self.command,
            4 => self.extra = !self.extra,
            5 => self.edited = None,
            _ => self.edited = Some(30 + random.below(30)),
        }
    }

    fn main(&self, head: &str) -> String {
        let to = if self.second_reader { format!("\"{READER}\", \"@lab\"") } else { format!("\"{READER}\"") };
        let head = head
            .replace(&format!("to = [\"{READER}\"]"), &format!("to = [{to}]"))
            .replace("linger = \"50ms\"", &format!("linger = \"{}ms\"", self.linger));
        let command = match self.command {
            true => {
                "[command.\"lamp.on\"]\nallow = [\"@lab\"]\nadapter = \"shop\"\ndo = { publish = { topic = \"lamp\", payload = \
                 \"1\" } }\nexpires = \"1m\"\nsigned = false\n"
            }
            false => "",
        };
        format!("{head}{command}[outbox]\nmax = \"{}MiB\"\n", self.outbox)
    }

    fn parts(&self, broker: &impl std::fmt::Display) -> String {
        let mut text = "# What is edited.\n".to_owned();
        if let Some(keep_alive) = self.edited {
            text += &format!(
                "[adapter.edited]\ntype = \"mqtt\"\nurl = \"mqtt://{broker}\"\nversion = \"3.1.1\"\nclient_id = \"{EDITED}\"\n\
                 keep_alive = \"{keep_alive}s\"\n[adapter.edited.route.all]\ntopic = \"edited/{{dev}}/+\"\ndevice = \
                 \"{{dev}}\"\nstream = \"process\"\ndecode = {{ as = \"json\" }}\npick = {{ n = \"/n\" }}\n"
            );
        }
        if self.extra {
            text += "[adapter.extra]\ntype = \"process\"\ncommand = [\"/bin/cat\"]\ndevice = \"extra\"\nstream = \
                     \"process\"\n";
        }
        text
    }
}

/// A mistake: what is replaced by what, and what must be said of it. The last two cannot change at run time.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("linger =", "lingers =", "expected `linger`"),
    ("records = 100", "records = 0", "expected at least 1"),
    ("max = \"", "max = 7 # \"", "expected"),
    ("[outbox]", "[outbocks]", "expected `outbox`"),
    ("schema = 1", "schema = one", "this is not TOML"),
    ("version = \"3.1.1\"", "version = \"3.1\"", "expected"),
    ("stream = \"process\"", "stream = \"proces\"", "expected a stream with a table [stream.proces]"),
    ("namespace = \"plant7\"", "namespace = \"plant8\"", "restart needed"),
    ("atsign = \"@gw\"", "atsign = \"@other\"", "restart needed"),
];

/// A serial line with the agent at one end and a scale at the other.
struct Scale {
    _socat: Process,
    line: File,
    port: PathBuf,
}

impl Scale {
    fn new(folder: &Path) -> Result<Self> {
        let [port, far] = ["scale-port", "scale-far"].map(|name| folder.join(name));
        let end = |path: &Path| format!("pty,raw,echo=0,link={}", path.display());
        let mut command = Command::new("sh");
        command.args(["-c", "exec socat -d -d \"$0\" \"$1\" 2>&1"]).args([end(&port), end(&far)]);
        let socat = Process::start("socat", &mut command, folder).context("socat is needed")?;
        while !socat.line()?.context("socat ended; is it installed?")?.contains("starting data transfer") {}
        let line = OpenOptions::new().write(true).open(far)?;
        Ok(Self { _socat: socat, line, port })
    }

    fn table(&self) -> String {
        format!(
            "[adapter.scale]\ntype = \"serial\"\nport = {:?}\nbaud = 115200\ndevice = \"scale\"\nstream = \"process\"\nframing = {{ \
             kind = \"line\", ending = \"lf\", max = 100 }}\ndecode = {{ as = \"json\" }}\n",
            self.port
        )
    }
}

/// All that speaks, and what it has said.
struct Devices {
    publisher: Publisher,
    scale: Scale,
    next: u64,
    said: BTreeSet<u64>,
}

impl Devices {
    /// A few readings of each device, one number each.
    fn speak(&mut self) -> Result<()> {
        let mut messages = Vec::new();
        for route in ["plain", "own", "edited"] {
            for device in 0..3 {
                let n = self.number();
                messages.push((format!("{route}/{route}{device}/{n}"), format!("{{\"n\":{n},\"seq\":{n}}}")));
            }
        }
        self.publisher.publish(&messages)?;
        for _ in 0..3 {
            let n = self.number();
            writeln!(self.scale.line, "{{\"n\":{n}}}")?;
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.said.insert(self.next);
        self.next
    }
}

/// The files, and the agent that follows them.
struct Editing {
    gateway: Gateway,
    folder: PathBuf,
    head: String,
    broker: String,
}

impl Editing {
    fn write(&self, main: &str, parts: &str) -> Result<()> {
        fs::write(self.folder.join("agent.toml"), main)?;
        Ok(fs::write(self.folder.join("agent.d/edited.toml"), parts)?)
    }

    /// Writes what is right; it is taken, and `shop` and `scale` are not touched.
    fn follow(&self, shape: &Shape, devices: &mut Devices, by_signal: bool) -> Result<String> {
        self.write(&shape.main(&self.head), &shape.parts(&self.broker))?;
        if by_signal {
            self.gateway.process()?.signal(Signal::HUP)?;
        }
        let output = self.reload(devices)?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(0), "a right configuration was refused: {complaint}");
        ensure!(
            !said.contains("shop") && !said.contains("scale"),
            "more was changed than was edited: {said}"
        );
        Ok(said)
    }

    /// Writes what has one mistake; it is refused, and said where it is and what to do.
    fn err(
        &self,
        shape: &Shape,
        (right, wrong, cure): (&str, &str, &str),
        devices: &mut Devices,
    ) -> Result<bool> {
        let (main, parts) = (shape.main(&self.head), shape.parts(&self.broker));
        let broken = |file: &str, text: &str| {
            let at = text.find(right)?;
            let line = text[..at].matches('\n').count() + 1;
            Some((format!("{file}:{line}:"), text.replacen(right, wrong, 1)))
        };
        let place = if let Some((place, parts)) = broken("edited.toml", &parts) {
            self.write(&main, &parts)?;
            place
        } else if let Some((place, main)) = broken("agent.toml", &main) {
            self.write(&main, &parts)?;
            place
        } else {
            return Ok(false);
        };
        let output = self.reload(devices)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{wrong}: {} and {said}", output.status);
        for part in [place.as_str(), cure, "The running configuration is unchanged."] {
            ensure!(said.contains(part), "{wrong}: `{part}` is not said:\n{said}");
        }
        Ok(true)
    }

    /// Has the agent reload, while devices speak.
    fn reload(&self, devices: &mut Devices) -> Result<Output> {
        let mut command = self.gateway.reload();
        let reload = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        devices.speak()?;
        Ok(reload.wait_with_output()?)
    }
}

/// Edits, a third of them wrong.
///
/// # Errors
/// A reading is lost or captured twice, an adapter that was not edited begins anew, a mistake changes something
/// or is not explained.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let edits = if run.long { 2_000 } else { 200 };
    let mut random = run.random();
    let town = gateway_town(&run.folder)?;
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let scale = Scale::new(&run.folder)?;
    let mut reader = Reader::start(&town)?;
    let gateway = Gateway::new(&town, &format!("{}{}", mqtt_tables(&broker.address), scale.table()))?;
    let head = fs::read_to_string(town.folder.join("agent.toml"))?;
    fs::create_dir(town.folder.join("agent.d"))?;
    let mut editing =
        Editing { gateway, folder: town.folder.clone(), head, broker: broker.address.to_string() };
    let mut shape = Shape { linger: 50, outbox: 64, edited: Some(30), ..Shape::default() };
    editing.write(&shape.main(&editing.head), &shape.parts(&editing.broker))?;
    let publisher = Publisher::connect(broker.address, "devices")?;
    let mut devices = Devices { publisher, scale, next: 0, said: BTreeSet::new() };
    editing.gateway.start()?;
    broker.until("both subscriptions", |view| view.subscribers.contains(EDITED) && view.subscribed)?;
    devices.speak()?;
    let (mut followed, mut refused) = (0, 0);
    for edit in 0..edits {
        let mut next = shape.clone();
        next.edit(&mut random);
        let mistake = MISTAKES[random.place(MISTAKES.len())];
        if random.below(WRONG) == 0 && editing.err(&next, mistake, &mut devices)? {
            refused += 1;
            // What runs is still what it was.
            let said = editing.follow(&shape, &mut devices, false)?;
            ensure!(said == "nothing has changed", "a refused configuration has left something: {said}");
        } else {
            let by_signal = random.below(4) == 0;
            editing.follow(&next, &mut devices, by_signal)?;
            shape = next;
            followed += 1;
        }
        if edit % 20 == 19 {
            run.progress(&format!("{} of {edits} edits", edit + 1));
        }
    }
    ensure!(refused > edits / 10 && followed > edits / 10, "chance was not fair");
    // Whatever waits at the broker for the edited adapter is to come.
    shape.edited = Some(99);
    shape.second_reader = false;
    editing.follow(&shape, &mut devices, false)?;
    reader.until_all(SILENCE, devices.said.clone())?;
    editing.gateway.stop()?;
    let account = Account::of(&devices.said, &reader.arrivals);
    let log = fs::read_to_string(town.folder.join("agent.log"))?;
    let opened = log.lines().filter(|line| line.contains("opened") && line.contains("scale")).count();
    broker.until("the agent's good-bye", |view| view.gone.contains(CLIENT))?;
    let connected = broker.view.connections.get(CLIENT).copied().unwrap_or_default();
    let edited = broker.view.connections.get(EDITED).copied().unwrap_or_default();
    for (name, value) in [
        ("followed", followed),
        ("refused", refused),
        ("readings", account.acknowledged),
        ("lost", account.lost),
        ("captured_again", account.captured_again),
        ("raw_duplicates", account.raw_duplicates),
        ("duplicates_after_dedup", account.duplicates_after_dedup),
        ("connections_unedited", connected),
        ("connections_edited", edited),
    ] {
        run.note(name, value);
    }
    if edited < 2 {
        bail!("the edited adapter was never started again");
    }
    ensure!(connected == 1, "the adapter that was not edited connected {connected} times");
    ensure!(opened == 1, "the serial line that was not edited was opened {opened} times");
    ensure!(account.lost == 0, "readings were lost");
    ensure!(account.captured_again == 0, "readings were captured twice");
    ensure!(account.duplicates_after_dedup == 0, "ids were given twice as new");
    ensure!(account.inversions == 0, "readings arrived out of order");
    Ok(())
}
