//! What waits for a shard's writer: a lane per tenant, taken in turns, so that a tenant that asks for much
//! waits behind itself and not before the others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;

/// Requests in one transaction, so that the first of them does not wait for too many others.
const GROUP: usize = 512;
/// Bytes in one transaction: what a disk writes in a few milliseconds.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a tenant may write in one turn, while others wait; a larger request is a turn by itself.
const TURN_BYTES: usize = 4 * 1024;
/// What a request costs besides its values, in bytes.
const REQUEST_BYTES: usize = 512;

/// Requests for one writer. Unbounded: each connection has at most one on its way, whose values it holds
/// anyway, and connections are bounded.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    came: Condvar,
}

/// `None` is the server itself.
type Who = Option<AtSign>;

struct State<J> {
    lanes: HashMap<Who, VecDeque<Waiting<J>>>,
    /// Whose lanes are not empty, in the order of their turns.
    turns: VecDeque<Who>,
    closed: bool,
}

struct Waiting<J> {
    job: J,
    bytes: usize,
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        let state = State { lanes: HashMap::new(), turns: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), came: Condvar::new() }
    }

    /// Puts a request behind those of the same tenant.
    pub(super) fn push(&self, who: Who, bytes: usize, job: J) {
        let mut state = self.state();
        let waiting = Waiting { job, bytes: bytes.saturating_add(REQUEST_BYTES) };
        if let Some(lane) = state.lanes.get_mut(&who) {
            lane.push_back(waiting);
        } else {
            state.turns.push_back(who.clone());
            state.lanes.insert(who, VecDeque::from([waiting]));
        }
        drop(state);
        self.came.notify_one();
    }

    /// Waits for requests and takes a group of them; `None` once it is closed and empty.
    pub(super) fn take(&self) -> Option<Vec<J>> {
        let state = self.state();
        let idle = |state: &mut State<J>| state.turns.is_empty() && !state.closed;
        let mut state = self.came.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < GROUP
            && bytes < GROUP_BYTES
            && let Some(who) = state.turns.pop_front()
        {
            bytes += state.turn(who, &mut group);
        }
        (!group.is_empty()).then_some(group)
    }

    /// Lets the writer end when it has taken all that waits.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.came.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> State<J> {
    /// Takes what a tenant may do in one turn; gives its bytes.
    fn turn(&mut self, who: Who, group: &mut Vec<J>) -> usize {
        let Some(lane) = self.lanes.get_mut(&who) else { return 0 };
        let mut bytes = 0;
        while bytes < TURN_BYTES
            && group.len() < GROUP
            && let Some(waiting) = lane.pop_front()
        {
            bytes += waiting.bytes;
            group.push(waiting.job);
        }
        if lane.is_empty() {
            self.lanes.remove(&who);
        } else {
            self.turns.push_back(who);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Who {
        Some(name.parse().unwrap())
    }

    #[test]
    fn a_quiet_tenant_waits_for_one_turn_of_a_noisy_one_and_no_longer() {
        let queue = Queue::new();
        for number in 0..2000 {
            queue.push(who("@noisy"), 0, ("noisy", number));
        }
        queue.push(who("@quiet"), 0, ("quiet", 0));
        queue.push(who("@large"), GROUP_BYTES, ("large", 0));
        let group = queue.take().unwrap();
        let turn = TURN_BYTES / REQUEST_BYTES;
        assert_eq!(group.iter().position(|(name, _)| *name == "quiet"), Some(turn));
        assert_eq!(group.last(), Some(&("large", 0)), "a group ends when it has its bytes");
        let mut noisy = Vec::new();
        queue.close();
        let (first, rest) = (group.into_iter(), std::iter::from_fn(|| queue.take()).flatten());
        noisy.extend(first.chain(rest).filter(|(name, _)| *name == "noisy").map(|(_, number)| number));
        assert_eq!(noisy, (0..2000).collect::<Vec<_>>(), "each tenant's own stay in order");
    }

    #[test]
    fn a_group_has_a_bound() {
        let queue = Queue::new();
        for number in 0..GROUP + 1 {
            queue.push(None, 0, number);
        }
        assert_eq!(queue.take().unwrap().len(), GROUP);
        assert_eq!(queue.take().unwrap().len(), 1);
        queue.close();
        assert!(queue.take().is_none());
    }
}
