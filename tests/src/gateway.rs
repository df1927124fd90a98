//! The gateway under test: an agent with its configuration, and the reader it sends to.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atedge_agent::outbox::Which;
use atedge_service::files::write_private;

use crate::ledger::Arrival;
use crate::process::{PATIENCE, Process, program, run};
use crate::queue::until_by;
use crate::town::Town;

/// Who the gateway is in every scenario.
pub const GATEWAY: &str = "@gw";
/// Who reads.
pub const READER: &str = "@ops";
/// The fleet's namespace.
pub const NAMESPACE: &str = "plant7";
/// The agent's name at the broker.
pub const CLIENT: &str = "atedge-shop";

/// An agent that can be killed and started again on the same state.
pub struct Gateway {
    program: Vec<String>,
    config: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Gateway {
    /// The agent as built, with its configuration for `town` and these further tables. It does not run
    /// yet.
    ///
    /// # Errors
    /// It has not been built, or the folder is not writable.
    pub fn new(town: &Town, tables: &str) -> Result<Self> {
        let agent = program("atedge-agent")?.to_str().context("a path in UTF-8")?.to_owned();
        Self::with_program(vec![agent], town, tables)
    }

    /// The same with another program and its first arguments.
    ///
    /// # Errors
    /// The folder is not writable.
    pub fn with_program(program: Vec<String>, town: &Town, tables: &str) -> Result<Self> {
        let config = town.folder.join("agent.toml");
        std::fs::write(&config, format!("{}{tables}", head(town)))?;
        Ok(Self { program, config, folder: town.folder.clone(), process: None })
    }

    /// What somebody has who copies its disk to another box. It must not run.
    ///
    /// # Errors
    /// A file cannot be copied.
    pub fn cloned(&self, folder: &Path) -> Result<Self> {
        let config = folder.join("agent.toml");
        std::fs::create_dir_all(folder.join("agent"))?;
        std::fs::copy(&self.config, &config)?;
        for file in std::fs::read_dir(self.folder.join("agent"))? {
            let file = file?;
            if file.file_type()?.is_file() {
                std::fs::copy(file.path(), folder.join("agent").join(file.file_name()))?;
            }
        }
        Ok(Self { program: self.program.clone(), config, folder: folder.to_owned(), process: None })
    }

    /// Has its keys lie in its state folder, where its owner puts them, plain. Returns where.
    ///
    /// # Errors
    /// They cannot be put there, or its configuration cannot be written.
    pub fn take_keys_in(&self, town: &Town) -> Result<PathBuf> {
        let (from, to) = (town.keys(GATEWAY), self.state().join("keys/gw.atKeys"));
        std::fs::create_dir_all(self.state().join("keys"))?;
        write_private(&to, &std::fs::read(&from)?)?;
        File::open(self.state())?.sync_all()?;
        let config = std::fs::read_to_string(&self.config)?;
        let [from, to_text] = [&from, &to].map(|path| path.display().to_string());
        std::fs::write(&self.config, config.replace(&from, &to_text))?;
        Ok(to)
    }

    /// Has its stream require this of readers, as a TOML list, from its next start on.
    ///
    /// # Errors
    /// Its configuration cannot be written.
    pub fn require(&self, what: &str) -> Result<()> {
        let config = std::fs::read_to_string(&self.config)?;
        Ok(std::fs::write(&self.config, config.replace("[\"receipts\"]", what))?)
    }

    /// How many numbers it has given out that the reader has not confirmed.
    ///
    /// # Errors
    /// Its queue cannot be looked at.
    pub fn unconfirmed(&self) -> Result<u64> {
        let mut command = self.bare("queue");
        command.args(["stat", "--json", "--state"]).arg(self.state());
        let output = run("queue", &mut command, &self.folder)?;
        let stat: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        stat["readers"][0]["unconfirmed"].as_u64().with_context(|| format!("no reader in {stat}"))
    }

    /// Waits until its log says this, behind so many bytes.
    ///
    /// # Errors
    /// It does not come within [`PATIENCE`].
    pub fn until_logged(&self, behind: usize, text: &str) -> Result<()> {
        let since = Instant::now();
        while !self.log()?[behind..].contains(text) {
            ensure!(since.elapsed() < PATIENCE, "the agent's log never said: {text}");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// It has never run.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("agent.log"))?)
    }

    /// The agent's command that checks its configuration.
    #[must_use]
    pub fn check(&self) -> Command {
        self.command("check")
    }

    /// The agent's command that runs it.
    #[must_use]
    pub fn run(&self) -> Command {
        let mut command = self.command("run");
        command.arg("--state").arg(self.state());
        command
    }

    /// The command that has it follow its changed configuration.
    #[must_use]
    pub fn reload(&self) -> Command {
        self.ask("reload", false)
    }

    /// One of the agent's commands for the person at the gateway; of those that look at the configuration, `try`
    /// has no use for the folder.
    #[must_use]
    pub fn ask(&self, verb: &str, of_config: bool) -> Command {
        let mut command = match of_config {
            true => self.command(verb),
            false => self.bare(verb),
        };
        if verb != "try" {
            command.arg("--state").arg(self.state());
        }
        command
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.bare(verb);
        command.arg("--config").arg(&self.config);
        command
    }

    fn bare(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg(verb);
        command
    }

    /// What it says of itself while it runs; nothing where it does not answer.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = run("status", self.ask("status", false).arg("--json"), &self.folder)?;
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// Looks until it says of its disk that it takes nothing, or that it does; how long that took.
    ///
    /// # Errors
    /// It does not say so within [`PATIENCE`].
    pub fn until_disk(&self, takes: bool) -> Result<Duration> {
        let since = Instant::now();
        let says = |status: &serde_json::Value| {
            status["running"] == true && status["agent"]["disk"].is_null() == takes
        };
        until_by(|| self.status(), "word of whether the disk takes something", says)?;
        Ok(since.elapsed())
    }

    /// Where it keeps its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("agent")
    }

    /// The last number that it has committed in each device, stream and boot of which it knows still.
    ///
    /// # Errors
    /// Its queue cannot be looked at.
    pub fn committed(&self) -> Result<impl Iterator<Item = ((String, String, String), u64)>> {
        let lanes = atedge_agent::outbox::list(&self.state(), &Which::default())?;
        Ok(lanes.into_iter().map(|lane| ((lane.device, lane.stream, lane.boot), lane.captured)))
    }

    /// Starts the build that fails when it is told to, to die when it comes by `failpoint` for the `pass`th time, with
    /// these further variables.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_to_fail(&self, failpoint: &str, pass: u64, variables: &[(&str, String)]) -> Result<Process> {
        let mut command = self.run();
        command.env("ATEDGE_FAIL", format!("{failpoint}:{pass}")).envs(variables.iter().cloned());
        Process::start("agent", &mut command, &self.folder)
    }

    /// Starts it, and waits until it says that it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> Result<()> {
        self.process = Some(Process::start_ready("agent", &mut self.run(), &self.folder)?);
        Ok(())
    }

    /// Starts it, and does not wait until it is ready.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        self.process = Some(Process::start("agent", &mut self.run(), &self.folder)?);
        Ok(())
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the agent does not run")?.kill()
    }

    /// Stops it as the service manager would.
    ///
    /// # Errors
    /// It does not run, or does not end well.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("the agent does not run")?.terminate()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the agent does not run")
    }
}

/// The tables that every scenario's agent has.
fn head(town: &Town) -> String {
    let registrar = town.registrar.as_ref().map(|registrar| format!("registrar = {:?}\n", registrar.key()));
    format!(
        "schema = 1\n[gateway]\natsign = \"{GATEWAY}\"\nkeys = \"file:{}\"\ndirectory = \"localhost:{}\"\nca = \
         {:?}\nnamespace = \"{NAMESPACE}\"\n{}[stream.process]\nto = [\"{READER}\"]\nrequire = [\"receipts\"]\nbatch = {{ records = 100, \
         bytes = \"64KiB\", linger = \"50ms\" }}\n",
        town.keys(GATEWAY).display(),
        town.directory.port(),
        town.ca,
        registrar.unwrap_or_default(),
    )
}

/// An MQTT adapter with one route that lets the gateway number readings and one that uses the device's
/// own number. The last level of a topic is the reading's number, which is how the broker's log names it.
#[must_use]
pub fn mqtt_tables(broker: &impl std::fmt::Display) -> String {
    format!(
        "[adapter.shop]\ntype = \"mqtt\"\nurl = \"mqtt://{broker}\"\nversion = \"3.1.1\"\nclient_id = \
         \"{CLIENT}\"\n[adapter.shop.route.plain]\ntopic = \"plain/{{dev}}/+\"\ndevice = \
         \"{{dev}}\"\nstream = \"process\"\ndecode = {{ as = \"json\" }}\npick = {{ n = \"/n\" }}\n\
         [adapter.shop.route.own]\ntopic = \"own/{{dev}}/+\"\ndevice = \"{{dev}}\"\nstream = \
         \"process\"\ndecode = {{ as = \"json\" }}\npick = {{ n = \"/n\" }}\nid = {{ from = \"/seq\" }}\n"
    )
}

/// A reader that confirms what it prints.
pub struct Reader {
    process: Process,
    /// All readings so far.
    pub arrivals: Vec<Arrival>,
}

impl Reader {
    /// Starts `atedge watch` as the reader, and waits until its monitor is up.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(town: &Town) -> Result<Self> {
        Self::start_with(town, &["--confirm"])
    }

    /// The same with other arguments than that it confirms.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_with(town: &Town, arguments: &[&str]) -> Result<Self> {
        let mut command = town.tool(&["watch", READER, "--json"])?;
        command.args(arguments);
        let process = Process::start("watch", &mut command, &town.folder)?;
        let first = process.line()?.context("atedge watch ended")?;
        ensure!(first.contains("\"watching\""), "atedge watch began with {first}");
        Ok(Self { process, arrivals: Vec::new() })
    }

    /// Reads on until `enough` says so, or nothing has come for `patience`; says whether it was enough.
    ///
    /// # Errors
    /// The reader ends, or prints what it should not.
    pub fn until(&mut self, patience: Duration, mut enough: impl FnMut(&[Arrival]) -> bool) -> Result<bool> {
        while !enough(&self.arrivals) {
            let Ok(line) = self.process.line_within(patience) else { return Ok(false) };
            self.arrivals.extend(Arrival::parse(&line.context("atedge watch ended")?)?);
        }
        Ok(true)
    }

    /// Reads on until all these numbers have arrived, or nothing has come for `patience`.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn until_all(&mut self, patience: Duration, mut missing: BTreeSet<u64>) -> Result<bool> {
        let mut read = 0;
        self.until(patience, |arrivals| {
            for arrival in &arrivals[read..] {
                missing.remove(&arrival.n);
            }
            read = arrivals.len();
            missing.is_empty()
        })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops it, which confirms what it has printed; gives all readings so far.
    ///
    /// # Errors
    /// It does not end well.
    pub fn stop(mut self) -> Result<Vec<Arrival>> {
        let status = self.process.terminate()?;
        ensure!(status.success(), "the reader ended with {status}");
        Ok(std::mem::take(&mut self.arrivals))
    }
}

/// A folder of the run for a scenario's town.
///
/// # Errors
/// A part of the town does not start.
pub fn gateway_town(folder: &Path) -> Result<Town> {
    let town = Town::start(folder, &[&[GATEWAY, READER]])?;
    town.onboard(GATEWAY)?;
    town.onboard(READER)?;
    Ok(town)
}
