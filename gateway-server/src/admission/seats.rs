//! Places of one tenant, some of which are kept for its owner.
//!
//! Who connects is a stranger until it has proved something. Strangers and other atSigns' servers may take
//! all but the owner's share; beyond it a stranger is let in on trial: it has the login deadline to prove
//! that it is the owner. So whoever fills a tenant's places does not lock its owner out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;

use super::crowding;
use crate::config::TenantLimits;

/// How many connections each tenant has.
pub(super) struct Seats {
    most: usize,
    reserved: usize,
    taken: Mutex<HashMap<AtSign, Taken>>,
}

#[derive(Default)]
struct Taken {
    owners: usize,
    others: usize,
}

/// A connection's place with its tenant, given back when dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    tenant: AtSign,
    is_owner: bool,
    on_trial: bool,
}

impl Seats {
    pub(super) fn new(limits: &TenantLimits) -> Self {
        Self { most: limits.connections, reserved: limits.reserved, taken: Mutex::default() }
    }

    pub(super) fn take(self: &Arc<Self>, tenant: &AtSign) -> Option<Seat> {
        let mut all = self.lock();
        let (owners, others) = all.get(tenant).map_or((0, 0), |taken| (taken.owners, taken.others));
        if owners + others >= self.most {
            return None;
        }
        let on_trial = others >= self.most.saturating_sub(self.reserved);
        all.entry(tenant.clone()).or_default().others += 1;
        Some(Seat { seats: Arc::clone(self), tenant: tenant.clone(), is_owner: false, on_trial })
    }

    pub(super) fn crowding(&self, tenant: &AtSign) -> u32 {
        let all = self.lock();
        all.get(tenant).map_or(0, |taken| crowding(taken.owners + taken.others, self.most))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AtSign, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Notes whether the connection is the owner's now.
    pub(crate) fn is(&mut self, owner: bool) {
        if owner == self.is_owner {
            return;
        }
        self.is_owner = owner;
        let mut all = self.seats.lock();
        if let Some(taken) = all.get_mut(&self.tenant) {
            let (from, to) = if owner {
                (&mut taken.others, &mut taken.owners)
            } else {
                (&mut taken.owners, &mut taken.others)
            };
            *from -= 1;
            *to += 1;
        }
    }

    /// Whether it is in the owner's share without having proved that it is the owner.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.on_trial && !self.is_owner
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.is(false);
        let mut all = self.seats.lock();
        if let Some(taken) = all.get_mut(&self.tenant) {
            taken.others -= 1;
            if taken.owners + taken.others == 0 {
                all.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(connections: usize, reserved: usize) -> Arc<Seats> {
        let limits = format!("connections = {connections}\nreserved = {reserved}");
        Arc::new(Seats::new(&toml::from_str(&limits).unwrap()))
    }

    #[test]
    fn strangers_do_not_lock_the_owner_out() {
        let seats = seats(10, 4);
        let alice: AtSign = "@alice".parse().unwrap();
        let strangers: Vec<_> = (0..6).map(|_| seats.take(&alice).unwrap()).collect();
        assert!(strangers.iter().all(|seat| !seat.is_on_trial()));
        let mut owner = seats.take(&alice).unwrap();
        assert!(owner.is_on_trial());
        owner.is(true);
        assert!(!owner.is_on_trial());
        let trials: Vec<_> = (0..3).map(|_| seats.take(&alice).unwrap()).collect();
        assert!(trials.iter().all(Seat::is_on_trial));
        assert!(seats.take(&alice).is_none());
        assert!(seats.take(&"@bob".parse().unwrap()).is_some(), "others have their own");
        assert_eq!(seats.crowding(&alice), 1000);
        drop((strangers, owner, trials));
        assert!(seats.lock().is_empty());
    }

    #[test]
    fn owners_leave_the_strangers_share_to_strangers() {
        let seats = seats(4, 2);
        let alice: AtSign = "@alice".parse().unwrap();
        let mut owners: Vec<_> = (0..2).map(|_| seats.take(&alice).unwrap()).collect();
        owners.iter_mut().for_each(|seat| seat.is(true));
        assert!(!seats.take(&alice).unwrap().is_on_trial());
        // A failed proof takes the rank away.
        owners[0].is(false);
        assert_eq!(seats.lock()[&alice].others, 1);
    }
}
