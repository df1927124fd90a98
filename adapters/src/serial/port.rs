//! The port at work: open it, read frames, ask and order, and wait for it when it has gone. All of
//! tokio-serial is in here.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::framing::{FrameError, Framer};
use super::talk::{Step, Talk};
use super::{DataBits, Parity, SerialConfig, StopBits};
use crate::backoff::Backoff;
use crate::decode::Decoder;
use crate::waiting::Waiting;
use crate::write::write;
use crate::{Captured, Command, CommandError, Intake, Order, Refusal};

/// Why the port is no longer in use.
enum End {
    Stopped,
    Gone(io::Error),
}

/// What there is of the line.
enum Line {
    /// So many bytes; none when it has been hung up.
    Said(usize),
    /// Nothing, for as long as the framer wanted to know.
    Silent,
}

pub(super) struct Port {
    name: String,
    config: SerialConfig,
    decoder: Decoder,
    waiting: Waiting,
    /// With a device that is polled. It outlives the open port: questions keep their grid over a replug.
    talk: Option<Talk>,
}

impl Port {
    pub(super) fn new(name: String, config: SerialConfig, decoder: Decoder, intake: Intake) -> Self {
        let talk = config.poll.as_ref().map(|poll| Talk::new(poll, Instant::now().into_std()));
        Self { name, config, decoder, waiting: Waiting::new(intake), talk }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let end = match self.open() {
                Ok(stream) => {
                    info!(adapter = self.name, port = self.path(), "opened");
                    self.waiting.tell(Ok(()));
                    self.attend(stream, &mut commands, &stop, &mut backoff).await
                }
                Err(error) => End::Gone(error),
            };
            let End::Gone(cause) = end else { break };
            let pause = backoff.next();
            warn!(adapter = self.name, port = self.path(), %cause, ?pause, "the serial port is not there");
            self.waiting.tell(Err(format!("{}: {cause}", self.path())));
            if !self.waiting.pause(pause, &self.path(), &mut commands, &stop).await {
                break;
            }
        }
        self.waiting.last_words(&self.name).await;
    }

    fn path(&self) -> String {
        self.config.port.display().to_string()
    }

    fn open(&self) -> io::Result<SerialStream> {
        let SerialConfig { port, baud, data_bits, parity, stop_bits, .. } = &self.config;
        open(port, *baud, *data_bits, *parity, *stop_bits)
    }

    /// Works with the open port until it goes. A frame that is cut by that is dropped with its framer.
    async fn attend(
        &mut self,
        mut stream: SerialStream,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> End {
        let mut framer = Framer::new(&self.config.framing, self.config.check.kind);
        let mut buffer = [0; 1024];
        let mut heard = Instant::now();
        if let Some(talk) = &mut self.talk {
            talk.lost();
        }
        loop {
            let listens = !self.waiting.is_full();
            let silent = framer.patience().map(|patience| heard + patience);
            let turn = self.talk.as_ref().map(|talk| talk.deadline().into());
            let is_free = self.talk.as_ref().is_none_or(Talk::is_free);
            let line = select! {
                read = stream.read(&mut buffer), if listens => match read {
                    Ok(count) => Line::Said(count),
                    Err(error) => return End::Gone(error),
                },
                () = at(earlier(silent, turn)), if listens => match stream.try_read(&mut buffer) {
                    // It was not the line that was silent, but nobody listened.
                    Ok(count) => Line::Said(count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Line::Silent,
                    Err(error) => return End::Gone(error),
                },
                is_open = self.waiting.hand_on() => {
                    if is_open {
                        continue;
                    }
                    return End::Stopped;
                }
                Some(command) = commands.recv(), if is_free => {
                    match self.carry_out(command, &mut stream).await {
                        Ok(()) => continue,
                        Err(error) => return End::Gone(error),
                    }
                }
                () = stop.cancelled() => return End::Stopped,
            };
            match line {
                Line::Said(0) => return End::Gone(io::ErrorKind::UnexpectedEof.into()),
                Line::Said(count) => {
                    backoff.reset();
                    heard = Instant::now();
                    framer.read(&buffer[..count], |frame| self.take(frame));
                }
                Line::Silent if silent.is_some_and(|silent| silent <= Instant::now()) => {
                    framer.silence(|frame| self.take(frame));
                }
                Line::Silent => {}
            }
            if let Err(error) = self.converse(&mut stream, commands).await {
                return End::Gone(error);
            }
        }
    }

    /// Asks when it is time to, and counts an answer that has not come in time.
    async fn converse(
        &mut self,
        stream: &mut SerialStream,
        commands: &mut mpsc::Receiver<Command>,
    ) -> io::Result<()> {
        let (Some(talk), Some(poll)) = (&mut self.talk, &self.config.poll) else { return Ok(()) };
        match talk.step(Instant::now().into_std()) {
            Step::Wait => Ok(()),
            Step::Speak => {
                if let Ok(command) = commands.try_recv() {
                    return self.carry_out(command, stream).await;
                }
                talk.asked(Instant::now().into_std());
                write(stream, poll.send.as_bytes()).await
            }
            Step::Missing => {
                let why = Refusal::Unanswered { waited: talk.patience() };
                self.waiting.push(Captured::Refused { device: Some(self.config.device.clone()), why });
                Ok(())
            }
        }
    }

    /// Carries out an order; an error means that the port has gone.
    async fn carry_out(&mut self, command: Command, stream: &mut SerialStream) -> io::Result<()> {
        let written = match &command.order {
            Order::Send { bytes } => write(stream, bytes).await,
            Order::Publish { .. } | Order::Write { .. } => {
                let order = command.order.kind();
                command.finish(Err(CommandError::Unsupported { adapter: "serial", order }));
                return Ok(());
            }
        };
        if let Some(talk) = &mut self.talk {
            talk.ordered(Instant::now().into_std());
        }
        let failed = |error: &io::Error| CommandError::Write { peer: self.path(), cause: error.to_string() };
        command.finish(written.as_ref().map_err(failed).copied());
        written
    }

    /// What the framer found waits for the intake, decoded.
    fn take(&mut self, frame: Result<&[u8], FrameError>) {
        if let (Ok(_), Some(talk)) = (&frame, &mut self.talk) {
            talk.answered();
        }
        let decoded = frame.map_err(Refusal::from).and_then(|frame| Ok(self.decoder.decode(frame)?));
        let captured = Captured::said(Some(&self.config.device), &self.config.stream, decoded);
        self.waiting.push(captured);
    }
}

/// Opens a port.
pub(crate) fn open(
    port: &Path,
    baud: u32,
    data_bits: DataBits,
    parity: Parity,
    stop_bits: StopBits,
) -> io::Result<SerialStream> {
    let builder = tokio_serial::new(port.display().to_string(), baud)
        .data_bits(match data_bits {
            DataBits::Five => tokio_serial::DataBits::Five,
            DataBits::Six => tokio_serial::DataBits::Six,
            DataBits::Seven => tokio_serial::DataBits::Seven,
            DataBits::Eight => tokio_serial::DataBits::Eight,
        })
        .parity(match parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Even => tokio_serial::Parity::Even,
            Parity::Odd => tokio_serial::Parity::Odd,
        })
        .stop_bits(match stop_bits {
            StopBits::One => tokio_serial::StopBits::One,
            StopBits::Two => tokio_serial::StopBits::Two,
        });
    Ok(SerialStream::open(&builder)?)
}

/// This moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The earlier of two moments, of which each may be missing.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
