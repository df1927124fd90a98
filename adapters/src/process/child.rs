//! The program at work: started, read line by line, told what it is ordered, and started again when it has ended.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command as Start};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ProcessConfig;
use crate::backoff::Backoff;
use crate::decode::Decoder;
use crate::serial::{CheckKind, Ending, FrameError, Framer, Framing};
use crate::waiting::Waiting;
use crate::write::write;
use crate::{Captured, Command, CommandError, Intake, Order, Refusal};

/// What it gets of the agent's environment.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// How long it may take to end once its standard input is closed; then it is killed.
const FAREWELL: Duration = Duration::from_secs(2);
/// Who has run for so long is started again without much ado.
const STEADY: Duration = Duration::from_secs(60);
/// The longest line of its standard error that is logged whole, in bytes.
const LOGGED: usize = 1024;

pub(super) struct Program {
    name: String,
    config: ProcessConfig,
    decoder: Decoder,
    waiting: Waiting,
}

/// A program that runs, and its three streams.
struct Life {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// Why a life is over.
enum End {
    /// We are stopped.
    Stopped,
    /// It has ended, or says nothing any more.
    Ended,
}

impl Program {
    pub(super) fn new(name: String, config: ProcessConfig, intake: Intake) -> Self {
        Self { name, decoder: config.decoder(), config, waiting: Waiting::new(intake) }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let since = Instant::now();
            let end = match self.start() {
                Ok(life) => {
                    self.waiting.tell(Ok(()));
                    self.attend(life, &mut commands, &stop).await
                }
                Err(error) => (End::Ended, format!("it cannot be started: {error}")),
            };
            let (End::Ended, why) = end else { break };
            if since.elapsed() >= STEADY {
                backoff.reset();
            }
            let pause = backoff.next();
            warn!(
                adapter = self.name,
                program = self.config.program(),
                why,
                ?pause,
                "the program is started again"
            );
            self.waiting.tell(Err(format!("{}: {why}", self.config.program())));
            if !self.waiting.pause(pause, self.config.program(), &mut commands, &stop).await {
                break;
            }
        }
        self.waiting.last_words(&self.name).await;
    }

    fn start(&self) -> io::Result<Life> {
        let arguments = self.config.command.get(1..).unwrap_or_default();
        let inherited = INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let mut child = Start::new(self.config.program())
            .args(arguments)
            .env_clear()
            .envs(inherited)
            .envs(&self.config.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it has started ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        info!(adapter = self.name, program = self.config.program(), process = child.id(), "started");
        Ok(Life { child, stdin, stdout, stderr })
    }

    /// Works with the program until it ends, or `stop`; gives why it is over.
    async fn attend(
        &mut self,
        life: Life,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
    ) -> (End, String) {
        let Life { mut child, stdin, mut stdout, mut stderr } = life;
        let mut stdin = Some(stdin);
        let (mut lines, mut complaints) = (lines(self.config.max), lines(LOGGED));
        let (mut said, mut complained) = ([0; 4096], [0; 1024]);
        let mut complains = true;
        let end = loop {
            select! {
                read = stdout.read(&mut said), if !self.waiting.is_full() => match read {
                    Ok(0) | Err(_) => break End::Ended,
                    Ok(count) => lines.read(&said[..count], |line| self.take(line)),
                },
                read = stderr.read(&mut complained), if complains => match read {
                    Ok(0) | Err(_) => complains = false,
                    Ok(count) => complaints.read(&complained[..count], |line| self.log(line)),
                },
                is_open = self.waiting.hand_on() => if !is_open { break End::Stopped },
                Some(command) = commands.recv() => carry_out(command, self.config.program(), &mut stdin).await,
                () = stop.cancelled() => break End::Stopped,
            }
        };
        drop(stdin);
        // What it still says while it ends is heard.
        let farewell = async {
            let mut is_over = false;
            loop {
                select! {
                    read = stdout.read(&mut said), if !is_over && !self.waiting.is_full() => match read {
                        Ok(0) | Err(_) => is_over = true,
                        Ok(count) => lines.read(&said[..count], |line| self.take(line)),
                    },
                    read = stderr.read(&mut complained), if complains => match read {
                        Ok(0) | Err(_) => complains = false,
                        Ok(count) => complaints.read(&complained[..count], |line| self.log(line)),
                    },
                    status = child.wait(), if is_over => return status,
                }
            }
        };
        let ended = timeout(FAREWELL, farewell).await;
        let why = match ended {
            Ok(status) => told(status),
            Err(_) => {
                kill(&child);
                told(child.wait().await) + ", after it did not end by itself"
            }
        };
        (end, why)
    }

    /// What it has said waits for the intake, decoded.
    fn take(&mut self, line: Result<&[u8], FrameError>) {
        let decoded = line.map_err(Refusal::from).and_then(|line| Ok(self.decoder.decode(line)?));
        self.waiting.push(Captured::said(self.config.device.fixed(), &self.config.stream, decoded));
    }

    fn log(&self, line: Result<&[u8], FrameError>) {
        match line {
            Ok(line) => {
                let line = String::from_utf8_lossy(line);
                info!(adapter = self.name, ?line, "the program says on its standard error");
            }
            Err(_) => info!(adapter = self.name, "the program says a long line on its standard error"),
        }
    }
}

/// Ends it, and all that it has started and not let go of.
fn kill(child: &Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // It fails for one that has ended in this moment.
        kill_process_group(group, Signal::KILL).ok();
    }
}

/// How it ended.
fn told(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| format!("it ended with {status}"))
}

/// Writes an order's bytes as a line.
async fn carry_out(command: Command, program: &str, stdin: &mut Option<ChildStdin>) {
    let peer = program.to_owned();
    let bytes = match &command.order {
        Order::Send { bytes } if !bytes.contains(&b'\n') => [bytes, &b"\n"[..]].concat(),
        Order::Send { .. } => {
            let reason = "what is sent to a program is one line".to_owned();
            return command.finish(Err(CommandError::Refused { peer, reason }));
        }
        order @ (Order::Publish { .. } | Order::Write { .. }) => {
            let order = order.kind();
            return command.finish(Err(CommandError::Unsupported { adapter: "process", order }));
        }
    };
    let Some(open) = stdin else { return command.finish(Err(CommandError::NotConnected { peer })) };
    if let Err(error) = write(open, &bytes).await {
        // A part of a line may have gone: the next must not be taken for its end.
        *stdin = None;
        return command.finish(Err(CommandError::Write { peer, cause: error.to_string() }));
    }
    command.finish(Ok(()));
}

/// Cuts what it says into lines of so many bytes.
fn lines(max: usize) -> Framer {
    Framer::new(&Framing::Line { ending: Ending::Lf, max }, CheckKind::None)
}
