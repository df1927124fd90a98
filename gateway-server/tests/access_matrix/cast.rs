//! The callers: each as the server knows it, and as the oracle does.

use std::sync::Arc;

use atedge_server::access::{Enrolled, Principal};
use serde_json::json;

use crate::oracle::{ID, R, RW, Right, Who};

pub(crate) struct Caller {
    pub(crate) name: &'static str,
    pub(crate) principal: Principal,
    pub(crate) who: Who,
}

/// An application in this state, granted this.
struct App(&'static str, &'static str, &'static [(&'static str, Right)]);

const APPS: [App; 12] = [
    App("all and __manage", "approved", &[("*", RW), ("__manage", RW)]),
    App("all, to read", "approved", &[("*", R)]),
    App("wavi", "approved", &[("wavi", RW)]),
    App("wavi, to read", "approved", &[("wavi", R)]),
    App("dotted namespace", "approved", &[("sub.wavi", RW)]),
    App("dotted within another", "approved", &[("wavi", R), ("sub.wavi", RW)]),
    App("namespace null", "approved", &[("null", RW)]),
    App("only __manage", "approved", &[("__manage", RW)]),
    App("pending", "pending", &[("wavi", RW)]),
    App("denied", "denied", &[("wavi", RW)]),
    App("revoked", "revoked", &[("*", RW), ("__manage", RW)]),
    App("expired", "expired", &[("*", RW), ("__manage", RW)]),
];

/// All callers.
pub(crate) fn all() -> Vec<Caller> {
    let known = [
        ("nobody", Principal::Anonymous, Who::Nobody),
        ("another atSign", Principal::Peer("@bob".parse().unwrap()), Who::Peer),
        ("activation secret", Principal::Activation, Who::Owner),
        ("first key", Principal::Owner, Who::Owner),
    ];
    let known = known.into_iter().map(|(name, principal, who)| Caller { name, principal, who });
    known.chain(APPS.iter().map(App::caller)).collect()
}

impl App {
    fn caller(&self) -> Caller {
        let Self(name, state, grants) = *self;
        let right = |right| if right == R { "r" } else { "rw" };
        let namespaces: serde_json::Map<_, _> =
            grants.iter().map(|(space, granted)| ((*space).to_owned(), json!(right(*granted)))).collect();
        let enrollment = json!({
            "sessionId": "_s", "appName": "app", "deviceName": "device", "namespaces": namespaces,
            "apkamPublicKey": "k", "requestType": "newEnrollment", "approval": { "state": state },
        });
        let enrollment = serde_json::from_value(enrollment).unwrap();
        let enrolled = Enrolled { id: ID.to_owned(), enrollment, expires: None };
        let who = if state == "approved" { Who::App(grants) } else { Who::Stopped };
        Caller { name, principal: Principal::Enrolled(Arc::new(enrolled)), who }
    }
}
