//! From an adapter into the outbox: each reading is acknowledged after its COMMIT.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use atedge_adapters::{Ack, Captured, DeviceName, StreamName};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::failpoint::Failpoint;
use crate::latest::Newest;
use crate::normalise::normalise;
use crate::outbox::{Appended, Appending, Capture, Outbox};
use crate::tally::Tally;
use crate::tap::Taps;
use crate::uplink::SendRules;

/// Readings of one adapter on their way into the outbox: what one commit takes and as many that gather meanwhile.
/// Beyond them it waits, and with it its devices.
const ON_THE_WAY: usize = 512;
/// Pause before what could not be stored is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What one adapter's captures go through.
pub struct Intake<C> {
    /// Where they end up.
    pub outbox: Outbox,
    /// What time it is.
    pub clock: Arc<C>,
    /// Which streams are configured.
    pub rules: watch::Receiver<SendRules>,
    /// Where they are counted.
    pub tally: Arc<Tally>,
    /// The adapter's name.
    pub adapter: String,
    /// Where they are shown.
    pub taps: Taps,
    /// Where the newest of some are kept.
    pub newest: Newest,
}

/// A reading on its way.
struct Waiting {
    capture: Arc<Capture>,
    /// Told when it is stored; none where that was not waited for.
    ack: Option<Ack>,
    appending: Option<Appending>,
}

impl<C: Clock> Intake<C> {
    /// Takes captures until the adapter has ended and everything is stored.
    ///
    /// Readings keep their order, in the outbox and in their acknowledgements. What the outbox cannot store
    /// (the disk is full, say) is tried again and holds up what comes after it.
    pub async fn run(self, mut captured: mpsc::Receiver<Captured>) {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut open = true;
        while open || !waiting.is_empty() {
            tokio::select! {
                next = captured.recv(), if open && waiting.len() < ON_THE_WAY => match next {
                    Some(captured) => self.take(captured, &mut waiting).await,
                    None => open = false,
                },
                () = self.store_first(&mut waiting), if !waiting.is_empty() => {}
            }
            if self.outbox.failed().is_cancelled() {
                // Dropped unacknowledged: the devices still have them.
                break;
            }
        }
    }

    async fn take(&self, captured: Captured, waiting: &mut VecDeque<Waiting>) {
        match captured {
            Captured::Reading { reading, ack } => {
                let configured = |stream: &StreamName| self.rules.borrow().streams.contains_key(stream);
                match normalise(reading, self.clock.now(), configured) {
                    Ok(capture) => {
                        self.taps.reading(&self.adapter, &capture);
                        let is_sample = self.rules.borrow().samples.contains(&capture.stream);
                        let ack = if is_sample {
                            ack.accept();
                            None
                        } else {
                            Some(ack)
                        };
                        let capture = Arc::new(capture);
                        Failpoint::Captured.pass();
                        let appending = self.outbox.submit(Arc::clone(&capture)).await.ok();
                        Failpoint::Submitted.pass();
                        waiting.push_back(Waiting { capture, ack, appending });
                    }
                    Err(why) => {
                        warn!(%why, "refused a reading");
                        self.refused(None, "unfit", why.to_string());
                        ack.accept();
                    }
                }
            }
            Captured::Settled { session, upto } => {
                // Should it not be stored, a delivery is remembered for longer than need be.
                Failpoint::SettleBefore.pass();
                self.outbox.settle(session, upto).await.ok();
                Failpoint::SettleAfter.pass();
            }
            Captured::SessionLost { session } => {
                self.outbox.forget_session(session).await.ok();
            }
            Captured::Reached => self.tally.reached(),
            Captured::Unreached { why } => self.tally.unreached(self.clock.now().wall_ms(), why),
            Captured::Suppressed { device } => {
                debug!(%device, "nothing new");
                self.tally.suppressed();
            }
            Captured::Refused { device, why } => {
                let name = device.as_ref().map_or("", |device| device.as_str());
                warn!(device = name, kind = why.kind(), %why, "refused a reading");
                self.refused(device.as_ref(), why.kind(), why.to_string());
            }
        }
    }

    fn refused(&self, device: Option<&DeviceName>, kind: &'static str, why: String) {
        let now_ms = self.clock.now().wall_ms();
        self.taps.refused(&self.adapter, device, now_ms, &why);
        self.tally.refused(now_ms, kind, why);
    }

    /// Waits for the COMMIT of the first that waits, and acknowledges it. Cancel-safe: what was learnt is
    /// kept in `waiting`.
    async fn store_first(&self, waiting: &mut VecDeque<Waiting>) {
        let Some(first) = waiting.front_mut() else { return };
        let stored = match &mut first.appending {
            Some(appending) => appending.await,
            None => {
                sleep(RETRY).await;
                first.appending = self.outbox.submit(Arc::clone(&first.capture)).await.ok();
                return;
            }
        };
        match stored {
            Ok(appended) => {
                let Some(Waiting { ack, capture, .. }) = waiting.pop_front() else { return };
                match appended {
                    Appended::New { lane, seq } => {
                        debug!(%lane, seq, "kept");
                        if self.rules.borrow().latest.contains_key(&capture.stream) {
                            self.newest.take(&capture, seq);
                        }
                        self.tally.kept(capture.taken.wall_ms());
                    }
                    Appended::Repeated => self.tally.repeated(),
                    Appended::Dropped => self.tally.dropped(),
                }
                if let Some(ack) = ack {
                    Failpoint::AckBefore.pass();
                    ack.accept();
                    Failpoint::AckAfter.pass();
                }
            }
            Err(_) => first.appending = None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc as std_mpsc;

    use atedge_adapters::{Point, Reading, Value, Verdict};

    use super::*;
    use crate::clock::Stamp;
    use crate::outbox::{BatchLimit, Durability, Opened, OutboxOptions, Priority, StreamPolicy};
    use crate::payload::ClockState;
    use crate::tally::Counts;
    use crate::uplink::FlowRules;

    pub(crate) struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Stamp {
            Stamp { wall_us: 1_800_000_000_000_000, mono_us: 0, state: ClockState::Sync }
        }
    }

    fn open(folder: &std::path::Path, max_bytes: u64) -> Opened {
        let readers = ["@ops".parse().unwrap()].into();
        let policy = StreamPolicy { readers, ..StreamPolicy::default() };
        let streams = BTreeMap::from([("process".parse().unwrap(), policy)]);
        let options = OutboxOptions::new(folder, streams);
        Outbox::open(OutboxOptions { max_bytes, durability: Durability::None, ..options }, Noon.now())
            .unwrap()
    }

    fn captured(device: &str, ack: Ack) -> Captured {
        let points = vec![Point { name: "t".parse().unwrap(), value: Value::Integer(1), unit: None }];
        let reading = Reading {
            device: device.parse().unwrap(),
            stream: "process".parse().unwrap(),
            points,
            time: None,
            device_id: None,
            delivery: None,
        };
        Captured::Reading { reading, ack }
    }

    /// The stream `process` is configured.
    pub(crate) fn rules() -> watch::Receiver<SendRules> {
        let limit = BatchLimit { records: 1, bytes: 1 };
        let rules = FlowRules {
            limit,
            linger: Duration::ZERO,
            receipts: false,
            aead: false,
            ttln: Duration::ZERO,
            priority: Priority::default(),
        };
        let streams = BTreeMap::from([("process".parse().unwrap(), (Vec::new(), Arc::new(rules)))]);
        watch::channel(SendRules { streams, ..SendRules::default() }).1
    }

    fn intake(outbox: &Outbox) -> Intake<Noon> {
        let rules = rules();
        let (tally, taps, newest) = (Arc::default(), Taps::default(), Newest::default());
        Intake {
            outbox: outbox.clone(),
            clock: Arc::new(Noon),
            rules,
            tally,
            adapter: "shop".into(),
            taps,
            newest,
        }
    }

    #[tokio::test]
    async fn a_reading_is_acknowledged_in_order_and_when_it_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let Opened { outbox, .. } = open(folder.path(), 1 << 30);
        let (put, captures) = mpsc::channel(1000);
        let (tell, told) = std_mpsc::channel();
        for number in 0..500 {
            // A name that is reserved is refused, and acknowledged all the same.
            let device = if number % 100 == 0 { "tel" } else { "boiler" };
            let tell = tell.clone();
            let ack = Ack::new(move |verdict| tell.send((number, verdict)).unwrap());
            put.send(captured(device, ack)).await.unwrap();
        }
        drop((put, tell));
        let intake = intake(&outbox);
        let tally = Arc::clone(&intake.tally);
        intake.run(captures).await;
        assert_eq!(tally.counts(), Counts { kept: 495, refused: 5, ..Counts::default() });
        let told: Vec<_> = told.iter().filter(|(number, _)| number % 100 != 0).collect();
        assert!(told.iter().all(|(_, verdict)| *verdict == Verdict::Accepted));
        assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "in the order of arrival");
        assert_eq!(outbox.stat().await.unwrap().records, 495);
    }

    #[tokio::test]
    async fn a_full_outbox_acknowledges_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let Opened { outbox, .. } = open(folder.path(), 0);
        let (put, captures) = mpsc::channel(10);
        let (tell, told) = std_mpsc::channel();
        put.send(captured("boiler", Ack::new(move |verdict| tell.send(verdict).unwrap()))).await.unwrap();
        let running = tokio::spawn(intake(&outbox).run(captures));
        // The thread has seen the append, which came before, when it answers a third time.
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert_eq!(outbox.stat().await.unwrap().records, 0);
        }
        running.abort();
        assert!(running.await.is_err());
        assert_eq!(told.iter().collect::<Vec<_>>(), [Verdict::Abandoned]);
    }
}
