//! The port at work: open it, read frames, ask and order, and wait for it when it has gone. All of
//! tokio-serial is in here.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::framing::{FrameError, Framer};
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
}

impl Port {
    pub(super) fn new(name: String, config: SerialConfig, decoder: Decoder, intake: Intake) -> Self {
        Self { name, config, decoder, waiting: Waiting::new(intake) }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let end = match self.open() {
                Ok(stream) => {
                    info!(adapter = self.name, port = self.path(), "opened");
                    self.attend(stream, &mut commands, &stop, &mut backoff).await
                }
                Err(error) => End::Gone(error),
            };
            let End::Gone(cause) = end else { break };
            let pause = backoff.next();
            warn!(adapter = self.name, port = self.path(), %cause, ?pause, "the serial port is not there");
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
        let mut questions = self.config.poll.as_ref().map(|poll| {
            let mut every = interval(poll.every.get());
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        });
        loop {
            let listens = !self.waiting.is_full();
            let silent = framer.patience().map(|patience| heard + patience);
            let line = select! {
                read = stream.read(&mut buffer), if listens => match read {
                    Ok(count) => Line::Said(count),
                    Err(error) => return End::Gone(error),
                },
                () = at(silent), if listens => match stream.try_read(&mut buffer) {
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
                () = next_question(&mut questions) => {
                    let question = self.config.poll.as_ref().map_or(&[][..], |poll| poll.send.as_bytes());
                    match write(&mut stream, question).await {
                        Ok(()) => continue,
                        Err(error) => return End::Gone(error),
                    }
                }
                Some(command) = commands.recv() => match carry_out(command, self.path(), &mut stream).await {
                    None => continue,
                    Some(error) => return End::Gone(error),
                },
                () = stop.cancelled() => return End::Stopped,
            };
            match line {
                Line::Said(0) => return End::Gone(io::ErrorKind::UnexpectedEof.into()),
                Line::Said(count) => {
                    backoff.reset();
                    heard = Instant::now();
                    framer.read(&buffer[..count], |frame| self.take(frame));
                }
                Line::Silent => framer.silence(|frame| self.take(frame)),
            }
        }
    }

    /// What the framer found waits for the intake, decoded.
    fn take(&mut self, frame: Result<&[u8], FrameError>) {
        let decoded = frame.map_err(Refusal::from).and_then(|frame| Ok(self.decoder.decode(frame)?));
        let captured = Captured::said(&self.config.device, &self.config.stream, decoded);
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

/// Carries out an order; gives the error that means that the port has gone.
async fn carry_out(command: Command, path: String, stream: &mut SerialStream) -> Option<io::Error> {
    let written = match &command.order {
        Order::Send { bytes } => write(stream, bytes).await,
        Order::Publish { .. } | Order::Write { .. } => {
            let order = command.order.kind();
            command.finish(Err(CommandError::Unsupported { adapter: "serial", order }));
            return None;
        }
    };
    let outcome =
        written.as_ref().map_err(|error| CommandError::Write { peer: path, cause: error.to_string() });
    command.finish(outcome.copied());
    written.err()
}

/// This moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The next time to ask, or never.
async fn next_question(questions: &mut Option<Interval>) {
    match questions {
        Some(every) => _ = every.tick().await,
        None => std::future::pending().await,
    }
}
