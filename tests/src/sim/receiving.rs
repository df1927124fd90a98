//! The receiving side of a server: who comes, whether it may, and what it says, as the pure cores decide.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use at_client::Found;
use at_protocol::line::{Line, LineSplitter};
use at_protocol::peer::Opening;
use at_protocol::response::Failure;
use at_protocol::{AtSign, ErrorCode};
use atedge_server::pure::AskError;
use atedge_server::pure::claim::{Claim, Verdict};
use atedge_server::pure::fences::Turn;
use atedge_server::pure::inlet::Inlet;

use super::Sabotage;
use super::directory::public;
use super::lookup::Asker;
use super::network::{ConnId, End, Host, Said, StreamId};
use super::server::Work;
use super::world::{World, place};

/// How long a notification lives that does not say so, in milliseconds.
const TTLN: u64 = 900_000;
const LONGEST_OPENING: usize = 1024;

/// A stream that another node has opened.
pub(super) struct Arrival {
    conn: ConnId,
    end: End,
    state: State,
    /// Whether the other end is through.
    is_ended: bool,
    /// Whether the disk commits what it has brought.
    is_committing: bool,
    /// For whom, once that is known.
    pair: Option<(AtSign, AtSign)>,
    /// When it came to its turn among the others, as a number.
    turn: u64,
}

enum State {
    Opening(LineSplitter),
    Claiming(Box<Claim>, LineSplitter),
    Entering(Pin<Box<dyn Future<Output = Turn>>>, LineSplitter),
    Open(Box<Inlet>, Option<Turn>),
}

impl World {
    fn arrival(&mut self, host: Host, stream: StreamId) -> Option<&mut Arrival> {
        self.server(host).arrivals.get_mut(&stream)
    }

    pub(super) fn heard_by_inlet(&mut self, host: Host, conn: ConnId, end: End, id: StreamId, said: Said) {
        let new = || Arrival {
            conn,
            end,
            state: State::Opening(LineSplitter::new(LONGEST_OPENING)),
            is_ended: false,
            is_committing: false,
            pair: None,
            turn: 0,
        };
        let arrivals = &mut self.server(host).arrivals;
        let arrival = match (arrivals.get_mut(&id), &said) {
            (Some(arrival), _) => arrival,
            // A stream begins with an opening; what comes behind its end is not heard.
            (None, Said::Bytes(text)) if text.starts_with("from:") => arrivals.entry(id).or_insert_with(new),
            (None, _) => return,
        };
        match (&mut arrival.state, said) {
            (_, Said::End) => {
                arrival.is_ended = true;
                return match arrival.state {
                    State::Open(..) => self.pump(host, id),
                    State::Opening(_) | State::Claiming(..) | State::Entering(..) => self.leave(host, id),
                };
            }
            (State::Open(inlet, _), Said::Bytes(text)) => {
                inlet.read(text.as_bytes());
                return self.pump(host, id);
            }
            (State::Claiming(_, lines) | State::Entering(_, lines), Said::Bytes(text)) => {
                // It waits in the stream until it is read.
                lines.set_limit(usize::MAX >> 1);
                return lines.feed(text.as_bytes());
            }
            (State::Opening(lines), Said::Bytes(text)) => lines.feed(text.as_bytes()),
        }
        let State::Opening(lines) = &mut arrival.state else { return };
        let Ok(Some(Line::Text(line))) = lines.next_line() else { return };
        let lines = std::mem::replace(lines, LineSplitter::new(0));
        let Ok(Opening::Notify { from, to }) = line.parse() else { return self.leave(host, id) };
        let (ends, end) = (self.conns[&conn].ends, end);
        let node = public(self.node_of(ends[1 - end]));
        let Some(arrival) = self.arrival(host, id) else { return };
        arrival.state = State::Claiming(Box::new(Claim::new(node, from.clone())), lines);
        arrival.pair = Some((from.clone(), to.clone()));
        if self.server(host).hosted.contains(&to) {
            self.find(host, &from, Asker::Stream(id));
        } else {
            self.refuse(
                host,
                id,
                Failure::new(ErrorCode::SecondaryNotFound, format!("{to} is not hosted here")),
            );
        }
    }

    fn node_of(&self, host: Host) -> u8 {
        match host {
            Host::First | Host::Second => self.servers[place(host)].node,
            Host::Agent | Host::Directory | Host::Stranger => 8,
        }
    }

    pub(super) fn claim_found(&mut self, host: Host, id: StreamId, found: Result<Found, AskError>) {
        let is_anybody_fine = Sabotage::AnyKey.is(self.sabotage);
        let instant = self.instant();
        let Some(Arrival { state: State::Claiming(claim, _), pair: Some((from, _)), .. }) =
            self.arrival(host, id)
        else {
            return;
        };
        let from = from.clone();
        match claim.on_found(found) {
            Verdict::Holds => self.enter(host, id, true),
            Verdict::AskAnew | Verdict::Fails(_) if is_anybody_fine => self.enter(host, id, false),
            Verdict::AskAnew => {
                self.server(host).memory.suspect(&from, instant);
                self.find(host, &from, Asker::Stream(id));
            }
            Verdict::Fails(failure) => {
                self.promises.turned_away += 1;
                self.note(format_args!("{host:?} turns stream {id} away: {}", failure.message));
                self.refuse(host, id, failure);
            }
        }
    }

    fn enter(&mut self, host: Host, id: StreamId, holds: bool) {
        let has_no_fence = Sabotage::NoFence.is(self.sabotage);
        let (fences, number) = (self.server(host).fences.clone(), self.number());
        let Some(arrival) = self.arrival(host, id) else { return };
        let (Some(pair), State::Claiming(_, lines)) = (arrival.pair.clone(), &mut arrival.state) else {
            return;
        };
        let (conn, end) = (arrival.conn, arrival.end);
        arrival.turn = number;
        let lines = std::mem::replace(lines, LineSplitter::new(0));
        let (from, to) = pair.clone();
        arrival.state = if has_no_fence {
            State::Open(Box::new(Inlet::new(from, to, lines, TTLN)), None)
        } else {
            State::Entering(Box::pin(async move { fences.enter(pair).await }), lines)
        };
        if holds {
            self.met(host, conn, end);
        }
        if has_no_fence {
            self.welcome(host, id);
        }
        self.turns(host);
    }

    /// Streams that have got their turn begin, and those that have lost it leave.
    fn turns(&mut self, host: Host) {
        let ids: Vec<StreamId> = self.server(host).arrivals.keys().copied().collect();
        let mut context = Context::from_waker(Waker::noop());
        // The one that comes asks the others to leave before it waits for them.
        for id in ids.iter().rev().copied() {
            let Some(arrival) = self.arrival(host, id) else { continue };
            let Some((from, to)) = arrival.pair.clone() else { continue };
            let State::Entering(entering, lines) = &mut arrival.state else { continue };
            let Poll::Ready(turn) = entering.as_mut().poll(&mut context) else { continue };
            let lines = std::mem::replace(lines, LineSplitter::new(0));
            let is_over = turn.is_over();
            arrival.state = State::Open(Box::new(Inlet::new(from, to, lines, TTLN)), Some(turn));
            if is_over {
                self.leave(host, id);
            } else {
                self.welcome(host, id);
            }
        }
        for id in ids {
            self.pump(host, id);
        }
    }

    fn welcome(&mut self, host: Host, id: StreamId) {
        let Some(arrival) = self.arrival(host, id) else { return };
        let State::Open(inlet, _) = &arrival.state else { return };
        let (conn, welcome) = (arrival.conn, inlet.answers(1, None));
        self.say(host, conn, id, Said::Bytes(welcome));
        self.pump(host, id);
    }

    /// Commits what has come together, or leaves if it is time.
    fn pump(&mut self, host: Host, id: StreamId) {
        let (clock, is_early) = (self.clock(host), Sabotage::AnswersEarly.is(self.sabotage));
        let Some(arrival) = self.arrival(host, id).filter(|arrival| !arrival.is_committing) else { return };
        let State::Open(inlet, turn) = &mut arrival.state else { return };
        let batch = inlet.gather(clock);
        if batch.is_empty() {
            if arrival.is_ended || turn.as_ref().is_some_and(Turn::is_over) {
                self.leave(host, id);
            }
            return;
        }
        arrival.is_committing = true;
        let (conn, to) = (arrival.conn, inlet.pair().1.clone());
        if is_early {
            let answers = inlet.answers(batch.taken.len(), None);
            self.say(host, conn, id, Said::Bytes(answers));
        }
        self.ask_disk(host, Work::Receive { stream: id, to, batch: batch.taken, refused: batch.refused });
    }

    pub(super) fn committed(
        &mut self,
        host: Host,
        id: StreamId,
        count: usize,
        is_taken: bool,
        refused: Option<Failure>,
    ) {
        let is_early = Sabotage::AnswersEarly.is(self.sabotage);
        let Some(arrival) = self.arrival(host, id) else { return };
        arrival.is_committing = false;
        let State::Open(inlet, _) = &mut arrival.state else { return };
        let (count, refused) = if is_taken {
            (count, refused)
        } else {
            let message = format!("{} is not hosted here", inlet.pair().1);
            (0, Some(Failure::new(ErrorCode::SecondaryNotFound, message)))
        };
        let is_over = refused.is_some();
        let answers = inlet.answers(if is_early { 0 } else { count }, refused);
        let conn = arrival.conn;
        if !answers.is_empty() {
            self.say(host, conn, id, Said::Bytes(answers));
        }
        if is_over { self.leave(host, id) } else { self.pump(host, id) }
    }

    fn refuse(&mut self, host: Host, id: StreamId, failure: Failure) {
        let Some(arrival) = self.arrival(host, id) else { return };
        let (conn, code) = (arrival.conn, failure.code.name());
        let text = format!("error:{code}-{}\n@", failure.message);
        self.say(host, conn, id, Said::Bytes(text));
        self.leave(host, id);
    }

    /// Whether a stream may commit what it has brought.
    pub(super) fn check_commit(&mut self, host: Host, id: StreamId) {
        let Some(arrival) = self.servers[place(host)].arrivals.get(&id) else { return };
        let Some((from, to)) = &arrival.pair else { return };
        let other = self.conns.get(&arrival.conn).map(|conn| conn.ends[1 - arrival.end]);
        // Whoever was its host once may have said this then.
        let may_speak = other.is_none_or(|other| self.ever_homes.contains(&(from.clone(), other)));
        self.promises.commits(host, (from, to), arrival.turn, may_speak);
    }

    /// A stream ends, with its turn if it had one.
    fn leave(&mut self, host: Host, id: StreamId) {
        let Some(arrival) = self.server(host).arrivals.remove(&id) else { return };
        let conn = arrival.conn;
        drop(arrival);
        self.say(host, conn, id, Said::End);
        self.turns(host);
    }

    /// The streams of a connection that is lost. What is being committed is committed first.
    pub(super) fn inlets_lost(&mut self, host: Host, conn: ConnId) {
        let arrivals = &mut self.server(host).arrivals;
        let lost: Vec<StreamId> =
            arrivals.iter().filter(|(_, arrival)| arrival.conn == conn).map(|(id, _)| *id).collect();
        for id in lost {
            let Some(arrival) = self.arrival(host, id) else { continue };
            arrival.is_ended = true;
            match arrival.state {
                State::Open(..) => self.pump(host, id),
                State::Opening(_) | State::Claiming(..) | State::Entering(..) => self.leave(host, id),
            }
        }
    }

    /// A tenant is not hosted here any more.
    pub(super) fn cut(&mut self, host: Host, tenant: &AtSign) {
        self.cut_lanes(host, tenant);
        let arrivals = &self.server(host).arrivals;
        let idle = arrivals.iter().filter(|(_, arrival)| {
            !arrival.is_committing && arrival.pair.as_ref().is_some_and(|(_, to)| to == tenant)
        });
        for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(host, id);
        }
    }
}
