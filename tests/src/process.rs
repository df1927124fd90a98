//! The programs under test, as processes that can be killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How long anything may take before a scenario calls it stuck. Generous, because it is only ever
/// reached by a failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A program of this workspace, where `cargo build` has put it: beside the running one.
///
/// # Errors
/// It has not been built; the error says how to.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    let package = if ["scenarios", "link", "devices"].contains(&name) { "atedge-tests" } else { name };
    let release = if folder.ends_with("release") { " --release" } else { "" };
    ensure!(path.exists(), "{} is missing; build it with: cargo build{release} -p {package}", path.display());
    Ok(path)
}

/// The build of a program with `feature`, which makes it fail on purpose. It stands under a name of its own, so that
/// it cannot be mistaken for the real one.
///
/// # Errors
/// It has not been built; the error says how to.
pub fn built_with(name: &str, feature: &str) -> Result<String> {
    let real = program(name)?;
    let special = real.with_file_name(format!("{name}-{feature}"));
    let release =
        if real.parent().is_some_and(|folder| folder.ends_with("release")) { " --release" } else { "" };
    ensure!(
        special.exists(),
        "{special} is missing; build it with: cargo build{release} -p {name} --features {feature} && mv {real} \
         {special} && cargo build{release} -p {name}",
        special = special.display(),
        real = real.display(),
    );
    Ok(special.to_str().context("a path in UTF-8")?.to_owned())
}

/// The agent that can be told to fail.
///
/// # Errors
/// It has not been built.
pub fn failing_agent() -> Result<String> {
    built_with("atedge-agent", "failpoints")
}

/// The agent that acknowledges before it commits, which a scenario has to find out: a program and its arguments.
///
/// # Errors
/// It has not been built.
pub fn sabotaged_agent() -> Result<Vec<String>> {
    Ok(vec!["env".into(), "ATEDGE_SABOTAGE=1".into(), failing_agent()?])
}

/// A running process. Its output goes to `<name>.log`; it is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`; what it writes is added to `<name>.log` in `folder`, and its standard output can be
    /// read by [`Self::line`].
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = log_file(folder, name)?;
        let mut copy = log.try_clone()?;
        // Never written to, but open as long as this is kept: some programs end with their input.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let output = child.stdout.take().context("a piped standard output")?;
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The log is for people; a scenario that has ended listens no more.
                writeln!(copy, "{line}").ok();
                said.send(line).ok();
            }
        });
        Ok(Self { name: name.to_owned(), child, lines })
    }

    /// Starts a daemon and waits until it says, as to a service manager, that it is ready.
    ///
    /// # Errors
    /// It cannot be started, ends instead, or says nothing within [`PATIENCE`].
    pub fn start_ready(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let path = folder.join(format!("{name}.notify"));
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let manager = UnixDatagram::bind(&path)?;
        manager.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut process = Self::start(name, command.env("NOTIFY_SOCKET", &path), folder)?;
        let mut waited = Duration::ZERO;
        let mut buffer = [0; 512];
        while waited < PATIENCE {
            match manager.recv(&mut buffer) {
                Ok(count) if String::from_utf8_lossy(&buffer[..count]).contains("READY=1") => {
                    return Ok(process);
                }
                Ok(_) => {}
                Err(_) => waited += Duration::from_millis(100),
            }
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} ended before it was ready ({status}); see {name}.log");
            }
        }
        bail!("{name} was not ready within {PATIENCE:?}; see {name}.log")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It reads no more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("a piped standard input")?;
        writeln!(input, "{line}").with_context(|| format!("{} reads no more", self.name))
    }

    /// The next line of its standard output; `None` when it has closed it.
    ///
    /// # Errors
    /// Nothing comes within [`PATIENCE`].
    pub fn line(&self) -> Result<Option<String>> {
        self.line_within(PATIENCE).with_context(|| format!("{} printed nothing for {PATIENCE:?}", self.name))
    }

    /// The next line of its standard output; `None` when it has closed it.
    ///
    /// # Errors
    /// Nothing comes within `patience`.
    pub fn line_within(&self, patience: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("{} printed nothing for {patience:?}", self.name),
        }
    }

    /// Kills it as a power cut would, and waits until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The same; gives what it had said and nobody has read.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill_and_hear(mut self) -> Result<Vec<String>> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.lines.iter().collect())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Makes it stand still, until [`Self::resume`].
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Asks it to stop, and waits for its end.
    ///
    /// # Errors
    /// It does not end within [`PATIENCE`].
    pub fn terminate(mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.end()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end within [`PATIENCE`].
    pub fn end(&mut self) -> Result<ExitStatus> {
        wait(&mut self.child).with_context(|| self.name.clone())
    }

    /// Memory in use: resident set size in KiB, as the kernel counts it.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// The most memory that was ever in use, in KiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn peak_kib(&self) -> Result<u64> {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, what: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).context(what.to_owned())?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Processor time used so far, of all its threads.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may have spaces; user and system time are the 12th and 13th after it.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let ticks =
            rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a command to its end, with what it printed. Its output is added to `<name>.log` too.
///
/// # Errors
/// It cannot be started or does not end within [`PATIENCE`].
pub fn run(name: &str, command: &mut Command, folder: &Path) -> Result<Output> {
    let mut log = log_file(folder, name)?;
    writeln!(log, "$ {command:?}")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (out, err) = (child.stdout.take().context("stdout")?, child.stderr.take().context("stderr")?);
    let out = std::thread::spawn(move || read_all(out));
    let err = std::thread::spawn(move || read_all(err));
    let ended = wait(&mut child);
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let joined = |thread: std::thread::JoinHandle<std::io::Result<Vec<u8>>>| {
        thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?.context("cannot read its output")
    };
    let (stdout, stderr) = (joined(out)?, joined(err)?);
    log.write_all(&stdout)?;
    log.write_all(&stderr)?;
    let status = ended.with_context(|| format!("{command:?}"))?;
    Ok(Output { status, stdout, stderr })
}

fn read_all(mut from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn log_file(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(format!("{name}.log"));
    File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let patience = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs())?, tv_nsec: 0 };
    let mut ended = [PollFd::new(&handle, PollFlags::IN)];
    ensure!(poll(&mut ended, Some(&patience))? == 1, "did not end within {PATIENCE:?}");
    Ok(child.wait()?)
}
