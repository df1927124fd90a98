//! Who sends what: some devices have an atSign of their own, and a sender with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use atedge_adapters::DeviceName;
use tokio::sync::Notify;

use super::store::Grown;

/// Whose records are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// All but those of devices that are apart.
    Rest,
    /// Those of one device that is.
    Of(DeviceName),
}

/// The lanes that grew, for those who send them on.
#[derive(Default)]
pub(super) struct Fresh {
    rest: News,
    apart: BTreeMap<DeviceName, News>,
}

#[derive(Default)]
struct News {
    lanes: Mutex<Grown>,
    wake: Notify,
}

impl Fresh {
    /// With these devices apart.
    pub(super) fn new(apart: &BTreeSet<DeviceName>) -> Self {
        let apart = apart.iter().map(|device| (device.clone(), News::default())).collect();
        Self { rest: News::default(), apart }
    }

    /// Whether `device` belongs to `share`.
    pub(super) fn is_in(&self, share: &Share, device: &DeviceName) -> bool {
        match share {
            Share::Rest => !self.apart.contains_key(device),
            Share::Of(one) => one == device,
        }
    }

    /// What of `share` grew since the last call; waits until there is something.
    pub(super) async fn take(&self, share: &Share) -> Grown {
        let news = match share {
            Share::Rest => &self.rest,
            Share::Of(device) => match self.apart.get(device) {
                Some(news) => news,
                None => std::future::pending().await,
            },
        };
        loop {
            let lanes = std::mem::take(&mut *news.lanes.lock().unwrap_or_else(PoisonError::into_inner));
            if !lanes.is_empty() {
                return lanes;
            }
            news.wake.notified().await;
        }
    }

    pub(super) fn put(&self, grown: Grown) {
        for (id, (lane, last)) in grown {
            let news = self.apart.get(&lane.device).unwrap_or(&self.rest);
            news.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (lane, last));
            news.wake.notify_one();
        }
    }
}
