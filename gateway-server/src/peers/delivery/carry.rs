//! Drives one stream of a lane: what its [`Outlet`] decides, over the wire and in the store.

use std::time::Instant;

use at_client::Wire;
use at_client::wire::{Said, WireError};
use at_protocol::directory::VerifiedRecord;
use at_protocol::peer::Opening;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::More;
use crate::node::Node;
use crate::peers::AskError;
use crate::peers::lane::Pair;
use crate::peers::nodes::Stream;
use crate::peers::outlet::{Ended, Outlet, Step};
use crate::store::{Answer, StoreError};

/// Sends what waits, and what comes to wait meanwhile, until there is nothing more for a while, or something
/// goes wrong: then what is not settled is sent again, from the first of it, on another stream.
///
/// # Errors
/// The store failed.
pub(super) async fn carry(
    node: &Node,
    pair: &Pair,
    more: &More,
    record: &VerifiedRecord,
    leaves: &CancellationToken,
) -> Result<Ended, StoreError> {
    let unopened = |why| Ended { was_admitted: false, moved: false, why: Some(why) };
    let links = match node.links() {
        Ok(links) => links,
        Err(error) => return Ok(unopened(error)),
    };
    let (from, to) = pair;
    let ended = match links.nodes().open(record).await {
        Ok(stream) => {
            let mut wire = Wire::begin(stream);
            wire.say(&Opening::Notify { from: from.clone(), to: to.clone() });
            drive((node, more, leaves), pair, wire).await?
        }
        Err(error) => unopened(AskError::Unreachable(error.to_string())),
    };
    if !ended.was_admitted {
        // Perhaps it is served elsewhere now.
        links.suspect(to);
    }
    Ok(ended)
}

async fn drive(
    (node, more, leaves): (&Node, &More, &CancellationToken),
    pair: &Pair,
    mut wire: Wire<Stream>,
) -> Result<Ended, StoreError> {
    let (from, to) = pair;
    let mut outlet = Outlet::new(from.clone(), to.clone(), now());
    loop {
        match outlet.step() {
            Step::Read { reached, limit } => {
                let reading = node.store.waiting(from, to, reached, limit);
                let page = meanwhile(&mut outlet, &mut wire, reading).await?;
                outlet.on_page(&page, node.now(), |line| wire.say(line));
            }
            Step::Settle(settled) => {
                let settling = node.store.settle(from, settled);
                meanwhile(&mut outlet, &mut wire, settling).await?;
                outlet.on_settled();
            }
            Step::Wait(until) => tokio::select! {
                said = wire.next() => hear(&mut outlet, said),
                () = more.told() => if more.take() {
                    outlet.on_more(now());
                },
                () = leaves.cancelled(), if !outlet.is_leaving() => outlet.on_leave(),
                () = sleep_until(until.into()) => outlet.on_deadline(),
            },
            Step::End(ended) => return Ok(ended),
        }
    }
}

/// Waits for the store. What was said goes out, and answers are heard, while the store is at it.
async fn meanwhile<T>(
    outlet: &mut Outlet,
    wire: &mut Wire<Stream>,
    mut work: Answer<'_, T>,
) -> Result<T, StoreError> {
    loop {
        tokio::select! {
            done = &mut work => return done,
            said = wire.next(), if outlet.is_hearing() => hear(outlet, said),
        }
    }
}

fn hear(outlet: &mut Outlet, said: Result<Said, WireError>) {
    match said {
        Ok(Said::Answer(answer)) => outlet.on_answer(answer.map(drop).map_err(AskError::from), now()),
        // Nobody is monitored here.
        Ok(Said::Notification(_)) => {}
        Err(error) => outlet.on_failed(AskError::Unreachable(error.to_string())),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
