//! The way of publications from one connection to the gateway, and of acknowledgements back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::in_order::{Arrived, InOrder, Place};
use super::route::Routes;
use crate::{Ack, Captured, Delivery, DeviceName, Intake, Reading, Refusal, Verdict};

/// How long what was read may take to reach the intake when the connection is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A publication as it came over the wire.
pub(super) struct Publication<'p> {
    pub(super) topic: &'p str,
    pub(super) payload: &'p [u8],
    /// Packet identifier and DUP flag of QoS 1; nothing for QoS 0.
    pub(super) repeatable: Option<(u16, bool)>,
}

/// Why the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CaptureEnd {
    /// An acknowledgement was abandoned. Those behind it may not overtake it, so the connection
    /// begins again and everything unacknowledged is repeated.
    #[error("a reading could not be kept; connecting again so that it is repeated")]
    Abandoned,
    /// Nobody receives readings any more.
    #[error("the gateway takes no more readings")]
    IntakeClosed,
}

/// What one connection has captured and not yet acknowledged.
pub(super) struct Capture {
    session: Arc<str>,
    routes: Arc<Routes>,
    intake: Intake,
    /// What waits for room in the intake. The connection stops reading at `limit`.
    waiting: VecDeque<Captured>,
    order: InOrder,
    limit: usize,
    /// Unbounded, yet never longer than `order`: each delivery gets one verdict.
    tell: mpsc::UnboundedSender<(Place, Verdict)>,
    told: mpsc::UnboundedReceiver<(Place, Verdict)>,
}

impl Capture {
    /// A connection stops reading while `limit` captures wait for the intake.
    pub(super) fn new(session: Arc<str>, routes: Arc<Routes>, intake: Intake, limit: u16) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            session,
            routes,
            intake,
            waiting: VecDeque::new(),
            order: InOrder::default(),
            limit: limit.into(),
            tell,
            told,
        }
    }

    /// Takes a publication. What is refused is acknowledged in its turn as well. Gives its number, where it is
    /// repeatable.
    pub(super) fn published(&mut self, publication: &Publication<'_>) -> Option<u64> {
        let read = self.routes.read(publication.topic, publication.payload);
        self.arrived(publication, read)
    }

    /// Refuses a publication, whatever it says. Gives its number, likewise.
    pub(super) fn refused(&mut self, publication: &Publication<'_>, why: Refusal) -> Option<u64> {
        self.arrived(publication, Err((None, why)))
    }

    fn arrived(
        &mut self,
        publication: &Publication<'_>,
        read: Result<Reading, (Option<DeviceName>, Refusal)>,
    ) -> Option<u64> {
        let Publication { topic, payload, repeatable } = *publication;
        let arrived =
            repeatable.map(|(packet, dup)| (Arrived { packet, number: Delivery::next_number() }, dup));
        let place = arrived.map(|(arrived, _)| self.order.arrived(arrived));
        let captured = match read {
            Ok(mut reading) => {
                reading.delivery = arrived.map(|(Arrived { packet, number }, dup)| Delivery {
                    session: Arc::clone(&self.session),
                    number,
                    packet,
                    dup,
                    digest: Delivery::digest(topic, payload),
                });
                Captured::Reading { reading, ack: self.ack(place) }
            }
            Err((device, why)) => {
                if let Some(place) = place {
                    self.order.accepted(place);
                }
                Captured::Refused { device, why }
            }
        };
        self.waiting.push_back(captured);
        arrived.map(|(Arrived { number, .. }, _)| number)
    }

    /// A delivery that is nothing to anybody: it is only acknowledged, in its turn. Gives its number.
    pub(super) fn skipped(&mut self, packet: u16) -> u64 {
        let number = Delivery::next_number();
        let place = self.order.arrived(Arrived { packet, number });
        self.order.accepted(place);
        number
    }

    fn ack(&self, place: Option<Place>) -> Ack {
        let Some(place) = place else { return Ack::nobody_waits() };
        let tell = self.tell.clone();
        // The connection may be gone by then; the sender repeats in the next one.
        Ack::new(move |verdict| _ = tell.send((place, verdict)))
    }

    /// The broker is reached.
    pub(super) fn reached(&mut self) {
        Captured::Reached.tell(&mut self.waiting);
    }

    /// The session began anew.
    pub(super) fn session_lost(&mut self) {
        self.waiting.push_back(Captured::SessionLost { session: self.session.clone() });
    }

    /// The other side has processed the acknowledgements of all up to this number.
    pub(super) fn settled(&mut self, upto: u64) {
        self.waiting.push_back(Captured::Settled { session: Arc::clone(&self.session), upto });
    }

    /// Whether more may be put into the queue before the intake.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.limit
    }

    /// How many deliveries are not yet acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.order.len()
    }

    /// The next to acknowledge, if its turn has come.
    pub(super) fn next_acknowledgement(&mut self) -> Option<Arrived> {
        self.order.next()
    }

    /// Takes over what the session's last connection had not handed on.
    pub(super) fn take_over(&mut self, left: VecDeque<Captured>) {
        self.waiting = left;
    }

    /// What the connection leaves behind for the session's next one: all that nobody repeats.
    pub(super) fn leave(&mut self) -> VecDeque<Captured> {
        let mut left = std::mem::take(&mut self.waiting);
        left.retain(|captured| match captured {
            Captured::Reading { reading, .. } => reading.delivery.is_none(),
            Captured::Settled { .. }
            | Captured::SessionLost { .. }
            | Captured::Reached
            | Captured::Unreached { .. }
            | Captured::Suppressed { .. }
            | Captured::Refused { .. } => true,
        });
        left
    }

    /// Hands on what waits, when the connection is over. What is repeatable may be repeated, and is
    /// then known again.
    pub(super) async fn drain(&mut self) {
        let drain = async {
            while let Some(captured) = self.waiting.pop_front() {
                if self.intake.send(captured).await.is_err() {
                    break;
                }
            }
        };
        if timeout(LAST_WORDS, drain).await.is_err() {
            warn!(session = &*self.session, "the gateway did not take the last readings");
        }
    }

    /// Moves on by one step: verdicts arrive, or the intake takes some. Cancel-safe.
    pub(super) async fn step(&mut self) -> Result<(), CaptureEnd> {
        select! {
            Some(first) = self.told.recv() => {
                // Those of one commit come together, and are acknowledged in one write.
                let mut next = Some(first);
                while let Some((place, verdict)) = next {
                    match verdict {
                        Verdict::Accepted => self.order.accepted(place),
                        Verdict::Abandoned => return Err(CaptureEnd::Abandoned),
                    }
                    next = self.told.try_recv().ok();
                }
            }
            permit = self.intake.reserve(), if !self.waiting.is_empty() => {
                let mut permit = permit.map_err(|_| CaptureEnd::IntakeClosed)?;
                // As many as there is room for, at once.
                while let Some(captured) = self.waiting.pop_front() {
                    permit.send(captured);
                    let Ok(next) = self.intake.try_reserve() else { break };
                    permit = next;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::Route;

    fn capture(room: usize) -> (Capture, mpsc::Receiver<Captured>) {
        let route: Route = toml::from_str(
            "topic = \"{dev}\"\ndevice = \"{dev}\"\nstream = \"s\"\ndecode = { as = \"text\" }",
        )
        .unwrap();
        let (intake, taken) = mpsc::channel(room);
        let routes = Arc::new(Routes::new([route], 100));
        (Capture::new("a/c".into(), routes, intake, 10), taken)
    }

    fn publish(capture: &mut Capture, topic: &str, repeatable: Option<(u16, bool)>) {
        capture.published(&Publication { topic, payload: b"1", repeatable });
    }

    #[tokio::test]
    async fn an_acknowledgement_waits_for_the_verdict() {
        let (mut capture, mut taken) = capture(10);
        publish(&mut capture, "one", Some((5, true)));
        capture.step().await.unwrap();
        let Some(Captured::Reading { reading, ack }) = taken.recv().await else { panic!("no reading") };
        let delivery = reading.delivery.unwrap();
        assert_eq!((&*delivery.session, delivery.packet, delivery.dup), ("a/c", 5, true));
        assert_eq!(capture.next_acknowledgement(), None);
        ack.accept();
        capture.step().await.unwrap();
        assert_eq!(capture.next_acknowledgement().map(|arrived| arrived.packet), Some(5));
    }

    #[tokio::test]
    async fn what_is_refused_is_counted_and_acknowledged() {
        let (mut capture, mut taken) = capture(10);
        publish(&mut capture, "No Name", Some((5, false)));
        assert_eq!(capture.next_acknowledgement().map(|arrived| arrived.packet), Some(5));
        capture.step().await.unwrap();
        assert!(matches!(taken.recv().await, Some(Captured::Refused { device: None, .. })));
    }

    #[tokio::test]
    async fn an_abandoned_reading_ends_the_connection() {
        let (mut capture, mut taken) = capture(10);
        publish(&mut capture, "one", Some((5, false)));
        capture.step().await.unwrap();
        drop(taken.recv().await);
        assert_eq!(capture.step().await, Err(CaptureEnd::Abandoned));
    }

    #[tokio::test]
    async fn a_full_intake_holds_readings_back_in_order() {
        let (mut capture, mut taken) = capture(1);
        for topic in ["one", "two"] {
            publish(&mut capture, topic, None);
        }
        capture.step().await.unwrap();
        for expected in ["one", "two"] {
            let Some(Captured::Reading { reading, .. }) = taken.recv().await else { panic!("no reading") };
            assert_eq!(reading.device.as_str(), expected);
            if expected == "one" {
                capture.step().await.unwrap();
            }
        }
        drop(taken);
        publish(&mut capture, "three", None);
        assert_eq!(capture.step().await, Err(CaptureEnd::IntakeClosed));
    }
}
