//! The sending side of a server: lanes, the ways to other nodes, and streams, each as its pure core decides.

use at_client::Found;
use at_protocol::AtSign;
use at_protocol::directory::VerifiedRecord;
use at_protocol::peer::Opening;
use at_protocol::session::client::{ClientSession, Event as Heard};
use atedge_server::pure::AskError;
use atedge_server::pure::lane::{self, Lane};
use atedge_server::pure::outlet::{self, Ended, Outlet};
use atedge_server::pure::roads::{Failed, HEAD_START, Look, PATIENCE, Race, RoadError, UDP_AGAIN};
use atedge_server::store::Notification;

use super::Sabotage;
use super::agenda::Time;
use super::directory::public;
use super::lookup::Asker;
use super::network::{Conn, ConnId, End, Host, Network, Over, SILENCE, Said, StreamId};
use super::server::Work;
use super::world::{Event, World, place};

type Pair = (AtSign, AtSign);

/// A lane at work.
pub(super) struct Sending {
    lane: Lane,
    /// Whether it was told of more than it has looked for.
    is_more: bool,
    /// Which rest or deadline is the present one.
    turn: u64,
    is_resting: bool,
    stream: Option<Stream>,
}

/// The stream of a lane.
struct Stream {
    id: StreamId,
    conn: ConnId,
    outlet: Outlet,
    session: ClientSession,
    /// Whether the disk has something to do for it.
    is_busy: bool,
}

/// Reaching a node.
#[derive(Default)]
pub(super) struct Dial {
    race: Race,
    waiting: Vec<Pair>,
}

impl World {
    /// Something waits between these two.
    pub(super) fn tell_lane(&mut self, host: Host, pair: Pair) {
        let instant = self.instant();
        let server = self.server(host);
        if let Some(sending) = server.lanes.get_mut(&pair) {
            sending.is_more = true;
            if let Some(stream) = &mut sending.stream {
                sending.is_more = false;
                stream.outlet.on_more(instant);
                if !stream.is_busy {
                    self.drive_outlet(host, &pair);
                }
            }
            return;
        }
        let lane = Lane::new(pair.0.clone(), pair.1.clone());
        let sending = Sending { lane, is_more: false, turn: 0, is_resting: false, stream: None };
        server.lanes.insert(pair.clone(), sending);
        self.drive_lane(host, &pair, lane::Step::Look);
    }

    fn drive_lane(&mut self, host: Host, pair: &Pair, step: lane::Step) {
        let Some(sending) = self.servers[place(host)].lanes.get_mut(pair) else { return };
        match step {
            lane::Step::Look => {
                sending.is_more = false;
                self.ask_disk(host, Work::First(pair.clone()));
            }
            lane::Step::HandOver(next) => self.ask_disk(host, Work::HandOver { pair: pair.clone(), next }),
            lane::Step::Find => self.find(host, &pair.1, Asker::Lane(pair.clone())),
            lane::Step::Carry(record) => self.carry(host, pair, &record),
            lane::Step::Say(_) => self.promises.break_one(format!("{} is spoken to in the old way", pair.1)),
            lane::Step::Settle(settled) => {
                self.ask_disk(
                    host,
                    Work::Settle { pair: pair.clone(), stream: None, settled: vec![settled] },
                );
            }
            lane::Step::Rest(time) => {
                let number = self.number();
                let time = if Sabotage::RestsLong.is(self.sabotage) { time * 60 } else { time };
                let sending = self.servers[place(host)].lanes.get_mut(pair).expect("it rests");
                (sending.turn, sending.is_resting) = (number, true);
                let life = self.life(host);
                self.plan(time, Event::Rested { server: host, life, pair: pair.clone(), turn: number });
            }
            lane::Step::End => {
                let ended = self.server(host).lanes.remove(pair);
                if ended.is_some_and(|sending| sending.is_more) {
                    self.tell_lane(host, pair.clone());
                }
            }
        }
    }

    fn step_lane(&mut self, host: Host, pair: &Pair, event: impl FnOnce(&mut Lane) -> lane::Step) {
        if let Some(sending) = self.servers[place(host)].lanes.get_mut(pair) {
            let step = event(&mut sending.lane);
            self.drive_lane(host, pair, step);
        }
    }

    pub(super) fn first_found(&mut self, host: Host, pair: &Pair, first: Option<Notification>) {
        let (clock, is_hosted) = (self.clock(host), self.server(host).hosted.contains(&pair.1));
        self.step_lane(host, pair, |lane| lane.on_first(first, clock, is_hosted));
    }

    pub(super) fn handed_over(&mut self, host: Host, pair: &Pair, is_taken: bool) {
        self.step_lane(host, pair, |lane| lane.on_handed_over(is_taken));
    }

    pub(super) fn lane_found(&mut self, host: Host, pair: &Pair, found: Result<Found, AskError>) {
        self.step_lane(host, pair, |lane| lane.on_found(found));
    }

    pub(super) fn rested(&mut self, host: Host, pair: &Pair, turn: u64) {
        let Some(sending) = self.servers[place(host)].lanes.get_mut(pair) else { return };
        if sending.is_resting && sending.turn == turn {
            sending.is_resting = false;
            self.drive_lane(host, pair, lane::Step::Look);
        }
    }

    /// A node is there again: who rests because of it rests no longer.
    fn back(&mut self, host: Host, other: Host) {
        if Sabotage::RestsLong.is(self.sabotage) {
            return;
        }
        let wall = self.wall(host);
        let server = self.server(host);
        let resting = server.lanes.iter().filter(|((_, to), sending)| {
            let record = || server.memory.last(to, wall)?.record;
            sending.is_resting
                && record().is_some_and(|record| Host::of(record.at.address.host()) == Some(other))
        });
        let resting: Vec<_> = resting.map(|(pair, sending)| (pair.clone(), sending.turn)).collect();
        for (pair, turn) in resting {
            self.rested(host, &pair, turn);
        }
    }

    fn carry(&mut self, host: Host, pair: &Pair, record: &VerifiedRecord) {
        let Some(to) = Host::of(record.at.address.host()) else {
            return self.unopened(host, pair, "nobody is at this address");
        };
        let (instant, life) = (self.instant(), self.life(host));
        let server = self.server(host);
        let met = server.met.get(&to).cloned();
        match server.roads.entry(to).or_default().look(met, instant) {
            Look::Take(Over::Quic(conn, _)) => self.open_stream(host, pair, conn),
            Look::Take(Over::Tls(_)) => self.open_over_tls(host, to, pair),
            Look::Leave(why) => self.unopened(host, pair, &why.to_string()),
            Look::Connect => {
                let dial = server.dials.entry(to).or_default();
                dial.waiting.push(pair.clone());
                if dial.waiting.len() == 1 {
                    let (give_up, after) = (self.now + PATIENCE, self.delay() + self.delay());
                    let key = record.node().to_string();
                    let dialled = |key, over_quic, give_up| Event::Dialled {
                        server: host,
                        life,
                        to,
                        key,
                        over_quic,
                        give_up,
                    };
                    self.plan(after, dialled(key.clone(), true, give_up));
                    self.plan(HEAD_START + after, dialled(key, false, give_up + HEAD_START));
                }
            }
        }
    }

    /// How an attempt to reach a node goes.
    pub(super) fn dialled(&mut self, host: Host, to: Host, node: &str, over_quic: bool, give_up: Time) {
        let (now, instant, life) = (self.now, self.instant(), self.life(host));
        let (is_right, is_up) = match to {
            Host::First | Host::Second => {
                let server = &self.servers[place(to)];
                (public(server.node).to_string() == node, server.is_up)
            }
            Host::Agent | Host::Directory | Host::Stranger => (true, false),
        };
        let passes = self.network.passes_both_ways(host, to) && !(over_quic && self.network.is_without_udp);
        let Some(dial) = self.server(host).dials.get_mut(&to) else { return };
        if !(if over_quic { dial.race.has_quic() } else { dial.race.has_tcp() }) {
            return;
        }
        if passes && is_up && is_right {
            let waiting = self.server(host).dials.remove(&to).map(|dial| dial.waiting).unwrap_or_default();
            self.note(format_args!(
                "{host:?} reaches {to:?} over {}",
                if over_quic { "QUIC" } else { "TLS" }
            ));
            if over_quic {
                let conn = self.connect(host, to, true);
                let open = self.conns[&conn].open[0].clone();
                self.server(host).roads.entry(to).or_default().up(Over::Quic(conn, open));
                waiting.iter().for_each(|pair| self.open_stream(host, pair, conn));
            } else {
                self.server(host).roads.entry(to).or_default().up(Over::Tls(instant + UDP_AGAIN));
                waiting.iter().for_each(|pair| self.open_over_tls(host, to, pair));
            }
            return self.back(host, to);
        }
        let is_refused = passes && if is_up { !is_right } else { !over_quic };
        if !is_refused && now < give_up {
            let after = Network::again(&mut self.random);
            let key = node.to_owned();
            return self.plan(after, Event::Dialled { server: host, life, to, key, over_quic, give_up });
        }
        let dial = self.server(host).dials.get_mut(&to).expect("it is being reached");
        let failed = if over_quic {
            dial.race.on_quic_failed("no answer over UDP".to_owned())
        } else {
            dial.race.on_tcp_failed("no answer over TCP".to_owned())
        };
        match failed {
            // TLS is on its way, or begins within a second.
            Failed::Wait | Failed::Hurry => {}
            Failed::Both(quic, tcp) => {
                let address = format!("{}:6464", to.name()).parse().expect("an address");
                let why = RoadError::Unreachable { address, quic, tcp };
                let random = self.random.byte();
                let server = self.server(host);
                server.roads.entry(to).or_default().down(why.clone(), instant, random);
                let waiting = server.dials.remove(&to).map(|dial| dial.waiting).unwrap_or_default();
                waiting.iter().for_each(|pair| self.unopened(host, pair, &why.to_string()));
            }
        }
    }

    pub(super) fn connect(&mut self, from: Host, to: Host, is_quic: bool) -> ConnId {
        let id = self.number();
        let lives = [self.life(from), self.life(to)];
        self.conns.insert(id, Conn::new([from, to], lives, is_quic));
        id
    }

    fn open_over_tls(&mut self, host: Host, to: Host, pair: &Pair) {
        if self.network.passes_both_ways(host, to) && self.server(to).is_up {
            let conn = self.connect(host, to, false);
            return self.open_stream(host, pair, conn);
        }
        let address = format!("{}:6464", to.name()).parse().expect("an address");
        let quic = "it did not get through before".to_owned();
        let why = RoadError::Unreachable { address, quic, tcp: "no answer".to_owned() };
        let (instant, random) = (self.instant(), self.random.byte());
        self.server(host).roads.entry(to).or_default().down(why.clone(), instant, random);
        self.unopened(host, pair, &why.to_string());
    }

    fn unopened(&mut self, host: Host, pair: &Pair, why: &str) {
        let why = Some(AskError::Unreachable(why.to_owned()));
        self.ended(host, pair, Ended { was_admitted: false, moved: false, why });
    }

    fn ended(&mut self, host: Host, pair: &Pair, ended: Ended) {
        let instant = self.instant();
        if !ended.was_admitted {
            self.server(host).memory.suspect(&pair.1, instant);
        }
        self.step_lane(host, pair, |lane| lane.on_ended(ended));
    }

    fn open_stream(&mut self, host: Host, pair: &Pair, conn: ConnId) {
        let (id, instant) = (self.number(), self.instant());
        let outlet = Outlet::new(pair.0.clone(), pair.1.clone(), instant);
        let stream = Stream { id, conn, outlet, session: ClientSession::begun(), is_busy: false };
        let Some(sending) = self.server(host).lanes.get_mut(pair) else { return };
        sending.stream = Some(stream);
        self.note(format_args!("{host:?} opens stream {id} for {} to {}", pair.0, pair.1));
        let opening = Opening::Notify { from: pair.0.clone(), to: pair.1.clone() };
        self.say(host, conn, id, Said::Bytes(format!("{opening}\n")));
        self.drive_outlet(host, pair);
    }

    fn stream(&mut self, host: Host, pair: &Pair) -> Option<&mut Stream> {
        self.server(host).lanes.get_mut(pair)?.stream.as_mut()
    }

    fn drive_outlet(&mut self, host: Host, pair: &Pair) {
        let Some(stream) = self.stream(host, pair) else { return };
        let (id, conn) = (stream.id, stream.conn);
        match stream.outlet.step() {
            outlet::Step::Read { reached, limit } => {
                stream.is_busy = true;
                self.ask_disk(host, Work::Page { pair: pair.clone(), stream: id, reached, limit });
            }
            outlet::Step::Settle(settled) => {
                stream.is_busy = true;
                self.ask_disk(host, Work::Settle { pair: pair.clone(), stream: Some(id), settled });
            }
            outlet::Step::Wait(until) => {
                let (turn, life) = (self.number(), self.life(host));
                let after = self.since_dawn(until).saturating_sub(self.now);
                if let Some(sending) = self.server(host).lanes.get_mut(pair) {
                    sending.turn = turn;
                }
                self.plan(after, Event::Deadline { server: host, life, pair: pair.clone(), turn });
            }
            outlet::Step::End(ended) => {
                self.note(format_args!(
                    "{host:?} ends stream {id}: {:?}",
                    ended.why.as_ref().map(ToString::to_string)
                ));
                if let Some(sending) = self.server(host).lanes.get_mut(pair) {
                    sending.stream = None;
                }
                self.say(host, conn, id, Said::End);
                self.ended(host, pair, ended);
            }
        }
    }

    pub(super) fn deadline(&mut self, host: Host, pair: &Pair, turn: u64) {
        let Some(sending) = self.server(host).lanes.get_mut(pair).filter(|sending| sending.turn == turn)
        else {
            return;
        };
        let Some(stream) = sending.stream.as_mut().filter(|stream| !stream.is_busy) else { return };
        stream.outlet.on_deadline();
        self.drive_outlet(host, pair);
    }

    pub(super) fn page_read(&mut self, host: Host, pair: &Pair, id: StreamId, page: &[Notification]) {
        let clock = self.clock(host);
        let Some(stream) = self.stream(host, pair).filter(|stream| stream.id == id) else { return };
        let (conn, mut lines) = (stream.conn, String::new());
        stream.outlet.on_page(page, clock, |line| lines += &format!("{line}\n"));
        stream.is_busy = false;
        if !lines.is_empty() {
            // Cut anywhere, as the network does.
            let cut = self.random.place(lines.len());
            let tail = lines.split_off(cut);
            for part in [lines, tail] {
                self.say(host, conn, id, Said::Bytes(part));
            }
        }
        self.drive_outlet(host, pair);
    }

    pub(super) fn settled(&mut self, host: Host, pair: &Pair, id: Option<StreamId>) {
        let random = self.random.byte();
        let Some(id) = id else { return self.step_lane(host, pair, |lane| lane.on_settled(random)) };
        let Some(stream) = self.stream(host, pair).filter(|stream| stream.id == id) else { return };
        stream.outlet.on_settled();
        stream.is_busy = false;
        self.drive_outlet(host, pair);
    }

    /// Something is heard on a stream that was opened here; `false` if there is none.
    pub(super) fn heard_by_outlet(&mut self, host: Host, id: StreamId, said: &Said) -> bool {
        let instant = self.instant();
        let lanes = &mut self.servers[place(host)].lanes;
        let ours = |sending: &Sending| sending.stream.as_ref().is_some_and(|stream| stream.id == id);
        let Some((pair, sending)) = lanes.iter_mut().find(|(_, sending)| ours(sending)) else { return false };
        let (pair, stream) = (pair.clone(), sending.stream.as_mut().expect("it was just found"));
        match said {
            Said::Bytes(text) => {
                stream.session.feed(text.as_bytes());
                while let Ok(Some(event)) = stream.session.next_event() {
                    let answer = match event {
                        Heard::Data(_) => Ok(()),
                        Heard::Error(error) => Err(AskError::from(error)),
                        Heard::Greeted | Heard::PolAccepted | Heard::Notification(_) | Heard::Unknown(_) => {
                            continue;
                        }
                    };
                    if stream.outlet.is_hearing() {
                        stream.outlet.on_answer(answer, instant);
                    }
                }
            }
            Said::End if stream.outlet.is_hearing() => {
                stream.outlet.on_failed(AskError::Unreachable("the server closed the connection".to_owned()));
            }
            Said::End => {}
        }
        if !stream.is_busy {
            self.drive_outlet(host, &pair);
        }
        true
    }

    /// A tenant is not hosted here any more.
    pub(super) fn cut_lanes(&mut self, host: Host, tenant: &AtSign) {
        let lanes = &mut self.server(host).lanes;
        let gone: Vec<Pair> = lanes.keys().filter(|(from, _)| from == tenant).cloned().collect();
        for pair in gone {
            if let Some(Sending { stream: Some(stream), .. }) = self.server(host).lanes.remove(&pair) {
                self.say(host, stream.conn, stream.id, Said::End);
            }
        }
    }

    pub(super) fn say(&mut self, from: Host, conn: ConnId, stream: StreamId, said: Said) {
        let after = self.delay();
        let Some(open) = self.conns.get_mut(&conn) else { return };
        let to: End = usize::from(open.ends[0] == from);
        let number = open.say(to, stream);
        self.plan(after, Event::Arrives { conn, to, stream, number, said });
    }

    pub(super) fn arrives(&mut self, id: ConnId, to: End, stream: StreamId, number: u64, said: Said) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (from, at) = (conn.ends[1 - to], conn.ends[to]);
        if !conn.open[to].get() || at == Host::Stranger || !self.lives(at, conn.lives[to]) {
            return;
        }
        let is_stuck = conn.is_quic && self.network.is_without_udp;
        if is_stuck || !self.network.passes(from, at) {
            // It is sent again for as long as the other end is there.
            if conn.open[1 - to].get() {
                let after = Network::again(&mut self.random);
                self.plan(after, Event::Arrives { conn: id, to, stream, number, said });
            }
            return;
        }
        let conn = self.conns.get_mut(&id).expect("it was just there");
        for said in conn.arrive(to, stream, number, said) {
            if !self.heard_by_outlet(at, stream, &said) {
                self.heard_by_inlet(at, id, to, stream, said);
            }
        }
    }

    /// An end finds out that its connection is lost; the other does so later, and hears until then.
    pub(super) fn lost(&mut self, id: ConnId, end: End) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (host, life) = (conn.ends[end], conn.lives[end]);
        if !conn.open[end].replace(false) {
            return;
        }
        let (is_other_open, other) = (conn.open[1 - end].get(), conn.ends[1 - end]);
        if is_other_open {
            let word = self.network.passes(host, other) && self.one_in(2);
            let after = if word { self.delay() } else { self.millis(500, 20_000) };
            self.plan(after, Event::Lost { conn: id, end: 1 - end });
        } else {
            self.conns.remove(&id);
        }
        if host == Host::Stranger || !self.lives(host, life) {
            return;
        }
        self.note(format_args!("{host:?} has lost connection {id}"));
        let lanes = &mut self.server(host).lanes;
        let on_it = |sending: &Sending| sending.stream.as_ref().is_some_and(|stream| stream.conn == id);
        let lost: Vec<Pair> =
            lanes.iter().filter(|(_, sending)| on_it(sending)).map(|(pair, _)| pair.clone()).collect();
        for pair in lost {
            let Some(stream) = self.stream(host, &pair) else { continue };
            if stream.outlet.is_hearing() {
                stream.outlet.on_failed(AskError::Unreachable("the connection is lost".to_owned()));
            }
            if !stream.is_busy {
                self.drive_outlet(host, &pair);
            }
        }
        self.inlets_lost(host, id);
    }

    /// All connections of a host that has crashed: the others find out by and by.
    pub(super) fn lose_all_of(&mut self, host: Host) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            for end in 0..2 {
                if self.conns.get(&id).is_some_and(|conn| conn.ends[end] == host) {
                    self.lost(id, end);
                }
            }
        }
    }

    /// From now on nothing passes: connections over it will be lost if that lasts.
    pub(super) fn watch_silence(&mut self, from: Host, to: Host, since: Time) {
        let over = self.conns.iter().filter_map(|(id, conn)| {
            (0..2).find(|end| conn.ends[*end] == to && conn.ends[1 - end] == from).map(|end| (*id, end))
        });
        for (conn, end) in over.collect::<Vec<_>>() {
            self.plan(SILENCE, Event::Silent { conn, to: end, since });
        }
    }

    pub(super) fn silent(&mut self, id: ConnId, to: End, since: Time) {
        let Some(conn) = self.conns.get(&id) else { return };
        let is_stuck = conn.is_quic && self.network.is_without_udp;
        if is_stuck || self.network.blocked_since(conn.ends[1 - to], conn.ends[to]) == Some(since) {
            self.lost(id, to);
        }
    }

    /// A node has come by itself and was found to speak for somebody.
    pub(super) fn met(&mut self, host: Host, id: ConnId, end: End) {
        let conn = &self.conns[&id];
        let other = conn.ends[1 - end];
        if conn.is_quic && end == 1 {
            let over = Over::Quic(id, conn.open[end].clone());
            self.server(host).met.insert(other, over);
            self.back(host, other);
        }
    }
}
