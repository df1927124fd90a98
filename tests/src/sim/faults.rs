//! What goes wrong, and right again.

use std::time::Duration;

use at_protocol::AtSign;

use super::directory::{LIES, Lie};
use super::network::{Host, SERVERS};
use super::world::{Event, World};

#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Something, and another in a while.
    Next,
    Crash(Host),
    /// As soon as the disk has done something.
    CrashAtWork(Host),
    Restart(Host),
    Block(Host, Host),
    Heal(Host, Host),
    NoUdp,
    Udp,
    /// A connection is lost, of which one end does not hear for a while.
    Cut,
    Clock(Host, i64),
    DirectoryDown,
    DirectoryUp,
    Lie(Lie),
    Truth,
    SetBack,
    Move,
}

/// Between whom the network fails.
const LINES: [(Host, Host); 6] = [
    (Host::First, Host::Second),
    (Host::First, Host::Second),
    (Host::First, Host::Directory),
    (Host::Second, Host::Directory),
    (Host::Agent, Host::First),
    (Host::Agent, Host::Directory),
];

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.note(format_args!("{fault:?}"));
        match fault {
            Fault::Next => {
                if self.is_rough {
                    self.something();
                    let after = self.millis(1_000, 25_000);
                    self.plan(after, Event::Fault(Fault::Next));
                }
            }
            Fault::Crash(Host::Agent) => self.crash_gateway(),
            Fault::Crash(host) => self.crash_server(host),
            Fault::CrashAtWork(host) => self.server(host).crashes_next = true,
            Fault::Restart(Host::Agent) => self.start_gateway(),
            Fault::Restart(host) => self.start_server(host),
            Fault::Block(from, to) => {
                let now = self.now;
                self.network.block(from, to, now);
                self.watch_silence(from, to, now);
            }
            Fault::Heal(from, to) => self.network.heal(from, to),
            Fault::NoUdp => {
                let now = self.now;
                self.network.is_without_udp = true;
                self.watch_silence(Host::First, Host::Second, now);
                self.watch_silence(Host::Second, Host::First, now);
            }
            Fault::Udp => self.network.is_without_udp = false,
            Fault::Cut => {
                let ids: Vec<_> = self.conns.keys().copied().collect();
                if !ids.is_empty() {
                    let (id, end) = (ids[self.random.place(ids.len())], self.random.place(2));
                    self.lost(id, end);
                }
            }
            Fault::Clock(host, step) => self.server(host).wall_ahead += step,
            Fault::DirectoryDown => self.directory.is_up = false,
            Fault::DirectoryUp => self.directory.is_up = true,
            Fault::Lie(lie) => self.directory.lie = Some(lie),
            Fault::Truth => self.directory.lie = None,
            Fault::SetBack => self.directory.set_back(),
            Fault::Move => {
                let who = ["@bob", "@ops", "@dev"][self.random.place(3)];
                let who: AtSign = who.parse().expect("an atSign");
                let to = if self.homes[&who] == Host::First { Host::Second } else { Host::First };
                self.move_house(&who, to);
            }
        }
    }

    /// Something goes wrong, for a while.
    fn something(&mut self) {
        let server = SERVERS[self.random.place(2)];
        // For minutes, now and then.
        let longest = if self.one_in(8) { 240_000 } else { 60_000 };
        let after = self.millis(500, longest);
        let (fault, end) = match self.random.below(16) {
            0 | 1 => (Fault::Crash(server), None),
            2 | 3 => (Fault::CrashAtWork(server), None),
            4 => (Fault::Crash(Host::Agent), None),
            5..=7 => {
                let (mut from, mut to) = LINES[self.random.place(LINES.len())];
                if self.one_in(2) {
                    (from, to) = (to, from);
                }
                // In both directions, half of the times.
                if self.one_in(2) {
                    self.fault(Fault::Block(to, from));
                    self.plan(after, Event::Fault(Fault::Heal(to, from)));
                }
                (Fault::Block(from, to), Some(Fault::Heal(from, to)))
            }
            8 => (Fault::NoUdp, Some(Fault::Udp)),
            9 | 10 => (Fault::Cut, None),
            11 => {
                let step = i64::try_from(self.random.below(7_200_000)).unwrap_or_default() - 3_600_000;
                (Fault::Clock(server, step), None)
            }
            12 => (Fault::DirectoryDown, Some(Fault::DirectoryUp)),
            13 => (Fault::Lie(LIES[self.random.place(LIES.len())]), Some(Fault::Truth)),
            14 => (Fault::SetBack, None),
            _ => (Fault::Move, None),
        };
        self.fault(fault);
        if let Some(end) = end {
            self.plan(after, Event::Fault(end));
        }
    }

    /// All is well from now on, and stays so.
    pub(super) fn calm(&mut self) {
        self.is_rough = false;
        self.network.heal_all();
        self.directory.is_up = true;
        self.directory.lie = None;
        for server in SERVERS {
            self.server(server).crashes_next = false;
            self.start_server(server);
        }
        self.start_gateway();
    }

    /// A crash of a server ends by itself.
    pub(super) fn plan_restart(&mut self, host: Host) {
        let after = if self.is_rough { self.millis(500, 30_000) } else { Duration::from_millis(500) };
        self.plan(after, Event::Fault(Fault::Restart(host)));
    }
}
