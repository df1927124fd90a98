//! The bus at work: open the way to the units, ask each in its turn, write what is ordered, and wait for
//! the way when it has gone.

use std::io;

use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::UnitId;
use super::fault::Fault;
use super::link::Link;
use super::pdu::Request;
use super::plan::{Block, Spot};
use super::schedule::{Rhythm, Schedule, Turned};
use super::verify::{Look, Looks};
use super::way::Way;
use crate::backoff::Backoff;
use crate::waiting::Waiting;
use crate::{Ack, Captured, Command, CommandError, DeviceName, Order, PointName, Reading, StreamName};

/// Why the way is no longer in use.
enum End {
    Stopped,
    Gone(io::Error),
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
    name: String,
    way: Way,
    units: Vec<Unit>,
    waiting: Waiting,
    /// What was written and is to be seen.
    looks: Looks,
}

impl Bus {
    pub(super) fn new(name: String, way: Way, units: Vec<Unit>, waiting: Waiting) -> Self {
        Self { name, way, units, waiting, looks: Looks::default() }
    }

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
                    self.waiting.tell(Ok(()));
                    self.attend(link, &mut schedule, &mut commands, &stop, &mut backoff).await
                }
                Err(error) => End::Gone(error),
            };
            let End::Gone(cause) = end else { break };
            self.looks.give_up(&self.way.peer());
            let pause = backoff.next();
            warn!(adapter = self.name, peer = self.way.peer(), %cause, ?pause, "the bus is not there");
            self.waiting.tell(Err(format!("{}: {cause}", self.way.peer())));
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
                () = self.looks.due() => {
                    if let Err(error) = self.look(&mut link).await {
                        return End::Gone(error);
                    }
                }
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
        let Write { unit, request, look } = match self.prepare(&command.order) {
            Ok(write) => write,
            Err(error) => {
                command.finish(Err(error));
                return Ok(());
            }
        };
        let peer = self.peer(unit);
        let heard = match link.ask(self.units[unit].id, &request).await {
            Ok(heard) => heard,
            Err(error) => {
                command.finish(Err(CommandError::Interrupted { peer }));
                return Err(error);
            }
        };
        self.tell(unit, heard.strays);
        match (heard.answer, look) {
            (Ok(_), Some(look)) => self.looks.begin(look, command, Instant::now()),
            (Ok(_), None) => command.finish(Ok(())),
            (Err(Fault::Exception { exception, .. }), _) if !exception.is_in_doubt() => {
                command.finish(Err(CommandError::Refused { peer, reason: exception.to_string() }));
            }
            (Err(fault), _) => {
                command.finish(Err(CommandError::NoAnswer { peer, cause: fault.to_string() }));
            }
        }
        Ok(())
    }

    /// Reads back what was written; an error means that the way has gone.
    async fn look(&mut self, link: &mut Link) -> io::Result<()> {
        let Some(looking) = self.looks.take() else { return Ok(()) };
        let unit = looking.look.unit;
        let heard = match link.ask(self.units[unit].id, &looking.look.spot.request()).await {
            Ok(heard) => heard,
            Err(error) => {
                self.looks.put_back(looking);
                return Err(error);
            }
        };
        self.tell(unit, heard.strays);
        let (peer, rest) = (self.peer(unit), self.units[unit].rhythm.rest);
        self.looks.seen(looking, heard.answer, Instant::now(), rest, peer);
        Ok(())
    }

    fn peer(&self, unit: usize) -> String {
        format!("unit {} at {}", self.units[unit].id, self.way.peer())
    }

    /// Hands on what came besides an answer.
    fn tell(&mut self, unit: usize, strays: Vec<Fault>) {
        let device = &self.units[unit].device;
        let refused = |why: Fault| Captured::Refused { device: Some(device.clone()), why: why.into() };
        strays.into_iter().map(refused).for_each(|refused| self.waiting.push(refused));
    }

    /// What to do for an order.
    fn prepare(&self, order: &Order) -> Result<Write, CommandError> {
        let unsupported = |order| CommandError::Unsupported { adapter: self.way.kind(), order };
        let (device, point, value, verify) = match order {
            Order::Write { device, point, value, verify } => (device, point, value, verify),
            Order::Publish { .. } => return Err(unsupported("publish")),
            Order::Send { .. } => return Err(unsupported("send")),
        };
        let (unit, spot) = self.find(device, point)?;
        let request = spot.write(value, self.units[unit].write_multiple).map_err(|expected| {
            CommandError::Unfit { device: device.clone(), point: point.clone(), expected }
        })?;
        let look = match verify {
            None => None,
            Some(_) if self.looks.are_full() => {
                return Err(CommandError::Busy { device: device.to_string() });
            }
            Some(verify) => {
                let (unit, spot) = self.find(&verify.device, &verify.point)?;
                let device = verify.device.clone();
                Some(Look { unit, device, spot: spot.clone(), wanted: value.clone(), within: verify.within })
            }
        };
        Ok(Write { unit, request, look })
    }

    fn find(&self, device: &DeviceName, point: &PointName) -> Result<(usize, &Spot), CommandError> {
        let of_device = self.units.iter().enumerate().filter(|(_, unit)| unit.device == *device);
        let mut spots = of_device.flat_map(|(at, unit)| unit.spots.iter().map(move |spot| (at, spot)));
        let found = spots.find(|(_, spot)| spot.name == *point);
        found.ok_or_else(|| CommandError::NoPoint { device: device.clone(), point: point.clone() })
    }
}

/// An order, ready to be sent.
struct Write {
    unit: usize,
    request: Request,
    look: Option<Look>,
}
