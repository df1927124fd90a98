//! Who is reached where, and the directions between all.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::disguise::{Protocol, flow};
use super::{Command, Direction, Disguise, ImpairmentError, Verdict};
use crate::random::Random;

/// A place that packets come from and go to: a name, the device, the network behind it.
///
/// Written as `one=tun0@10.77.1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// As commands call it.
    pub name: String,
    /// The device.
    pub device: String,
    /// The first three parts of all addresses behind it.
    network: [u8; 3],
}

/// Why a text is no port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a port: `{0}`; one is written as one=tun0@10.77.1.0, and its network has 256 addresses")]
pub struct PortError(String);

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let wrong = || PortError(text.to_owned());
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (device, network) = rest.split_once('@').ok_or_else(wrong)?;
        let [a, b, c, 0] = network.parse::<Ipv4Addr>().map_err(|_| wrong())?.octets() else {
            return Err(wrong());
        };
        if name.is_empty() || device.is_empty() || name.contains(['>', '<', '*']) {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), device: device.to_owned(), network: [a, b, c] })
    }
}

/// All ports, and a direction for each ordered pair of them.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Port>,
    /// By the port that packets come from, then by the one they go to.
    directions: Vec<Direction>,
    /// How who is at one end of a direction sees who sends there, if not as itself.
    disguises: Vec<Option<Disguise>>,
    /// Which ports of UDP and TCP spoke with which, by direction.
    flows: Vec<BTreeSet<Flow>>,
    /// Packets to nobody here, or to an address that leads nowhere any more.
    strays: u64,
}

/// A protocol and two ports.
type Flow = (Protocol, u16, u16);
/// The most flows of a direction that are counted.
const MOST_FLOWS: usize = 100_000;

/// Why a command was not performed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// Nobody is called so.
    #[error("no port is called `{0}`")]
    Port(String),
    /// What is asked for is no impairment.
    #[error(transparent)]
    Impairment(#[from] ImpairmentError),
}

impl Switch {
    /// A switch between `ports`, whose chance comes from `seed`.
    #[must_use]
    pub fn new(ports: Vec<Port>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let pairs = ports.len() * ports.len();
        let directions = (0..pairs).map(|_| Direction::new(Random::new(random.number()))).collect();
        Self {
            ports,
            directions,
            disguises: vec![None; pairs],
            flows: vec![BTreeSet::new(); pairs],
            strays: 0,
        }
    }

    /// The ports, as they were given.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Takes in a packet from the port at this place.
    pub fn push(&mut self, from: usize, mut packet: Vec<u8>, now: Duration) {
        let Some(to) = self.destination(&packet).filter(|to| *to != from) else {
            self.strays += 1;
            return;
        };
        let place = self.place(from, to);
        if let Some(flow) = flow(&packet).filter(|_| self.flows[place].len() < MOST_FLOWS) {
            self.flows[place].insert(flow);
        }
        if let Some(disguise) = self.disguises[place] {
            disguise.leave(&mut packet);
        }
        self.directions[place].push(packet, now);
    }

    /// Hands out all that is due, with the place of the port it goes to.
    pub fn release(&mut self, now: Duration, mut out: impl FnMut(usize, Vec<u8>)) {
        let ports = self.ports.len();
        for (place, direction) in self.directions.iter_mut().enumerate() {
            let (from, to) = (place / ports, place % ports);
            while let Some(mut packet) = direction.pop(now) {
                // The router is at the disguised host's end.
                let verdict = self.disguises[to * ports + from].map(|disguise| disguise.enter(&mut packet));
                match verdict {
                    None | Some(Verdict::Pass) => out(to, packet),
                    Some(Verdict::Drop) => self.strays += 1,
                }
            }
        }
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.directions.iter().filter_map(Direction::next_due).min()
    }

    /// Performs a command; gives what it asks for.
    ///
    /// # Errors
    /// It names no port of ours, or no impairment.
    pub fn perform(&mut self, command: &Command) -> Result<Option<Value>, SwitchError> {
        match command {
            Command::Counters => return Ok(Some(self.counters())),
            Command::Show { from, to, disguise } => {
                for from in self.places(from)? {
                    for to in self.places(to)? {
                        let place = self.place(from, to);
                        self.disguises[place] = *disguise;
                    }
                }
            }
            Command::Change { from, to, both, words } => {
                let (from, to) = (self.places(from)?, self.places(to)?);
                let mut changed = Vec::new();
                for from in &from {
                    for to in &to {
                        changed.push(self.place(*from, *to));
                        if *both {
                            changed.push(self.place(*to, *from));
                        }
                    }
                }
                for place in changed {
                    self.directions[place].impairment().change(words)?;
                }
            }
        }
        Ok(None)
    }

    /// What became of all packets, by direction as `one>two`; of those directions that had any.
    #[must_use]
    pub fn counters(&self) -> Value {
        let mut all = Map::new();
        for (place, direction) in self.directions.iter().enumerate() {
            let counters = direction.counters();
            if counters.offered > 0 {
                let (from, to) = (place / self.ports.len(), place % self.ports.len());
                let name = format!("{}>{}", self.ports[from].name, self.ports[to].name);
                let flows = |protocol| self.flows[place].iter().filter(|flow| flow.0 == protocol).count();
                let mut counters = counters.to_json();
                counters["udp_flows"] = flows(Protocol::Udp).into();
                counters["tcp_flows"] = flows(Protocol::Tcp).into();
                all.insert(name, counters);
            }
        }
        all.insert("strays".into(), self.strays.into());
        Value::Object(all)
    }

    /// Where a packet goes: to the port that has its address, if it is of IPv4.
    fn destination(&self, packet: &[u8]) -> Option<usize> {
        let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let network = packet.get(16..19).filter(|_| is_v4)?;
        self.ports.iter().position(|port| port.network == network)
    }

    /// Where a direction stands in the list of all.
    fn place(&self, from: usize, to: usize) -> usize {
        from * self.ports.len() + to
    }

    fn places(&self, name: &str) -> Result<Vec<usize>, SwitchError> {
        if name == "*" {
            return Ok((0..self.ports.len()).collect());
        }
        let place = self.ports.iter().position(|port| port.name == name);
        Ok(vec![place.ok_or_else(|| SwitchError::Port(name.to_owned()))?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> Switch {
        let port = |text: &str| text.parse().unwrap();
        Switch::new(vec![port("a=tun0@10.77.1.0"), port("b=tun1@10.77.2.0"), port("c=tun2@10.77.3.0")], 1)
    }

    fn to(c: u8, d: u8) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 77, c, d]);
        packet
    }

    fn tell(switch: &mut Switch, line: &str) {
        assert_eq!(switch.perform(&line.parse().unwrap()), Ok(None), "{line}");
    }

    /// Where a packet from each port to `c` arrives.
    fn reached(switch: &mut Switch, c: u8) -> Vec<(usize, usize)> {
        let mut reached = Vec::new();
        for from in 0..3 {
            switch.push(from, to(c, 9), Duration::ZERO);
            switch.release(Duration::ZERO, |to, _| reached.push((from, to)));
        }
        reached
    }

    #[test]
    fn packets_go_to_the_port_that_has_their_address() {
        let mut switch = switch();
        assert_eq!(reached(&mut switch, 2), [(0, 1), (2, 1)]);
        assert_eq!(reached(&mut switch, 9), []);
        switch.push(0, vec![0x60; 60], Duration::ZERO);
        switch.push(0, vec![], Duration::ZERO);
        switch.push(0, vec![0x45; 3], Duration::ZERO);
        let counters = switch.counters();
        assert_eq!((&counters["strays"], &counters["a>b"]["passed"]), (&7.into(), &1.into()));
    }

    #[test]
    fn commands_reach_the_directions_that_they_name() {
        let mut switch = switch();
        tell(&mut switch, "a>b cut");
        assert_eq!(reached(&mut switch, 2), [(2, 1)]);
        assert_eq!(reached(&mut switch, 1), [(1, 0), (2, 0)]);
        tell(&mut switch, "*>b cut");
        assert_eq!(reached(&mut switch, 2), []);
        tell(&mut switch, "*<>* heal");
        tell(&mut switch, "c<>* cut");
        assert_eq!(reached(&mut switch, 2), [(0, 1)]);
        assert_eq!(reached(&mut switch, 3), []);
        let nobody = switch.perform(&"a>x cut".parse().unwrap());
        assert_eq!(nobody, Err(SwitchError::Port("x".into())));
    }

    #[test]
    fn the_next_due_is_the_first_of_all_directions() {
        let mut switch = switch();
        tell(&mut switch, "a>b delay=5ms");
        tell(&mut switch, "a>c delay=3ms");
        assert_eq!(switch.next_due(), None);
        switch.push(0, to(2, 2), Duration::ZERO);
        switch.push(0, to(3, 2), Duration::ZERO);
        assert_eq!(switch.next_due(), Some(Duration::from_millis(3)));
    }

    #[test]
    fn a_port_has_a_name_a_device_and_a_network() {
        for wrong in
            ["", "a", "a=tun0", "=tun0@10.77.1.0", "a=@10.77.1.0", "a=t@10.77.1.2", "a>b=t@10.77.1.0"]
        {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }
}
