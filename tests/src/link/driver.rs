//! Moves packets between devices and the switch, on one thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{Command, Port, Switch};

/// Packets that one device is asked for before the others have their turn.
const BATCH: usize = 64;
/// Packets that a device keeps for us while we are busy, before the kernel drops them.
const KEPT_BY_DEVICE: u32 = 4096;
/// The longest IP packet.
const LONGEST: usize = 65_535;
/// The longest line of commands.
const LONGEST_LINE: usize = 4096;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A device cannot be made.
    #[error("cannot make the TUN device {device}: {source}; it takes root, and /dev/net/tun")]
    Device {
        /// Its name.
        device: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system does not wait for packets.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] io::Error),
    /// Commands cannot be read or answered.
    #[error("cannot speak with who gives commands: {0}")]
    Commands(#[source] io::Error),
}

/// A port's device, as long as it is there.
pub struct Plug(Option<SyncDevice>);

/// Makes the devices of `ports`, in the namespace of this thread. They stay ours wherever they are moved.
///
/// # Errors
/// One cannot be made.
pub fn open(ports: &[Port]) -> Result<Vec<Plug>, LinkError> {
    let open = |port: &Port| {
        let fault = |source| LinkError::Device { device: port.device.clone(), source };
        let builder = DeviceBuilder::new().name(port.device.clone()).enable(false);
        let device = builder.tx_queue_len(KEPT_BY_DEVICE).build_sync().map_err(fault)?;
        device.set_nonblocking(true).map_err(fault)?;
        Ok(Plug(Some(device)))
    };
    ports.iter().map(open).collect()
}

/// Carries packets, and answers each line of `commands` with one of `answers`, until `commands` ends.
///
/// # Errors
/// The system does not play along. A device that goes away is no error.
pub fn drive<C: Read + AsFd>(
    switch: &mut Switch,
    plugs: &mut [Plug],
    mut commands: C,
    mut answers: impl Write,
) -> Result<(), LinkError> {
    let began = Instant::now();
    let mut buffer = vec![0; LONGEST];
    let mut lines = Lines::default();
    loop {
        let timeout = switch.next_due().map(|due| due.saturating_sub(began.elapsed()));
        let (ready, is_commanded) = wait(plugs, commands.as_fd(), timeout).map_err(LinkError::Wait)?;
        for place in ready {
            take(switch, place, &mut plugs[place], &mut buffer, began);
        }
        switch.release(began.elapsed(), |to, packet| give(&mut plugs[to], &packet));
        if is_commanded {
            match commands.read(&mut buffer[..LONGEST_LINE]).map_err(LinkError::Commands)? {
                0 => return Ok(()),
                count => lines.add(&buffer[..count]),
            }
            while let Some(line) = lines.next() {
                writeln!(answers, "{}", answer(switch, &line)).map_err(LinkError::Commands)?;
                answers.flush().map_err(LinkError::Commands)?;
            }
        }
    }
}

/// Waits for packets or commands; gives the places of devices with packets.
fn wait(
    plugs: &[Plug],
    commands: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<(Vec<usize>, bool)> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut places = Vec::with_capacity(plugs.len());
    let mut waited = Vec::with_capacity(plugs.len() + 1);
    for (place, plug) in plugs.iter().enumerate() {
        if let Plug(Some(device)) = plug {
            places.push(place);
            waited.push(PollFd::new(device, PollFlags::IN));
        }
    }
    waited.push(PollFd::from_borrowed_fd(commands, PollFlags::IN));
    match poll(&mut waited, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_commanded = waited.pop().is_some_and(|commands| !commands.revents().is_empty());
    let ready = places.into_iter().zip(&waited).filter(|(_, device)| !device.revents().is_empty());
    Ok((ready.map(|(place, _)| place).collect(), is_commanded))
}

/// Hands what a device has to the switch.
fn take(switch: &mut Switch, place: usize, plug: &mut Plug, buffer: &mut [u8], began: Instant) {
    let Plug(Some(device)) = plug else { return };
    let now = began.elapsed();
    for _ in 0..BATCH {
        match device.recv(buffer) {
            Ok(length) => switch.push(place, buffer[..length].to_vec(), now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It went with its namespace.
            Err(_) => return plug.0 = None,
        }
    }
}

/// Hands a packet to a device. One that is down or full loses it, as a network does.
fn give(plug: &mut Plug, packet: &[u8]) {
    if let Plug(Some(device)) = plug {
        device.send(packet).ok();
    }
}

fn answer(switch: &mut Switch, line: &str) -> String {
    match line.parse::<Command>() {
        Err(error) => format!("error: {error}"),
        Ok(command) => match switch.perform(&command) {
            Err(error) => format!("error: {error}"),
            Ok(None) => "ok".to_owned(),
            Ok(Some(value)) => value.to_string(),
        },
    }
}

/// Lines of bytes that come in pieces.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next line that is whole, or already longer than any command.
    fn next(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        let end = end.or_else(|| (self.0.len() >= LONGEST_LINE).then_some(self.0.len()))?;
        let line: Vec<u8> = self.0.drain(..end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
