//! From the adapters into the outbox: each reading is acknowledged after its COMMIT.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use atedge_adapters::{Ack, Captured, StreamName};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::normalise::normalise;
use crate::outbox::{Appended, Appending, Capture, Outbox};

/// Readings on their way into the outbox. Beyond them the adapters wait, and with them their devices.
const ON_THE_WAY: usize = 256;
/// Pause before what could not be stored is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How many came in, for the log at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Became records.
    pub kept: u64,
    /// Came again and were known.
    pub repeated: u64,
    /// Could not be kept.
    pub refused: u64,
    /// Were not to be reported.
    pub suppressed: u64,
}

/// What the adapters' captures go through.
pub struct Intake<C> {
    /// Where they end up.
    pub outbox: Outbox,
    /// What time it is.
    pub clock: Arc<C>,
    /// The streams that are configured.
    pub streams: Vec<StreamName>,
}

/// A reading on its way.
struct Waiting {
    capture: Arc<Capture>,
    ack: Ack,
    appending: Option<Appending>,
}

impl<C: Clock> Intake<C> {
    /// Takes captures until all adapters have ended and everything is stored.
    ///
    /// Readings keep their order, in the outbox and in their acknowledgements. What the outbox cannot store
    /// (the disk is full, say) is tried again and holds up what comes after it.
    pub async fn run(self, mut captured: mpsc::Receiver<Captured>) -> Tally {
        let mut tally = Tally::default();
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut open = true;
        while open || !waiting.is_empty() {
            tokio::select! {
                next = captured.recv(), if open && waiting.len() < ON_THE_WAY => match next {
                    Some(captured) => self.take(captured, &mut waiting, &mut tally).await,
                    None => open = false,
                },
                () = self.store_first(&mut waiting, &mut tally), if !waiting.is_empty() => {}
            }
            if self.outbox.failed().is_cancelled() {
                // Dropped unacknowledged: the devices still have them.
                break;
            }
        }
        info!(
            kept = tally.kept,
            repeated = tally.repeated,
            refused = tally.refused,
            suppressed = tally.suppressed,
            "the intake has ended"
        );
        tally
    }

    async fn take(&self, captured: Captured, waiting: &mut VecDeque<Waiting>, tally: &mut Tally) {
        match captured {
            Captured::Reading { reading, ack } => {
                let configured = |stream: &StreamName| self.streams.contains(stream);
                match normalise(reading, self.clock.now(), configured) {
                    Ok(capture) => {
                        let capture = Arc::new(capture);
                        let appending = self.outbox.submit(Arc::clone(&capture)).await.ok();
                        waiting.push_back(Waiting { capture, ack, appending });
                    }
                    Err(why) => {
                        warn!(%why, "refused a reading");
                        tally.refused += 1;
                        ack.accept();
                    }
                }
            }
            Captured::Settled { session, packets } => {
                // Should it not be stored, a delivery is remembered for longer than need be.
                self.outbox.settle(session, packets).await.ok();
            }
            Captured::SessionLost { session } => {
                self.outbox.forget_session(session).await.ok();
            }
            Captured::Suppressed { device } => {
                debug!(%device, "nothing new");
                tally.suppressed += 1;
            }
            Captured::Refused { device, why } => {
                let device = device.as_ref().map_or("", |device| device.as_str());
                warn!(device, kind = why.kind(), %why, "refused a reading");
                tally.refused += 1;
            }
        }
    }

    /// Waits for the COMMIT of the first that waits, and acknowledges it. Cancel-safe: what was learnt is
    /// kept in `waiting`.
    async fn store_first(&self, waiting: &mut VecDeque<Waiting>, tally: &mut Tally) {
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
                let Some(Waiting { ack, .. }) = waiting.pop_front() else { return };
                match appended {
                    Appended::New { lane, seq } => {
                        debug!(%lane, seq, "kept");
                        tally.kept += 1;
                    }
                    Appended::Repeated => tally.repeated += 1,
                }
                ack.accept();
            }
            Err(_) => first.appending = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc as std_mpsc;

    use atedge_adapters::{Point, Reading, Value, Verdict};

    use super::*;
    use crate::clock::Stamp;
    use crate::outbox::{Durability, Opened, OutboxOptions, StreamPolicy};
    use crate::payload::ClockState;

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Stamp {
            Stamp { wall_us: 1_800_000_000_000_000, mono_us: 0, state: ClockState::Sync }
        }
    }

    fn open(folder: &std::path::Path, max_bytes: u64) -> Opened {
        let readers = ["@ops".parse().unwrap()].into();
        let policy = StreamPolicy { readers, ttl: Duration::from_secs(3600), receipts: false };
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
        let streams = vec!["process".parse().unwrap()];
        let intake = Intake { outbox: outbox.clone(), clock: Arc::new(Noon), streams };
        let tally = intake.run(captures).await;
        assert_eq!(tally, Tally { kept: 495, repeated: 0, refused: 5, suppressed: 0 });
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
        let intake = Intake {
            outbox: outbox.clone(),
            clock: Arc::new(Noon),
            streams: vec!["process".parse().unwrap()],
        };
        let running = tokio::spawn(intake.run(captures));
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
