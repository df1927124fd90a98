//! The connections that are open now: who they are, and a way to end some of them from elsewhere.
//!
//! A connection counts for a tenant from the moment that it is told which one is meant. One that wants to
//! prove an enrollment is noted under it before the enrollment's record is read: whoever revokes writes
//! first and cuts then, so that no session slips in between.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_protocol::{AtSign, Timestamp};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use uuid::Uuid;

use crate::access::Principal;
use crate::config::EnrollmentConfig;

/// All open connections of a node.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<Uuid, Session>,
    of: HashMap<AtSign, HashSet<Uuid>>,
}

struct Session {
    tenant: Option<AtSign>,
    who: Who,
    since: Timestamp,
    address: Option<SocketAddr>,
    /// When it asked for enrollments, as far as that still counts.
    asked: Vec<Timestamp>,
    cut: CancellationToken,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nobody in particular.
    Anonymous,
    /// Another atSign's server.
    Peer(AtSign),
    /// The owner, by the activation secret.
    Activation,
    /// The owner, by the first key.
    Owner,
    /// An application, by its enrollment's id; or one that is about to prove that it is.
    Enrolled(Box<str>),
}

/// An open connection, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// Its id, as challenges have it.
    pub id: String,
    /// Who it is.
    pub who: Who,
    /// Since when it is open.
    pub since: Timestamp,
    /// Where it comes from, where that is known.
    pub address: Option<SocketAddr>,
}

/// A connection's place in the registry, given back when dropped.
pub struct Guard {
    sessions: Arc<Sessions>,
    id: Uuid,
    cut: CancellationToken,
}

impl Sessions {
    /// Notes a connection. `session` is its id, an underscore and a UUID.
    ///
    /// # Panics
    /// The id is another text.
    #[must_use]
    pub fn open(self: &Arc<Self>, session: &str, address: Option<SocketAddr>, now: Timestamp) -> Guard {
        let (id, cut) = (number(session), CancellationToken::new());
        let opened = Session {
            tenant: None,
            who: Who::Anonymous,
            since: now,
            address,
            asked: Vec::new(),
            cut: cut.clone(),
        };
        self.lock().by_id.insert(id, opened);
        Guard { sessions: Arc::clone(self), id, cut }
    }

    /// Notes that a connection is about to prove, or to be given, an enrollment. To be said before the
    /// enrollment's record is read or written.
    ///
    /// # Panics
    /// The session's id is none.
    pub fn claims(&self, session: &str, tenant: &AtSign, enrollment: &str) {
        self.lock().set(number(session), tenant, Who::Enrolled(enrollment.into()));
    }

    /// Whether a connection may ask for one more enrollment now, which then counts.
    pub(crate) fn may_enroll(&self, session: &str, limits: &EnrollmentConfig, now: Timestamp) -> bool {
        let per = u64::try_from(limits.per.as_millis()).unwrap_or(u64::MAX);
        let mut open = self.lock();
        let Some(session) = open.by_id.get_mut(&number(session)) else { return false };
        session.asked.retain(|asked| asked.plus_millis(per) > now);
        let may = session.asked.len() < limits.requests;
        if may {
            session.asked.push(now);
        }
        may
    }

    /// Ends the tenant's connections that are bound to an enrollment, all but one of them; gives how many.
    pub fn cut_enrollment(&self, tenant: &AtSign, enrollment: &str, except: Option<&str>) -> usize {
        self.cut(tenant, except, |who| matches!(who, Who::Enrolled(id) if **id == *enrollment))
    }

    /// Ends the tenant's connections that were authenticated by the first key, all but one of them; gives
    /// how many.
    pub fn cut_owner(&self, tenant: &AtSign, except: Option<&str>) -> usize {
        self.cut(tenant, except, |who| *who == Who::Owner)
    }

    /// Ends all of the tenant's connections; gives how many.
    pub fn cut_tenant(&self, tenant: &AtSign) -> usize {
        self.cut(tenant, None, |_| true)
    }

    fn cut(&self, tenant: &AtSign, except: Option<&str>, meant: impl Fn(&Who) -> bool) -> usize {
        let except = except.map(number);
        let open = self.lock();
        let sessions = open.of.get(tenant).into_iter().flatten().filter(|id| Some(**id) != except);
        let meant = sessions.filter_map(|id| open.by_id.get(id)).filter(|session| meant(&session.who));
        meant.map(|session| session.cut.cancel()).count()
    }

    /// How many connections the tenant has.
    #[must_use]
    pub fn count(&self, tenant: &AtSign) -> usize {
        self.lock().of.get(tenant).map_or(0, HashSet::len)
    }

    /// The tenant's connections, oldest first.
    #[must_use]
    pub fn of(&self, tenant: &AtSign) -> Vec<OpenSession> {
        let open = self.lock();
        let ids = open.of.get(tenant).into_iter().flatten();
        let found = ids.filter_map(|id| open.by_id.get(id).map(|session| (id, session)));
        let mut listed: Vec<_> = found
            .map(|(id, session)| OpenSession {
                id: format!("_{id}"),
                who: session.who.clone(),
                since: session.since,
                address: session.address,
            })
            .collect();
        listed.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        listed
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(session: &str) -> Uuid {
    let uuid = session.strip_prefix('_').and_then(|uuid| uuid.parse().ok());
    uuid.expect("a session's id is an underscore and a UUID")
}

impl Open {
    fn set(&mut self, id: Uuid, tenant: &AtSign, who: Who) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        session.who = who;
        if session.tenant.as_ref() == Some(tenant) {
            return;
        }
        let before = session.tenant.replace(tenant.clone());
        self.of.entry(tenant.clone()).or_default().insert(id);
        self.forget(before.as_ref(), id);
    }

    fn forget(&mut self, tenant: Option<&AtSign>, id: Uuid) {
        let Some(tenant) = tenant else { return };
        if let Some(ids) = self.of.get_mut(tenant) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of.remove(tenant);
            }
        }
    }
}

impl Guard {
    /// Says whose server is spoken to, and by whom.
    pub fn is(&self, tenant: &AtSign, principal: &Principal) {
        self.sessions.lock().set(self.id, tenant, Who::from(principal));
    }

    /// Comes true when the connection is to end at once.
    pub fn cut(&self) -> WaitForCancellationFuture<'_> {
        self.cut.cancelled()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        if let Some(session) = open.by_id.remove(&self.id) {
            open.forget(session.tenant.as_ref(), self.id);
        }
    }
}

impl From<&Principal> for Who {
    fn from(principal: &Principal) -> Self {
        match principal {
            Principal::Anonymous => Self::Anonymous,
            Principal::Peer(peer) => Self::Peer(peer.clone()),
            Principal::Activation => Self::Activation,
            Principal::Owner => Self::Owner,
            Principal::Enrolled(enrolled) => Self::Enrolled(enrolled.id.as_str().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sessions: &Arc<Sessions>) -> (Guard, String) {
        let id = format!("_{}", crate::random::uuid());
        (sessions.open(&id, None, Timestamp::from_millis(0)), id)
    }

    fn is_cut(guard: &Guard) -> bool {
        guard.cut.is_cancelled()
    }

    #[test]
    fn an_enrollments_sessions_are_cut_and_no_others() {
        let sessions = Arc::new(Sessions::default());
        let (alice, bob): (AtSign, AtSign) = ("@alice".parse().unwrap(), "@bob".parse().unwrap());
        let [(mine, id), (same, one), (other, two), (foreign, three), (owner, _)] =
            [0; 5].map(|_| session(&sessions));
        for session in [&id, &one] {
            sessions.claims(session, &alice, "e1");
        }
        sessions.claims(&two, &alice, "e2");
        sessions.claims(&three, &bob, "e1");
        owner.is(&alice, &Principal::Owner);
        assert_eq!(sessions.cut_enrollment(&alice, "e1", Some(&id)), 1);
        assert!(is_cut(&same));
        assert!(![&mine, &other, &foreign, &owner].into_iter().any(is_cut));
        assert_eq!(sessions.cut_enrollment(&alice, "e1", None), 2, "a second cut is no harm");
        assert!(is_cut(&mine) && !is_cut(&owner));
        assert_eq!((sessions.cut_owner(&alice, None), is_cut(&owner)), (1, true));
    }

    #[test]
    fn connections_are_counted_for_whom_they_speak_to_until_they_end() {
        let sessions = Arc::new(Sessions::default());
        let (alice, bob): (AtSign, AtSign) = ("@alice".parse().unwrap(), "@bob".parse().unwrap());
        let (guard, id) = session(&sessions);
        assert_eq!(sessions.count(&alice), 0);
        guard.is(&alice, &Principal::Anonymous);
        guard.is(&bob, &Principal::Peer(alice.clone()));
        assert_eq!((sessions.count(&alice), sessions.count(&bob)), (0, 1));
        let listed = sessions.of(&bob);
        assert_eq!((listed.len(), &listed[0].id, &listed[0].who), (1, &id, &Who::Peer(alice)));
        drop(guard);
        assert_eq!(sessions.count(&bob), 0);
        assert!(sessions.lock().by_id.is_empty() && sessions.lock().of.is_empty());
    }

    #[test]
    fn a_failed_proof_leaves_no_claim() {
        let sessions = Arc::new(Sessions::default());
        let alice: AtSign = "@alice".parse().unwrap();
        let (guard, id) = session(&sessions);
        sessions.claims(&id, &alice, "e1");
        guard.is(&alice, &Principal::Anonymous);
        assert_eq!(sessions.cut_enrollment(&alice, "e1", None), 0);
    }

    #[test]
    fn a_connection_asks_a_few_times_and_again_later() {
        let sessions = Arc::new(Sessions::default());
        let limits = EnrollmentConfig::default();
        let hour = i64::try_from(limits.per.as_millis()).unwrap();
        let [(_first, id), (_second, other)] = [0; 2].map(|_| session(&sessions));
        let may = |id: &str, millis| sessions.may_enroll(id, &limits, Timestamp::from_millis(millis));
        assert!((0..5).all(|millis| may(&id, millis)) && !may(&id, 5) && !may(&id, hour - 1));
        assert!(may(&other, 5), "each connection counts for itself");
        assert!(may(&id, hour) && !may(&id, hour), "the first of them does not count any more");
    }

    #[test]
    fn an_entry_is_small() {
        // Besides what the token and the names keep on the heap.
        assert!(size_of::<Session>() + size_of::<Uuid>() <= 176, "{}", size_of::<Session>());
    }
}
