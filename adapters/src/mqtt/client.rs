//! The client role: subscribe at a broker, keep its session, acknowledge what is safe.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Retained;
use super::capture::{Capture, CaptureEnd, Publication};
use super::in_order::Arrived;
use super::link::{self, Incomer, Link, LinkError, LinkEvent, LinkOptions, Requests};
use super::route::Routes;
use super::settling::SettledByPing;
use super::topic::is_topic_name;
use crate::backoff::Backoff;
use crate::{AdapterError, Captured, Command, CommandError, Intake, Order};

/// How long saying good-bye may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// The client of one broker.
pub(super) struct Client {
    name: String,
    /// Its address, as it is shown.
    broker: String,
    options: LinkOptions,
    routes: Arc<Routes>,
    /// The largest payload that is published, in bytes.
    max: usize,
}

/// Why a connection is over that was not to end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Capture(#[from] CaptureEnd),
}

impl Client {
    pub(super) fn new(name: String, options: LinkOptions, routes: Arc<Routes>, max: usize) -> Self {
        let broker = format!("{}:{}", options.host, options.port);
        Self { name, broker, options, routes, max }
    }

    pub(super) async fn run(
        self,
        intake: Intake,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<(), AdapterError> {
        let mut lasting = Lasting::default();
        loop {
            let opened = select! {
                opened = link::open(&self.options) => opened,
                () = stop.cancelled() => return Ok(()),
            };
            let failure = match opened {
                Ok((link, requests)) => {
                    let mut connection = Connection::new(&self, requests, intake.clone(), &mut lasting);
                    let failure = match connection.run(link, &mut commands, &stop).await {
                        Ok(()) | Err(Failure::Capture(CaptureEnd::IntakeClosed)) => return Ok(()),
                        Err(failure) => failure,
                    };
                    connection.interrupted();
                    failure
                }
                Err(error) => error.into(),
            };
            let (broker, pause) = (&self.broker, lasting.backoff.next());
            warn!(adapter = self.name, broker, cause = %failure, ?pause, "no connection to the broker");
            Captured::Unreached { why: format!("{broker}: {failure}") }.tell(&mut lasting.left);
            let mut pause = pin!(sleep(pause));
            loop {
                select! {
                    () = &mut pause => break,
                    Some(command) = commands.recv() => command.finish(Err(self.not_connected())),
                    () = stop.cancelled() => return Ok(()),
                }
            }
        }
    }

    fn not_connected(&self) -> CommandError {
        CommandError::NotConnected { peer: self.broker.clone() }
    }
}

/// What outlives a connection.
#[derive(Default)]
struct Lasting {
    backoff: Backoff,
    /// Whether the broker has confirmed our subscriptions since this process began.
    subscribed: bool,
    settling: SettledByPing,
    /// What the last connection had not handed on.
    left: VecDeque<Captured>,
}

/// Who waits for the end of a command.
type Done = oneshot::Sender<Result<(), CommandError>>;

/// A command on its way. There is one at a time, so that its answer cannot be another's.
enum Publishing {
    Nothing,
    /// Waits for room in the queue of requests.
    Waiting {
        topic: String,
        payload: Vec<u8>,
        done: Done,
    },
    /// Given to the link, with its packet identifier once it has left.
    Sent {
        packet: Option<u16>,
        done: Done,
    },
}

/// One connection from CONNECT to its end.
struct Connection<'c> {
    client: &'c Client,
    lasting: &'c mut Lasting,
    requests: Requests,
    capture: Capture,
    /// Acknowledgements whose turn has come, waiting for room in the queue of requests.
    acknowledge: VecDeque<Arrived>,
    /// The numbers of those that the link has yet to send.
    acknowledging: VecDeque<u64>,
    publishing: Publishing,
    connected: bool,
}

impl<'c> Connection<'c> {
    fn new(client: &'c Client, requests: Requests, intake: Intake, lasting: &'c mut Lasting) -> Self {
        let session = format!("{}/{}", client.name, client.options.client_id).into();
        let limit = client.options.receive_maximum;
        let mut capture = Capture::new(session, client.routes.clone(), intake, limit);
        capture.take_over(std::mem::take(&mut lasting.left));
        Self {
            client,
            lasting,
            requests,
            capture,
            acknowledge: VecDeque::new(),
            acknowledging: VecDeque::new(),
            publishing: Publishing::Nothing,
            connected: false,
        }
    }

    async fn run(
        &mut self,
        mut link: Link,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            let event = {
                // Kept until it is done: dropping it half-way could lose packets.
                let mut event = pin!(link.next());
                loop {
                    self.pass_on_requests();
                    select! {
                        event = &mut event, if self.capture.has_room() => break Some(event?),
                        step = self.capture.step() => step?,
                        Some(command) = commands.recv(), if matches!(self.publishing, Publishing::Nothing) => {
                            self.begin(command);
                        }
                        () = stop.cancelled() => break None,
                    }
                }
            };
            match event {
                Some(event) => self.on(event),
                None => {
                    self.say_good_bye(link).await;
                    self.capture.drain().await;
                    return Ok(());
                }
            }
        }
    }

    /// The connection is lost: says so to who waits, and keeps what the next one can hand on.
    fn interrupted(&mut self) {
        self.lasting.left = self.capture.leave();
        let peer = self.client.broker.clone();
        match std::mem::replace(&mut self.publishing, Publishing::Nothing) {
            Publishing::Nothing => {}
            Publishing::Waiting { done, .. } => tell(done, Err(CommandError::NotConnected { peer })),
            Publishing::Sent { done, .. } => tell(done, Err(CommandError::Interrupted { peer })),
        }
    }

    fn pass_on_requests(&mut self) {
        self.acknowledge.extend(std::iter::from_fn(|| self.capture.next_acknowledgement()));
        while let Some(sent) = self.acknowledge.pop_front_if(|arrived| self.requests.ack(arrived.packet)) {
            self.acknowledging.push_back(sent.number);
        }
        self.publishing = match std::mem::replace(&mut self.publishing, Publishing::Nothing) {
            Publishing::Waiting { topic, payload, done } => match self.requests.publish(&topic, &payload) {
                true => Publishing::Sent { packet: None, done },
                false => Publishing::Waiting { topic, payload, done },
            },
            other @ (Publishing::Nothing | Publishing::Sent { .. }) => other,
        };
    }

    fn begin(&mut self, Command { order, done }: Command) {
        match self.checked(order) {
            Ok((topic, payload)) => self.publishing = Publishing::Waiting { topic, payload, done },
            Err(error) => tell(done, Err(error)),
        }
    }

    fn checked(&self, order: Order) -> Result<(String, Vec<u8>), CommandError> {
        let (topic, payload) = match order {
            Order::Publish { topic, payload } => (topic, payload),
            Order::Send { .. } | Order::Write { .. } => {
                return Err(CommandError::Unsupported { adapter: "mqtt", order: order.kind() });
            }
        };
        if !is_topic_name(&topic) {
            return Err(CommandError::InvalidTopic { topic });
        }
        let max = self.client.max;
        if payload.len() > max {
            return Err(CommandError::TooLarge { bytes: payload.len(), max });
        }
        if self.connected { Ok((topic, payload)) } else { Err(self.client.not_connected()) }
    }

    fn on(&mut self, event: LinkEvent) {
        let (adapter, broker) = (&self.client.name, &self.client.broker);
        match event {
            LinkEvent::Connected { session_present } => {
                info!(adapter, broker, session_present, "connected");
                self.connected = true;
                self.capture.reached();
                if session_present {
                    self.lasting.settling.reconnected();
                } else {
                    self.lasting.settling = SettledByPing::default();
                    self.capture.session_lost();
                }
                if !session_present || !self.lasting.subscribed {
                    self.requests.subscribe(self.client.routes.filters(), &self.client.options);
                }
            }
            LinkEvent::Subscribed { refused: 0 } => self.lasting.subscribed = true,
            LinkEvent::Subscribed { refused } => {
                warn!(adapter, broker, refused, "the broker refused subscriptions; look at its access rules");
            }
            LinkEvent::Published(message) => self.take(&message),
            LinkEvent::AckSent => {
                let number = self.acknowledging.pop_front();
                number.into_iter().for_each(|number| self.lasting.settling.acknowledged(number));
                self.lasting.backoff.reset();
            }
            LinkEvent::PingSent => self.lasting.settling.pinged(),
            LinkEvent::PingAnswered => {
                self.lasting.backoff.reset();
                self.lasting.settling.answered().into_iter().for_each(|upto| self.capture.settled(upto));
            }
            LinkEvent::PublishSent { packet } => {
                if let Publishing::Sent { packet: sent, .. } = &mut self.publishing {
                    *sent = Some(packet);
                }
            }
            LinkEvent::PublishAnswered { packet, refused } => self.answered(packet, refused),
            LinkEvent::Disconnected | LinkEvent::Other => {}
        }
    }

    fn take(&mut self, message: &Incomer) {
        let Incomer { payload, repeatable, .. } = message;
        let number = if message.retained && self.client.options.retained == Retained::Skip {
            debug!(adapter = self.client.name, "a stored copy is no reading");
            repeatable.map(|(packet, _)| self.capture.skipped(packet))
        } else {
            // rumqttc leaves MQTT 5 topics unchecked; MQTT wants UTF-8, so anything else has no route.
            let topic = String::from_utf8_lossy(&message.topic);
            self.capture.published(&Publication { topic: &topic, payload, repeatable: *repeatable })
        };
        if let (Some(number), Some((_, dup))) = (number, *repeatable) {
            self.lasting.settling.arrived(number, dup);
        }
    }

    fn answered(&mut self, packet: u16, refused: Option<String>) {
        self.publishing = match std::mem::replace(&mut self.publishing, Publishing::Nothing) {
            Publishing::Sent { packet: Some(sent), done } if sent == packet => {
                let peer = self.client.broker.clone();
                tell(done, refused.map_or(Ok(()), |reason| Err(CommandError::Refused { peer, reason })));
                Publishing::Nothing
            }
            other @ (Publishing::Nothing | Publishing::Waiting { .. } | Publishing::Sent { .. }) => other,
        };
    }

    /// Sends what may be acknowledged and a DISCONNECT, if the broker takes it in time.
    async fn say_good_bye(&mut self, mut link: Link) {
        if !self.connected {
            return;
        }
        let good_bye = async {
            let mut said = false;
            loop {
                self.pass_on_requests();
                said = said || (self.acknowledge.is_empty() && self.requests.disconnect());
                match link.next().await {
                    Ok(LinkEvent::Disconnected) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        if timeout(GOOD_BYE, good_bye).await.is_err() {
            debug!(adapter = self.client.name, "the broker did not hear our good-bye");
        }
    }
}

/// Whoever no longer waits is not an error.
fn tell(done: Done, outcome: Result<(), CommandError>) {
    done.send(outcome).ok();
}
