//! One connection to a broker, in either version of MQTT. All of rumqttc is in here.
//!
//! Its event loop keeps messages over a lost connection, drops them when the broker has no session,
//! and can mix up their packet identifiers. We keep readings and commands ourselves, so each
//! connection gets an event loop of its own and nothing of the last one lives on.

use std::io;
use std::time::Duration;

use super::tls::{TlsConfig, Tunnel};
use super::{Retained, Version};
use rumqttc::v5::mqttbytes::v5 as v5_packet;
use rumqttc::{
    AsyncClient, Event as V3Event, EventLoop, Incoming, MqttOptions, NetworkOptions, Outgoing, QoS,
    Transport, v5,
};

/// How many requests wait for the event loop; ours wait in our own queues.
const REQUESTS: usize = 10;
/// Messages of ours that may be under way. We publish one at a time, but rumqttc takes no
/// acknowledgements either while this many are.
const IN_FLIGHT: u16 = 10;
/// A packet larger than this ends the connection, to bound memory. With MQTT 5 the broker is told
/// and drops it instead. 16 MiB is far above any payload that is taken.
const LARGEST_PACKET: u32 = 16 << 20;

/// To whom, as whom and how to connect.
pub(super) struct LinkOptions {
    pub(super) version: Version,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) client_id: String,
    pub(super) login: Option<(String, String)>,
    /// With a broker that speaks TLS.
    pub(super) tls: Option<TlsConfig>,
    /// The group with which subscriptions are shared.
    pub(super) share: Option<String>,
    pub(super) retained: Retained,
    /// Whole seconds, at least 5.
    pub(super) keep_alive: Duration,
    /// How many unacknowledged messages the broker may send (MQTT 5).
    pub(super) receive_maximum: u16,
    /// How long the broker keeps the session (MQTT 5), in seconds.
    pub(super) session_expiry_s: u32,
}

/// What happened on the connection.
pub(super) enum LinkEvent {
    Connected {
        session_present: bool,
    },
    Published(Incomer),
    AckSent,
    PingSent,
    PingAnswered,
    Subscribed {
        refused: usize,
    },
    /// A message of ours left.
    PublishSent {
        packet: u16,
    },
    /// The broker answered a message of ours.
    PublishAnswered {
        packet: u16,
        refused: Option<String>,
    },
    Disconnected,
    /// Nothing that matters to us.
    Other,
}

/// A message from the broker.
pub(super) struct Incomer {
    pub(super) topic: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// Packet identifier and DUP flag of QoS 1.
    pub(super) repeatable: Option<(u16, bool)>,
    /// A stored copy from before the subscription, not something just said.
    pub(super) retained: bool,
}

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Tls(io::Error),
    #[error("{0}")]
    V3(Box<rumqttc::ConnectionError>),
    #[error("{0}")]
    V5(Box<v5::ConnectionError>),
}

/// The receiving side. [`next`](Self::next) is not cancel-safe: finish the future it returned.
pub(super) struct Link {
    events: Events,
    /// What carries it, with TLS.
    _tunnel: Option<Tunnel>,
}

enum Events {
    V3(Box<EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// The sending side. Nothing here waits: `false` means that the queue is full now.
pub(super) enum Requests {
    V3(AsyncClient),
    V5(v5::AsyncClient),
}

/// Prepares a connection; without TLS it is made by the first [`Link::next`].
pub(super) async fn open(options: &LinkOptions) -> Result<(Link, Requests), LinkError> {
    let LinkOptions { host, port, .. } = options;
    let tunnel = match &options.tls {
        Some(tls) => Some(Tunnel::connect(tls, host, *port).await.map_err(LinkError::Tls)?),
        None => None,
    };
    let (host, transport) = match &tunnel {
        Some(tunnel) => (tunnel.socket(), Transport::Unix),
        None => (host.clone(), Transport::Tcp),
    };
    let (events, requests) = begin(options, &host, transport);
    Ok((Link { events, _tunnel: tunnel }, requests))
}

fn begin(options: &LinkOptions, host: &str, transport: Transport) -> (Events, Requests) {
    let LinkOptions { version, port, client_id, login, keep_alive, .. } = options;
    match version {
        Version::V3_1_1 => {
            let mut v3 = MqttOptions::new(client_id, host, *port);
            v3.set_transport(transport);
            v3.set_keep_alive(*keep_alive)
                .set_clean_session(false)
                .set_manual_acks(true)
                .set_inflight(IN_FLIGHT)
                .set_max_packet_size(LARGEST_PACKET as usize, LARGEST_PACKET as usize);
            if let Some((user, password)) = login {
                v3.set_credentials(user, password);
            }
            let (requests, mut link) = AsyncClient::new(v3, REQUESTS);
            link.set_network_options(at_once());
            (Events::V3(Box::new(link)), Requests::V3(requests))
        }
        Version::V5 => {
            let mut v5 = v5::MqttOptions::new(client_id, host, *port);
            v5.set_transport(transport);
            v5.set_keep_alive(*keep_alive)
                .set_clean_start(false)
                .set_session_expiry_interval(Some(options.session_expiry_s))
                .set_receive_maximum(Some(options.receive_maximum))
                .set_max_packet_size(Some(LARGEST_PACKET))
                .set_manual_acks(true)
                .set_outgoing_inflight_upper_limit(IN_FLIGHT)
                .set_network_options(at_once());
            if let Some((user, password)) = login {
                v5.set_credentials(user, password);
            }
            let (requests, link) = v5::AsyncClient::new(v5, REQUESTS);
            (Events::V5(Box::new(link)), Requests::V5(requests))
        }
    }
}

/// An acknowledgement is not held back until there is more to send.
fn at_once() -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options
}

impl Link {
    /// The next thing that happens. After an error the connection is over.
    pub(super) async fn next(&mut self) -> Result<LinkEvent, LinkError> {
        match &mut self.events {
            Events::V3(link) => {
                link.poll().await.map(from_v3).map_err(|error| LinkError::V3(Box::new(error)))
            }
            Events::V5(link) => {
                link.poll().await.map(from_v5).map_err(|error| LinkError::V5(Box::new(error)))
            }
        }
    }
}

impl Requests {
    /// Acknowledges a message of the broker.
    pub(super) fn ack(&self, packet: u16) -> bool {
        match self {
            Self::V3(requests) => {
                let mut publish = rumqttc::Publish::new("", QoS::AtLeastOnce, []);
                publish.pkid = packet;
                requests.try_ack(&publish).is_ok()
            }
            Self::V5(requests) => {
                let mut publish = v5_packet::Publish::new("", v5_qos(), [].as_slice(), None);
                publish.pkid = packet;
                requests.try_ack(&publish).is_ok()
            }
        }
    }

    /// Publishes with QoS 1.
    pub(super) fn publish(&self, topic: &str, payload: &[u8]) -> bool {
        match self {
            Self::V3(requests) => requests.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok(),
            Self::V5(requests) => requests.try_publish(topic, v5_qos(), false, payload.to_vec()).is_ok(),
        }
    }

    /// Subscribes with QoS 1, as the options say. MQTT 5 brokers are asked to leave out stored copies that are
    /// not wanted.
    pub(super) fn subscribe(&self, filters: Vec<String>, options: &LinkOptions) -> bool {
        let shared = |filter| match &options.share {
            Some(group) => format!("$share/{group}/{filter}"),
            None => filter,
        };
        let filters = filters.into_iter().map(shared);
        let stored = match options.retained {
            Retained::Skip => v5_packet::RetainForwardRule::Never,
            Retained::Take => v5_packet::RetainForwardRule::OnNewSubscribe,
        };
        match self {
            Self::V3(requests) => {
                let filters = filters.map(|filter| rumqttc::SubscribeFilter::new(filter, QoS::AtLeastOnce));
                requests.try_subscribe_many(filters).is_ok()
            }
            Self::V5(requests) => {
                let filters = filters.map(|filter| v5_packet::Filter {
                    retain_forward_rule: stored.clone(),
                    ..v5_packet::Filter::new(filter, v5_qos())
                });
                requests.try_subscribe_many(filters).is_ok()
            }
        }
    }

    /// Says good-bye; the session stays.
    pub(super) fn disconnect(&self) -> bool {
        match self {
            Self::V3(requests) => requests.try_disconnect().is_ok(),
            Self::V5(requests) => requests.try_disconnect().is_ok(),
        }
    }
}

fn v5_qos() -> v5::mqttbytes::QoS {
    v5::mqttbytes::QoS::AtLeastOnce
}

fn from_v3(event: V3Event) -> LinkEvent {
    match event {
        V3Event::Outgoing(outgoing) => sent(&outgoing),
        V3Event::Incoming(packet) =>
        {
            #[expect(clippy::wildcard_enum_match_arm, reason = "most packets mean nothing to us")]
            match packet {
                Incoming::ConnAck(ack) => LinkEvent::Connected { session_present: ack.session_present },
                Incoming::Publish(publish) => LinkEvent::Published(Incomer {
                    repeatable: (publish.qos == QoS::AtLeastOnce).then_some((publish.pkid, publish.dup)),
                    retained: publish.retain,
                    topic: publish.topic.into_bytes(),
                    payload: publish.payload.into(),
                }),
                Incoming::SubAck(ack) => {
                    let refused = |code: &&_| **code == rumqttc::SubscribeReasonCode::Failure;
                    LinkEvent::Subscribed { refused: ack.return_codes.iter().filter(refused).count() }
                }
                Incoming::PubAck(ack) => LinkEvent::PublishAnswered { packet: ack.pkid, refused: None },
                Incoming::PingResp => LinkEvent::PingAnswered,
                _ => LinkEvent::Other,
            }
        }
    }
}

fn from_v5(event: v5::Event) -> LinkEvent {
    use v5_packet::{PubAckReason, SubscribeReasonCode};

    match event {
        v5::Event::Outgoing(outgoing) => sent(&outgoing),
        v5::Event::Incoming(packet) =>
        {
            #[expect(clippy::wildcard_enum_match_arm, reason = "most packets mean nothing to us")]
            match packet {
                v5::Incoming::ConnAck(ack) => LinkEvent::Connected { session_present: ack.session_present },
                v5::Incoming::Publish(publish) => LinkEvent::Published(Incomer {
                    repeatable: (publish.qos == v5_qos()).then_some((publish.pkid, publish.dup)),
                    retained: publish.retain,
                    topic: publish.topic.into(),
                    payload: publish.payload.into(),
                }),
                v5::Incoming::SubAck(ack) => {
                    let refused = |code: &&_| !matches!(code, SubscribeReasonCode::Success(_));
                    LinkEvent::Subscribed { refused: ack.return_codes.iter().filter(refused).count() }
                }
                v5::Incoming::PubAck(ack) => LinkEvent::PublishAnswered {
                    packet: ack.pkid,
                    refused: match ack.reason {
                        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                        reason => Some(format!("{reason:?}")),
                    },
                },
                v5::Incoming::PingResp(_) => LinkEvent::PingAnswered,
                _ => LinkEvent::Other,
            }
        }
    }
}

fn sent(outgoing: &Outgoing) -> LinkEvent {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most packets mean nothing to us")]
    match *outgoing {
        Outgoing::PubAck(_) => LinkEvent::AckSent,
        Outgoing::Publish(packet) => LinkEvent::PublishSent { packet },
        Outgoing::PingReq => LinkEvent::PingSent,
        Outgoing::Disconnect => LinkEvent::Disconnected,
        _ => LinkEvent::Other,
    }
}
