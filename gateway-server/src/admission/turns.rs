//! Turns for TLS handshakes: so many at a time, fair among sources.
//!
//! A turn is asked for once the client's hello has come, so that who says nothing holds none. One source has
//! at most a quarter of them; who has to wait is served in the order of arrival among its source's, and the
//! sources take turns.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Source;

/// The handshakes under way, and who waits.
pub(super) struct Turns {
    most: usize,
    most_each: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    sources: HashMap<Source, Queue>,
    /// Sources with somebody who waits, in the order in which they are served next.
    round: VecDeque<Source>,
}

#[derive(Default)]
struct Queue {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// The right to make a handshake now, given back when dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    source: Source,
}

impl Turns {
    /// `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, most_each: most.div_ceil(4), state: Mutex::default() }
    }

    /// Who stops waiting loses its place in the queue. There are never more waiting than connections.
    pub(super) async fn wait(self: &Arc<Self>, source: Source) -> Turn {
        loop {
            let (given, turn) = oneshot::channel();
            self.queue(source, given);
            self.serve();
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    fn queue(&self, source: Source, given: oneshot::Sender<Turn>) {
        let mut state = self.lock();
        let queue = state.sources.entry(source).or_default();
        queue.waiting.push_back(given);
        if queue.waiting.len() == 1 {
            state.round.push_back(source);
        }
    }

    /// Gives turns while there are any, to one source after the other.
    fn serve(self: &Arc<Self>) {
        // Turns that nobody takes any more come back when they are dropped, which is after the lock.
        let mut unwanted = Vec::new();
        let mut state = self.lock();
        let State { taken, sources, round } = &mut *state;
        let mut passed = 0;
        while *taken < self.most && passed < round.len() {
            let Some(source) = round.pop_front() else { break };
            let Some(queue) = sources.get_mut(&source) else { continue };
            if queue.taken < self.most_each
                && let Some(next) = queue.waiting.pop_front()
            {
                passed = 0;
                *taken += 1;
                queue.taken += 1;
                unwanted.extend(next.send(Turn { turns: Arc::clone(self), source }).err());
            } else {
                passed += 1;
            }
            if !queue.waiting.is_empty() {
                round.push_back(source);
            }
        }
        drop(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.taken -= 1;
        if let Some(queue) = state.sources.get_mut(&self.source) {
            queue.taken -= 1;
            if queue.taken == 0 && queue.waiting.is_empty() {
                state.sources.remove(&self.source);
            }
        }
        drop(state);
        self.turns.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::task::JoinSet;

    use super::*;

    fn source(number: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    #[tokio::test]
    async fn a_flood_from_one_source_keeps_a_quarter_at_most() {
        let turns = Arc::new(Turns::new(8));
        let held = [turns.wait(source(1)).await, turns.wait(source(1)).await];
        let mut flood = JoinSet::new();
        for _ in 0..100 {
            let turns = Arc::clone(&turns);
            flood.spawn(async move { drop(turns.wait(source(1)).await) });
        }
        while turns.lock().sources[&source(1)].waiting.len() < 100 {
            tokio::task::yield_now().await;
        }
        // Another source does not wait for them.
        drop(turns.wait(source(2)).await);
        drop(held);
        flood.join_all().await;
        let state = turns.lock();
        assert_eq!((state.taken, state.sources.len(), state.round.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn sources_are_served_in_turn() {
        let turns = Arc::new(Turns::new(1));
        let first = turns.wait(source(0)).await;
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = JoinSet::new();
        for number in [1, 1, 1, 2] {
            let (turns, told) = (Arc::clone(&turns), told.clone());
            waiting.spawn(async move {
                let _turn = turns.wait(source(number)).await;
                told.send(number).unwrap();
            });
        }
        tokio::task::yield_now().await;
        drop((first, told));
        let mut served = Vec::new();
        while let Some(number) = order.recv().await {
            served.push(number);
        }
        assert_eq!(served, [1, 2, 1, 1]);
    }

    #[tokio::test]
    async fn who_stops_waiting_holds_nobody_up() {
        let turns = Arc::new(Turns::new(1));
        let held = turns.wait(source(1)).await;
        let mut gone = Box::pin(turns.wait(source(1)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        let mut next = Box::pin(turns.wait(source(1)));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(held);
        drop(next.await);
        assert_eq!(turns.lock().taken, 0);
    }
}
