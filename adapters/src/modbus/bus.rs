//! The bus at work: open the way to the units, ask each in its turn, write what is ordered, and wait for
//! the way when it has gone.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::UnitId;
use super::fault::Fault;
use super::link::{Link, RtuLink, TcpLink};
use super::plan::{Block, Spot};
use super::schedule::{Rhythm, Schedule, Turned};
use crate::backoff::Backoff;
use crate::serial::{self, DataBits, Parity, StopBits};
use crate::waiting::Waiting;
use crate::{Ack, Captured, Command, CommandError, DeviceName, Order, Reading, StreamName};

/// A connection that takes longer than this has failed.
const CONNECT: Duration = Duration::from_secs(5);

/// Why the way is no longer in use.
enum End {
    Stopped,
    Gone(io::Error),
}

/// The way to the units.
pub(super) enum Way {
    Serial { port: PathBuf, baud: u32, parity: Parity, stop_bits: StopBits, timeout: Duration },
    Tcp { address: String, timeout: Duration },
}

impl Way {
    fn peer(&self) -> String {
        match self {
            Self::Serial { port, .. } => port.display().to_string(),
            Self::Tcp { address, .. } => address.clone(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Serial { .. } => "modbus-rtu",
            Self::Tcp { .. } => "modbus-tcp",
        }
    }

    async fn open(&self) -> io::Result<Link> {
        match self {
            Self::Serial { port, baud, parity, stop_bits, timeout } => {
                let line = serial::open(port, *baud, DataBits::Eight, *parity, *stop_bits)?;
                Ok(Link::Rtu(RtuLink::new(line, *baud, *timeout)))
            }
            Self::Tcp { address, timeout: patience } => {
                let connect = timeout(CONNECT, TcpStream::connect(address));
                let stream = connect.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                Ok(Link::Tcp(TcpLink::new(stream, *patience)?))
            }
        }
    }
}

/// A unit and what is asked of it.
pub(super) struct Unit {
    pub(super) id: UnitId,
    pub(super) device: DeviceName,
    pub(super) stream: StreamName,
    pub(super) rhythm: Rhythm,
    pub(super) blocks: Vec<Block>,
    pub(super) spots: Vec<Spot>,
    pub(super) write_multiple: bool,
    /// The block that is asked for first: the one that had no answer last time. Should that come after
    /// all, it comes to the same question.
    pub(super) first: usize,
}

pub(super) struct Bus {
    pub(super) name: String,
    pub(super) way: Way,
    pub(super) units: Vec<Unit>,
    pub(super) waiting: Waiting,
}

impl Bus {
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let rhythms = self.units.iter().map(|unit| unit.rhythm);
        let mut schedule = Schedule::new(rhythms, Instant::now().into_std());
        loop {
            let opened = select! {
                opened = self.way.open() => opened,
                () = stop.cancelled() => break,
            };
            let end = match opened {
                Ok(link) => {
                    info!(adapter = self.name, peer = self.way.peer(), "opened");
                    self.attend(link, &mut schedule, &mut commands, &stop, &mut backoff).await
                }
                Err(error) => End::Gone(error),
            };
            let End::Gone(cause) = end else { break };
            let pause = backoff.next();
            warn!(adapter = self.name, peer = self.way.peer(), %cause, ?pause, "the bus is not there");
            if !self.waiting.pause(pause, &self.way.peer(), &mut commands, &stop).await {
                break;
            }
        }
        self.waiting.last_words(&self.name).await;
    }

    /// Works with the open way until it goes. A question that was asked is waited for in any case.
    async fn attend(
        &mut self,
        mut link: Link,
        schedule: &mut Schedule,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> End {
        loop {
            let Some((unit, due)) = schedule.next() else { return End::Stopped };
            select! {
                () = stop.cancelled() => return End::Stopped,
                Some(command) = commands.recv() => {
                    if let Err(error) = self.carry_out(command, &mut link).await {
                        return End::Gone(error);
                    }
                }
                is_open = self.waiting.hand_on() => if !is_open { return End::Stopped },
                () = sleep_until(due.into()), if !self.waiting.is_full() => {
                    match self.poll(unit, &mut link).await {
                        Ok(answered) => {
                            if answered {
                                backoff.reset();
                            }
                            self.turn(schedule, unit, answered);
                        }
                        Err(error) => return End::Gone(error),
                    }
                }
            }
        }
    }

    /// Asks a unit for all its points; says whether it is there. It is left at the first question that
    /// it does not answer.
    async fn poll(&mut self, at: usize, link: &mut Link) -> io::Result<bool> {
        let unit = &mut self.units[at];
        let (mut points, mut faults) = (Vec::new(), Vec::new());
        let mut unanswered = None;
        for step in 0..unit.blocks.len() {
            let which = (unit.first + step) % unit.blocks.len();
            let block = &unit.blocks[which];
            let heard = link.ask(unit.id, &block.request).await?;
            faults.extend(heard.strays);
            match heard.answer {
                Ok(response) => {
                    let (read, unreadable) = block.points(&response);
                    points.extend(read);
                    let not_finite = |point| Fault::NotFinite { unit: unit.id, point };
                    faults.extend(unreadable.into_iter().map(not_finite));
                }
                Err(fault) => {
                    let failed = fault.is_failure();
                    faults.push(fault);
                    if failed {
                        unanswered = Some(which);
                        break;
                    }
                }
            }
        }
        unit.first = unanswered.unwrap_or(0);
        let refused = |why: Fault| Captured::Refused { device: Some(unit.device.clone()), why: why.into() };
        faults.into_iter().map(refused).for_each(|refused| self.waiting.push(refused));
        if !points.is_empty() {
            let reading = Reading {
                device: unit.device.clone(),
                stream: unit.stream.clone(),
                points,
                time: None,
                device_id: None,
                delivery: None,
            };
            self.waiting.push(Captured::Reading { reading, ack: Ack::nobody_waits() });
        }
        Ok(unanswered.is_none())
    }

    /// Sets the unit's next turn.
    fn turn(&self, schedule: &mut Schedule, at: usize, answered: bool) {
        let now = Instant::now().into_std();
        let turned = if answered { schedule.answered(at, now) } else { schedule.failed(at, now) };
        let Unit { id, device, rhythm, .. } = &self.units[at];
        let adapter = &self.name;
        match turned {
            Turned::Same => {}
            Turned::Degraded => {
                warn!(adapter, unit = %id, %device, retry_every = ?rhythm.retry_every, "does not answer; asked less often");
            }
            Turned::Recovered => info!(adapter, unit = %id, %device, "answers again"),
        }
    }

    /// Carries out an order; an error means that the way has gone.
    async fn carry_out(&mut self, command: Command, link: &mut Link) -> io::Result<()> {
        let (unit, request) = match self.request(&command.order) {
            Ok(request) => request,
            Err(error) => {
                command.finish(Err(error));
                return Ok(());
            }
        };
        let Unit { id, device, .. } = &self.units[unit];
        let peer = format!("unit {id} at {}", self.way.peer());
        let heard = match link.ask(*id, &request).await {
            Ok(heard) => heard,
            Err(error) => {
                command.finish(Err(CommandError::Interrupted { peer }));
                return Err(error);
            }
        };
        let refused = |why: Fault| Captured::Refused { device: Some(device.clone()), why: why.into() };
        heard.strays.into_iter().map(refused).for_each(|refused| self.waiting.push(refused));
        command.finish(match heard.answer {
            Ok(_) => Ok(()),
            Err(Fault::Exception { exception, .. }) if !exception.is_in_doubt() => {
                Err(CommandError::Refused { peer, reason: exception.to_string() })
            }
            Err(fault) => Err(CommandError::NoAnswer { peer, cause: fault.to_string() }),
        });
        Ok(())
    }

    /// Whom to ask what for an order.
    fn request(&self, order: &Order) -> Result<(usize, super::pdu::Request), CommandError> {
        let unsupported = |order| CommandError::Unsupported { adapter: self.way.kind(), order };
        let (device, point, value) = match order {
            Order::Write { device, point, value } => (device, point, value),
            Order::Publish { .. } => return Err(unsupported("publish")),
            Order::Send { .. } => return Err(unsupported("send")),
        };
        let found = self
            .units
            .iter()
            .enumerate()
            .filter(|(_, unit)| unit.device == *device)
            .find_map(|(at, unit)| Some((at, unit, unit.spots.iter().find(|spot| spot.name == *point)?)));
        let Some((at, unit, spot)) = found else {
            return Err(CommandError::NoPoint { device: device.clone(), point: point.clone() });
        };
        match spot.write(value, unit.write_multiple) {
            Ok(request) => Ok((at, request)),
            Err(expected) => {
                Err(CommandError::Unfit { device: device.clone(), point: point.clone(), expected })
            }
        }
    }
}
