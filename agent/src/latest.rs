//! What is newest of each device, where its readers can get it at any time: `latest.<device>.<namespace>`, shared with
//! each of them, for streams that say so. It tells the present; what happened goes through the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use at_client::{Client, RecordError};
use at_protocol::{AtKey, AtSign, KeyName, Metadata};
use atedge_adapters::DeviceName;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::outbox::Capture;
use crate::payload::{Latest, Record, name};
use crate::reach::{Reach, Reached};
use crate::standing::Guard;
use crate::uplink::SendRules;

/// A device's record is written at most this often.
const EVERY: Duration = Duration::from_secs(30);
/// Devices whose newest values are kept. More than any gateway is made for: names may come from a stranger's topics.
const MOST_DEVICES: usize = 10_000;

/// The newest values of all devices. Cheap to clone.
#[derive(Clone, Default)]
pub struct Newest(Arc<Inner>);

#[derive(Default)]
struct Inner {
    devices: Mutex<BTreeMap<DeviceName, Device>>,
    changed: Notify,
}

#[derive(Default)]
struct Device {
    latest: Latest,
    changed: bool,
    /// When it may be written next; before that it was just written.
    due: Option<Instant>,
    /// Whose record was looked at since the start, so that points which are silent since are not lost from it.
    known: BTreeSet<AtSign>,
}

impl Newest {
    /// Takes in a reading that was stored under the number `seq`.
    pub fn take(&self, capture: &Capture, seq: u64) {
        let mut devices = self.lock();
        if devices.len() >= MOST_DEVICES && !devices.contains_key(&capture.device) {
            return;
        }
        let device = devices.entry(capture.device.clone()).or_default();
        let time_us = capture.own_time_us.unwrap_or(capture.taken.wall_us);
        device.latest.take(&capture.stream, &Record { seq, time_us, points: capture.points.clone() });
        if !std::mem::replace(&mut device.changed, true) {
            self.0.changed.notify_one();
        }
    }

    /// The first device that may be written now, which counts as written from now on; else when one may be.
    fn next(&self, now: Instant) -> Result<DeviceName, Option<Instant>> {
        let mut devices = self.lock();
        let changed = devices.iter_mut().filter(|(_, device)| device.changed);
        let Some((name, device)) = changed.min_by_key(|(_, device)| device.due) else { return Err(None) };
        match device.due {
            Some(due) if due > now => Err(Some(due)),
            _ => {
                (device.changed, device.due) = (false, Some(now + EVERY));
                Ok(name.clone())
            }
        }
    }

    /// It could not be written.
    fn again(&self, name: &DeviceName) {
        if let Some(device) = self.lock().get_mut(name) {
            device.changed = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceName, Device>> {
        self.0.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the records.
pub struct Publisher<C> {
    /// What to write.
    pub newest: Newest,
    /// As whom: the gateway.
    pub gateway: Client,
    /// Devices that have an atSign of their own; without a client where its keys are of no use.
    pub own: BTreeMap<DeviceName, Option<(Client, Arc<Reach>)>>,
    /// Which streams, and for whom.
    pub rules: watch::Receiver<SendRules>,
    /// Whether this box may write.
    pub guard: Arc<Guard>,
    /// Whether times are right.
    pub clock: Arc<C>,
    /// The last part of key names.
    pub namespace: String,
}

impl<C: Clock> Publisher<C> {
    /// Writes what has changed, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let write = async {
            loop {
                match self.newest.next(Instant::now()) {
                    Ok(device) => {
                        let cleared = self.guard.clear().await.is_ok();
                        let Some(client) = self.client_of(&device).filter(|_| cleared) else {
                            self.newest.again(&device);
                            continue;
                        };
                        if let Err(error) = self.write(client, &device).await {
                            self.newest.again(&device);
                            match error.is_transient() {
                                true => debug!(%device, %error, "its newest values are written later"),
                                false => warn!(%device, %error, "its newest values are not to be had"),
                            }
                        }
                    }
                    Err(Some(due)) => sleep_until(due).await,
                    Err(None) => self.newest.0.changed.notified().await,
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = stop.cancelled() => {}
        }
    }

    /// As whom a device's record is written. An atSign of its own is not knocked for here, where it is not let in.
    fn client_of(&self, device: &DeviceName) -> Option<&Client> {
        match self.own.get(device) {
            None => Some(&self.gateway),
            Some(own) => own
                .as_ref()
                .filter(|(_, reach)| reach.look().reached == Reached::Yes)
                .map(|(client, _)| client),
        }
    }

    async fn write(&self, client: &Client, device: &DeviceName) -> Result<(), RecordError> {
        let rules = self.rules.borrow().clone();
        let readers: BTreeSet<&AtSign> = rules
            .latest
            .keys()
            .filter_map(|stream| rules.streams.get(stream))
            .flat_map(|(to, _)| to)
            .collect();
        let ttl = rules.latest.values().max().map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let Ok(key_name) = name::latest(device, &self.namespace).parse::<KeyName>() else { return Ok(()) };
        for reader in readers {
            let key = AtKey::Shared {
                name: key_name.clone(),
                owner: client.atsign().clone(),
                with: reader.clone(),
            };
            self.recall(client, device, reader, &key).await?;
            let reads = |(to, _): &(Vec<AtSign>, _)| to.contains(reader);
            let json = self.newest.lock().get(device).and_then(|known| {
                known.latest.to_json(device, self.clock.now().state, |stream| {
                    rules.latest.contains_key(stream) && rules.streams.get(stream).is_some_and(reads)
                })
            });
            if let Some(json) = json {
                client.put(&key, json.as_bytes(), Metadata { ttl, ..Metadata::default() }).await?;
            }
        }
        Ok(())
    }

    /// What earlier runs wrote for this reader, so that a point that has not been read since stays there.
    async fn recall(
        &self,
        client: &Client,
        device: &DeviceName,
        reader: &AtSign,
        key: &AtKey,
    ) -> Result<(), RecordError> {
        let is_known = |device: &Device| device.known.contains(reader);
        if self.newest.lock().get(device).is_none_or(is_known) {
            return Ok(());
        }
        let before = match client.get(key).await {
            Ok(before) => before.map(|record| Latest::from_json(&record.value)).unwrap_or_default(),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                debug!(%device, %error, "what was there cannot be read, and is written anew");
                Latest::default()
            }
        };
        if let Some(device) = self.newest.lock().get_mut(device) {
            device.latest.merge(&before);
            device.known.insert(reader.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atedge_adapters::{Point, Value};

    use super::*;
    use crate::clock::Stamp;
    use crate::payload::ClockState;

    fn capture(device: &str) -> Capture {
        let taken = Stamp { wall_us: 1, mono_us: 1, state: ClockState::Sync };
        let points = vec![Point { name: "t".parse().unwrap(), value: Value::Integer(1), unit: None }];
        let (device, stream) = (device.parse().unwrap(), "process".parse().unwrap());
        Capture { device, stream, taken, own_time_us: None, points, device_id: None, delivery: None }
    }

    #[test]
    fn a_device_is_written_at_most_every_half_minute_and_only_if_it_changed() {
        let (newest, now) = (Newest::default(), Instant::now());
        assert_eq!(newest.next(now), Err(None));
        newest.take(&capture("boiler"), 1);
        assert_eq!(newest.next(now).unwrap().as_str(), "boiler");
        assert_eq!(newest.next(now), Err(None), "it was just written");
        newest.take(&capture("boiler"), 2);
        assert_eq!(newest.next(now), Err(Some(now + EVERY)));
        newest.take(&capture("pump"), 1);
        assert_eq!(newest.next(now).unwrap().as_str(), "pump", "another does not wait for it");
        assert_eq!(newest.next(now + EVERY).unwrap().as_str(), "boiler");
        newest.again(&"boiler".parse().unwrap());
        assert_eq!(
            newest.next(now + EVERY),
            Err(Some(now + EVERY + EVERY)),
            "a failure is no reason to hurry"
        );
    }

    #[test]
    fn strangers_names_fill_no_memory() {
        let newest = Newest::default();
        (0..MOST_DEVICES + 10).for_each(|number| newest.take(&capture(&format!("d{number}")), 1));
        assert_eq!(newest.lock().len(), MOST_DEVICES);
    }
}
