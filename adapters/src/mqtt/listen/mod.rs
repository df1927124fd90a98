//! The listen role: devices publish straight to us, with no broker between. MQTT 3.1.1 and 5, QoS 0
//! and 1.
//!
//! Messages go between the gateway and the devices, not from one device to another: what devices
//! publish becomes readings, and what they have subscribed to is commands. A will is taken and never
//! published, and nothing is retained.

mod device;
mod sessions;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::device::{Shared, serve};
use self::sessions::Sessions;
use super::route::Routes;
use super::topic::is_topic_name;
use crate::{AdapterError, Captured, Command, CommandError, Intake, Order};

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
}

impl Listener {
    pub(super) fn new(adapter: String, address: SocketAddr, limits: Limits, routes: Arc<Routes>) -> Self {
        let sessions = Mutex::new(Sessions::new(limits.connections));
        Self { address, shared: Arc::new(Shared { adapter, limits, routes, sessions }) }
    }

    pub(super) async fn run(
        self,
        intake: Intake,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<(), AdapterError> {
        let Self { address, shared } = self;
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
        let mut deliveries = JoinSet::new();
        loop {
            select! {
                accepted = listener.accept() => match accepted {
                    Ok((_, peer)) if devices.len() >= shared.limits.connections => {
                        let limit = shared.limits.connections;
                        warn!(adapter, %peer, limit, "too many devices; one was turned away");
                    }
                    Ok((stream, _)) => {
                        // Without it, acknowledgements wait for more to send. Where it fails, they do.
                        stream.set_nodelay(true).ok();
                        devices.spawn(serve(stream, shared.clone(), intake.clone(), stop.clone()));
                    }
                    Err(cause) => {
                        warn!(adapter, %cause, "a connection could not be taken");
                        sleep(AFTER_ERROR).await;
                    }
                },
                Some(command) = commands.recv() => {
                    deliveries.spawn(deliver(shared.clone(), command));
                }
                Some(ended) = devices.join_next(), if !devices.is_empty() => {
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
