//! Fan-out: what was committed reaches the connections that watch.
//!
//! A tenant that is watched has one short ring of lines, each formatted once and shared. A monitor that
//! falls behind the ring reads what it missed from the store. Moments of notifications grow strictly per
//! tenant, so a monitor needs nothing but the moment of the last one it has sent to tell new from old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use at_protocol::notification::Frame;
use at_protocol::verb::{Monitor, Operation};
use at_protocol::{AtKey, AtSign, Timestamp};
use regex::Regex;
use tokio::sync::broadcast;

use crate::access::Principal;
use crate::store::{Committed, Kind, Notification};

/// Lines that a tenant's ring holds. A monitor further behind reads from the store instead.
const RING: usize = 32;
/// Largest compiled regex of a monitor, in bytes.
pub(crate) const MAX_REGEX: usize = 256 * 1024;

/// The tenants that are watched.
#[derive(Default)]
pub(crate) struct Monitors {
    rings: Mutex<HashMap<AtSign, Ring>>,
}

struct Ring {
    lines: broadcast::Sender<Arc<Line>>,
    /// The newest commit, for the ticker.
    commit: i64,
}

/// A line for monitors, and what they filter by.
#[derive(Debug)]
pub(crate) struct Line {
    /// When; `None` for the ticker.
    pub(crate) moment: Option<i64>,
    key: String,
    record: Option<AtKey>,
    from: AtSign,
    /// Whether the tenant tells it to itself.
    is_own: bool,
    /// What is sent, with its line end.
    pub(crate) text: String,
}

/// What one connection watches.
pub(crate) struct Subscription {
    pub(crate) lines: broadcast::Receiver<Arc<Line>>,
    /// The moment of the newest notification that was sent.
    pub(crate) seen: i64,
    filter: Filter,
}

struct Filter {
    regex: Option<Regex>,
    strict: bool,
    /// Whether what the tenant tells itself is wanted.
    own: bool,
    principal: Principal,
}

impl Monitors {
    /// Begins to watch: what is committed from now on will be in the ring. `commit` is the newest commit.
    pub(crate) fn subscribe(&self, tenant: &AtSign, commit: i64) -> broadcast::Receiver<Arc<Line>> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings
            .entry(tenant.clone())
            .or_insert_with(|| Ring { lines: broadcast::Sender::new(RING), commit });
        ring.commit = ring.commit.max(commit);
        ring.lines.subscribe()
    }

    /// Tells the monitors of a tenant.
    pub(crate) fn committed(&self, what: &Committed) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let (tenant, line) = match what {
            Committed::Changed { tenant, commit, operation, now } => {
                let Some(ring) = rings.get_mut(tenant) else { return };
                ring.commit = *commit;
                (tenant, Line::ticker(tenant, *commit, *operation, *now))
            }
            Committed::Received { notification } if rings.contains_key(&notification.to) => {
                (&notification.to, Line::of(notification))
            }
            Committed::Received { .. } | Committed::Queued { .. } => return,
        };
        if rings.get(tenant).is_some_and(|ring| ring.lines.send(Arc::new(line)).is_err()) {
            // Nobody watches any more.
            rings.remove(tenant);
        }
    }

    /// Sends every monitor the newest commit id (wire reference §8.5).
    pub(crate) fn tick(&self, now: Timestamp) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.retain(|tenant, ring| {
            let line = Line::ticker(tenant, ring.commit, Operation::Update, now);
            ring.lines.send(Arc::new(line)).is_ok()
        });
    }
}

impl Line {
    /// The line of a notification that a tenant has received.
    pub(crate) fn of(notification: &Notification) -> Self {
        Self {
            moment: Some(notification.created.as_millis()),
            key: notification.key.clone(),
            record: notification.record(),
            from: notification.from.clone(),
            is_own: notification.kind == Kind::Own,
            text: notification.frame().line(),
        }
    }

    fn ticker(tenant: &AtSign, commit: i64, operation: Operation, now: Timestamp) -> Self {
        let frame = Frame::stats(tenant, commit, operation, now);
        Self {
            moment: None,
            text: frame.line(),
            key: frame.key,
            record: None,
            from: frame.from,
            is_own: false,
        }
    }
}

impl Subscription {
    /// What `monitor` asks for, on behalf of `principal`.
    pub(crate) fn new(
        lines: broadcast::Receiver<Arc<Line>>,
        seen: i64,
        monitor: &Monitor,
        regex: Option<Regex>,
        principal: Principal,
    ) -> Self {
        Self {
            lines,
            seen,
            filter: Filter { regex, strict: monitor.strict, own: monitor.self_notifications, principal },
        }
    }

    /// The connection was authenticated anew.
    pub(crate) fn rebind(&mut self, principal: Principal) {
        self.filter.principal = principal;
    }

    /// Whether this line is to be sent; if it is new, it counts as seen.
    pub(crate) fn wants(&mut self, line: &Line) -> bool {
        match line.moment {
            Some(moment) if moment <= self.seen => return false,
            Some(moment) => self.seen = moment,
            None if self.filter.strict => {}
            None => return true,
        }
        self.filter.matches(line)
    }
}

impl Filter {
    fn matches(&self, line: &Line) -> bool {
        if line.is_own && !self.own {
            return false;
        }
        let matched = self
            .regex
            .as_ref()
            .is_none_or(|regex| regex.is_match(&line.key) || regex.is_match(line.from.as_str()));
        matched && (line.moment.is_none() || self.principal.may_watch(line.record.as_ref()))
    }
}
