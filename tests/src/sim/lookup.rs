//! How a server finds others: what it remembers, and the directory.

use std::sync::Arc;
use std::time::Duration;

use at_client::Found;
use at_protocol::AtSign;
use at_protocol::directory::{Distrust, Registrars, SignedRecord, record_answer, record_question};
use atedge_server::pure::AskError;

use super::Sabotage;
use super::directory::{other_registrar, registrar};
use super::network::{Host, StreamId};
use super::server::Work;
use super::world::{Event, World};

/// How long a directory that does not answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is asked.
pub(super) const TRIES: u32 = 3;

/// Who wants to know.
pub(super) enum Asker {
    Lane((AtSign, AtSign)),
    Stream(StreamId),
}

impl World {
    /// Whose word on who may serve whom is taken.
    pub(super) fn trusted(&self) -> Registrars {
        let mut all = vec![registrar()];
        if Sabotage::AnyRegistrar.is(self.sabotage) {
            all.push(other_registrar());
        }
        Registrars::new(all)
    }

    pub(super) fn find(&mut self, host: Host, atsign: &AtSign, asker: Asker) {
        let (instant, wall, after) = (self.instant(), self.wall(host), self.delay() + self.delay());
        let server = self.server(host);
        if let Some(found) = server.memory.fresh(atsign, instant, wall) {
            return self.found(host, atsign, asker, Some(found));
        }
        let askers = server.looking.entry(atsign.clone()).or_default();
        askers.push(asker);
        if askers.len() == 1 {
            let life = server.life;
            self.plan(after, Event::Asked { server: host, life, atsign: atsign.clone(), tries: 1 });
        }
    }

    pub(super) fn asked(&mut self, host: Host, atsign: AtSign, tries: u32) {
        let wall = self.wall(host);
        if !self.directory.is_up || !self.network.passes_both_ways(host, Host::Directory) {
            if tries < TRIES {
                let life = self.life(host);
                self.plan(PATIENCE, Event::Asked { server: host, life, atsign, tries: tries + 1 });
            } else {
                self.looked_up(host, &atsign, true);
            }
            return;
        }
        let line = self.directory.answer(&record_question(&atsign), wall);
        let Ok(Some(record)) = record_answer(line.trim_end_matches('@')) else {
            // All are bound to their records here: nobody is asked in the old way.
            return self.looked_up(host, &atsign, true);
        };
        let (instant, is_older_fine) = (self.instant(), Sabotage::OlderRecord.is(self.sabotage));
        let server = self.server(host);
        let checked = match server.memory.check(&atsign, record.clone(), wall) {
            Err(Distrust::Older { .. }) if is_older_fine => {
                server.memory.forget(&atsign);
                server.memory.check(&atsign, record, wall)
            }
            checked => checked,
        };
        match checked {
            Ok(record) => {
                let found = Found::from(Arc::clone(&record));
                match server.memory.remember(&atsign, &found, instant) {
                    Some(kept) => {
                        let record = Box::new(SignedRecord::clone(&kept));
                        self.ask_disk(host, Work::Keep { record });
                    }
                    None => self.looked_up(host, &atsign, false),
                }
            }
            Err(why) => {
                self.promises.refused += 1;
                self.note(format_args!("{host:?} does not believe what is said of {atsign}: {why}"));
                self.looked_up(host, &atsign, true);
            }
        }
    }

    /// All who asked are told.
    pub(super) fn looked_up(&mut self, host: Host, atsign: &AtSign, has_failed: bool) {
        let (instant, wall) = (self.instant(), self.wall(host));
        let is_helpless = Sabotage::NeedsDirectory.is(self.sabotage);
        let server = self.server(host);
        let found = if has_failed && is_helpless {
            None
        } else if has_failed {
            server.memory.stand_in(atsign, instant, wall)
        } else {
            server.memory.last(atsign, wall)
        };
        for asker in server.looking.remove(atsign).unwrap_or_default() {
            self.found(host, atsign, asker, found.clone());
        }
    }

    fn found(&mut self, host: Host, atsign: &AtSign, asker: Asker, found: Option<Found>) {
        if let Some(record) = found.as_ref().and_then(|found| found.record.as_ref()) {
            let (seq, at) = (record.at.seq, record.at.address.host());
            let is_home = Host::of(at).is_some_and(|at| self.ever_homes.contains(&(atsign.clone(), at)));
            self.promises.uses(host, atsign, (seq, at), is_home);
        }
        let found = found.ok_or_else(|| AskError::Unreachable("the directory does not say".to_owned()));
        match asker {
            Asker::Lane(pair) => self.lane_found(host, &pair, found),
            Asker::Stream(stream) => self.claim_found(host, stream, found),
        }
    }
}
