//! Failed logins: who guesses waits, and is refused in the end.
//!
//! Failures fill a bucket that leaks. By source: beyond a few, each further attempt waits longer, and
//! beyond many it is refused unheard. By tenant: it only waits, because who is refused here could be the
//! owner, and anybody can fail in its name. From where a tenant has once proved itself it is always heard, so
//! that one neighbour behind the same address does not lock out the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use at_protocol::AtSign;

use super::Source;
use super::recent::Recent;
use crate::config::LoginLimits;

/// The shortest wait; it doubles with each failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// What failed lately.
pub(crate) struct Logins {
    limits: LoginLimits,
    recent: Mutex<Tables>,
}

struct Tables {
    sources: Recent<Source, Bucket>,
    tenants: Recent<AtSign, Bucket>,
    proved: Recent<(Source, AtSign), ()>,
}

/// Failures that are not forgotten yet.
#[derive(Default)]
struct Bucket {
    level: u32,
    since: Option<Instant>,
}

/// What is to be done with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is heard after this time, which is mostly none.
    After(Duration),
    /// It is not heard.
    Refused,
}

impl Logins {
    pub(super) fn new(limits: &LoginLimits) -> Self {
        let tables = Tables {
            sources: Recent::new(limits.remembered),
            tenants: Recent::new(limits.remembered),
            proved: Recent::new(limits.remembered),
        };
        Self { limits: limits.clone(), recent: Mutex::new(tables) }
    }

    /// Somebody is about to prove something to `tenant`.
    pub(crate) fn before(&self, source: Source, tenant: &AtSign, now: Instant) -> Verdict {
        let limits = &self.limits;
        let recent = self.lock();
        let level = |bucket: Option<&Bucket>| bucket.map_or(0, |bucket| bucket.level(limits.forget, now));
        let (here, there) = (level(recent.sources.get(&source)), level(recent.tenants.get(tenant)));
        if here >= limits.refused && recent.proved.get(&(source, tenant.clone())).is_none() {
            return Verdict::Refused;
        }
        Verdict::After(self.wait(here).max(self.wait(there)))
    }

    /// It was no proof.
    pub(crate) fn failed(&self, source: Source, tenant: &AtSign, now: Instant) {
        let forget = self.limits.forget;
        let mut recent = self.lock();
        recent.sources.entry(&source).fill(forget, now);
        recent.tenants.entry(tenant).fill(forget, now);
    }

    /// It was one.
    pub(crate) fn succeeded(&self, source: Source, tenant: &AtSign) {
        self.lock().proved.entry(&(source, tenant.clone()));
    }

    fn wait(&self, level: u32) -> Duration {
        match level.checked_sub(self.limits.free) {
            None | Some(0) => Duration::ZERO,
            Some(beyond) => {
                let doubled = FIRST_WAIT.saturating_mul(1 << (beyond - 1).min(16));
                doubled.min(self.limits.wait)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn level(&self, forget: Duration, now: Instant) -> u32 {
        self.level.saturating_sub(self.leaked(forget, now))
    }

    /// Failures that were forgotten since `since`.
    fn leaked(&self, forget: Duration, now: Instant) -> u32 {
        let Some(since) = self.since else { return 0 };
        let leaked = now.saturating_duration_since(since).as_millis() / forget.as_millis().max(1);
        u32::try_from(leaked).unwrap_or(u32::MAX)
    }

    fn fill(&mut self, forget: Duration, now: Instant) {
        let leaked = self.leaked(forget, now);
        self.level = self.level.saturating_sub(leaked);
        // What has begun to leak goes on leaking, however often more is added.
        let begun = self.since.filter(|_| self.level > 0);
        self.since = Some(begun.map_or(now, |since| since + forget.saturating_mul(leaked)));
        self.level = self.level.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(number: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    fn logins() -> (Logins, AtSign, Instant) {
        let limits =
            LoginLimits { free: 3, refused: 10, forget: Duration::from_secs(6), ..LoginLimits::default() };
        (Logins::new(&limits), "@alice".parse().unwrap(), Instant::now())
    }

    #[test]
    fn a_guesser_waits_longer_and_longer_and_is_refused_for_a_while() {
        let (logins, alice, now) = logins();
        let mut waits = Vec::new();
        while let Verdict::After(wait) = logins.before(source(1), &alice, now) {
            waits.push(wait.as_millis());
            logins.failed(source(1), &alice, now);
        }
        assert_eq!(waits, [0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200]);
        let later = now + Duration::from_secs(6);
        assert!(matches!(logins.before(source(1), &alice, later), Verdict::After(_)));
        let much_later = now + Duration::from_secs(60);
        assert_eq!(logins.before(source(1), &alice, much_later), Verdict::After(Duration::ZERO));
    }

    #[test]
    fn failures_are_forgotten_however_steadily_others_follow() {
        let mut bucket = Bucket::default();
        let (forget, start) = (Duration::from_secs(6), Instant::now());
        for number in 0..600 {
            bucket.fill(forget, start + Duration::from_secs(4) * number);
        }
        // 600 in 2,400 s, of which 400 are forgotten.
        assert_eq!(bucket.level, 201);
    }

    #[test]
    fn guesses_from_everywhere_make_the_tenant_wait_and_never_lock_it_out() {
        let (logins, alice, now) = logins();
        for number in 0..200 {
            logins.failed(source(number), &alice, now);
        }
        let owner = logins.before(source(201), &alice, now);
        assert_eq!(owner, Verdict::After(LoginLimits::default().wait));
        assert_eq!(logins.before(source(201), &"@bob".parse().unwrap(), now), Verdict::After(Duration::ZERO));
    }

    #[test]
    fn a_neighbour_behind_the_same_address_is_heard_where_it_was_believed_before() {
        let (logins, alice, now) = logins();
        let bob: AtSign = "@bob".parse().unwrap();
        logins.succeeded(source(1), &bob);
        for _ in 0..50 {
            logins.failed(source(1), &alice, now);
        }
        assert_eq!(logins.before(source(1), &alice, now), Verdict::Refused);
        assert!(matches!(logins.before(source(1), &bob, now), Verdict::After(_)));
    }
}
