//! The listen role: devices publish straight to us, with no broker between. MQTT 3.1.1 and 5, QoS 0
//! and 1.
//!
//! Messages go between the gateway and the devices, not from one device to another: what devices
//! publish becomes readings, and what they have subscribed to is commands. A will is taken and never
//! published, and nothing is retained.

mod device;
mod quota;
mod sessions;
mod wire;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::device::{Shared, serve};
pub(super) use self::quota::Rates;
use self::sessions::Sessions;
use super::route::Routes;
use super::topic::is_topic_name;
use crate::{AdapterError, Captured, Command, CommandError, Intake, Order, Refusal};

/// How long to wait after a connection could not be taken, for example for want of descriptors.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// What bounds a listener's use of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The largest payload, in bytes.
    pub(super) max: usize,
    /// Unacknowledged publications of one device.
    pub(super) receive_maximum: u16,
    /// Devices connected at once.
    pub(super) connections: usize,
    /// Those of one network address.
    pub(super) connections_from_one: Option<usize>,
    /// What each may say.
    pub(super) rates: Rates,
}

impl Limits {
    /// Why one more connection from `address` is not taken.
    fn refusal(&self, address: IpAddr, places: &HashMap<task::Id, IpAddr>) -> Option<Refusal> {
        let refusal = |max, from_there| Some(Refusal::TooManyConnections { address, max, from_there });
        if places.len() >= self.connections {
            return refusal(self.connections, false);
        }
        let from_there = places.values().filter(|place| **place == address).count();
        self.connections_from_one.filter(|max| from_there >= *max).and_then(|max| refusal(max, true))
    }
}

/// A message on its way to one device.
#[derive(Debug)]
struct Outgoing {
    topic: Arc<str>,
    payload: Arc<[u8]>,
    qos: u8,
    done: oneshot::Sender<Result<(), CommandError>>,
}

/// Listens for devices.
pub(super) struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub(super) fn new(
        adapter: String,
        address: SocketAddr,
        limits: Limits,
        routes: Arc<Routes>,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let sessions = Mutex::new(Sessions::new(limits.connections));
        Self { address, shared: Arc::new(Shared { adapter, limits, routes, sessions }), tls }
    }

    pub(super) async fn run(
        self,
        intake: Intake,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<(), AdapterError> {
        let Self { address, shared, tls } = self;
        let adapter = shared.adapter.as_str();
        let listener = TcpListener::bind(address).await.map_err(|cause| AdapterError::Listen {
            adapter: adapter.to_owned(),
            address,
            cause,
        })?;
        info!(adapter, %address, "listening for devices");
        // Whoever no longer takes captures is found out by the next reading.
        intake.send(Captured::Reached).await.ok();
        let mut devices = JoinSet::new();
        // Where each connection comes from.
        let mut places: HashMap<task::Id, IpAddr> = HashMap::new();
        let mut deliveries = JoinSet::new();
        loop {
            select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => match shared.limits.refusal(peer.ip(), &places) {
                        Some(why) => {
                            warn!(adapter, %peer, %why, "turned away");
                            // Where there is no room to count it, the log has it.
                            intake.try_send(Captured::Refused { device: None, why }).ok();
                        }
                        None => {
                            // Without it, acknowledgements wait for more to send. Where it fails, they do.
                            stream.set_nodelay(true).ok();
                            let serving = serve(stream, tls.clone(), shared.clone(), intake.clone(), stop.clone());
                            places.insert(devices.spawn(serving).id(), peer.ip());
                        }
                    },
                    Err(cause) => {
                        warn!(adapter, %cause, "a connection could not be taken");
                        sleep(AFTER_ERROR).await;
                    }
                },
                Some(command) = commands.recv() => {
                    deliveries.spawn(deliver(shared.clone(), command));
                }
                Some(ended) = devices.join_next_with_id(), if !devices.is_empty() => {
                    let id = ended.as_ref().map_or_else(|failed| failed.id(), |(id, ())| *id);
                    places.remove(&id);
                    if let Err(cause) = ended {
                        error!(adapter, %cause, "serving a device failed; please report this");
                    }
                }
                Some(_) = deliveries.join_next(), if !deliveries.is_empty() => {}
                () = stop.cancelled() => break,
            }
        }
        while devices.join_next().await.is_some() {}
        while deliveries.join_next().await.is_some() {}
        Ok(())
    }
}

async fn deliver(shared: Arc<Shared>, command: Command) {
    let outcome = publish(&shared, &command.order).await;
    command.finish(outcome);
}

/// Publishes to every connected device that has subscribed, and waits until all have answered.
async fn publish(shared: &Shared, order: &Order) -> Result<(), CommandError> {
    let (topic, payload) = match order {
        Order::Publish { topic, payload } => (topic, payload),
        Order::Send { .. } | Order::Write { .. } => {
            return Err(CommandError::Unsupported { adapter: "mqtt", order: order.kind() });
        }
    };
    if !is_topic_name(topic) {
        return Err(CommandError::InvalidTopic { topic: topic.clone() });
    }
    let max = shared.limits.max;
    if payload.len() > max {
        return Err(CommandError::TooLarge { bytes: payload.len(), max });
    }
    let subscribers = shared.sessions().subscribers(topic);
    if subscribers.is_empty() {
        return Err(CommandError::NobodySubscribed { topic: topic.clone() });
    }
    let topic: Arc<str> = topic.as_str().into();
    let payload: Arc<[u8]> = payload.as_slice().into();
    let mut answers = Vec::new();
    for (device, link, qos) in subscribers {
        let (done, answer) = oneshot::channel();
        let sent =
            link.orders.try_send(Outgoing { topic: topic.clone(), payload: payload.clone(), qos, done });
        answers.push((device, answer, sent.is_ok()));
    }
    let mut outcome = Ok(());
    for (device, answer, sent) in answers {
        let answer = match sent {
            true => answer.await.unwrap_or(Err(CommandError::Interrupted { peer: device })),
            false => Err(CommandError::Busy { device }),
        };
        outcome = outcome.and(answer);
    }
    outcome
}
