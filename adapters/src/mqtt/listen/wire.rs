//! The server's side of MQTT on one connection: bytes in, bytes out. All of mqtt-protocol-core is in
//! here. Pure: no socket, no clock.

use std::time::Duration;

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event, TimerKind};
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, GenericPacketTrait, MaximumQos, Packet, Property, Qos, ReceiveMaximum,
    SharedSubscriptionAvailable, SubEntry, SubscriptionIdentifierAvailable, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, SubackReasonCode,
    SubackReturnCode, UnsubackReasonCode,
};
use mqtt_protocol_core::mqtt::{Connection, Version, role};

/// The answer to a version we do not know, in words that 3.1.1 and earlier understand
/// (MQTT 3.1.1 §3.1.2.2).
const WRONG_VERSION: [u8; 4] = [0x20, 0x02, 0x00, 0x01];

/// What a device says.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    Connect(Hello),
    Publish(Message),
    /// Filters and the QoS asked for, 0 or 1.
    Subscribe {
        packet: u16,
        filters: Vec<(String, u8)>,
    },
    Unsubscribe {
        packet: u16,
        filters: Vec<String>,
    },
    /// The device answered a message of ours.
    Answered {
        packet: u16,
        refused: Option<String>,
    },
    /// The device says good-bye, and perhaps for how long to keep its session.
    Disconnect {
        keep: Option<Duration>,
    },
    /// It is still there.
    Alive,
}

/// A CONNECT.
#[derive(Debug, PartialEq)]
pub(super) struct Hello {
    /// May be empty: then the device wants to be given one.
    pub(super) client_id: String,
    /// Whether the device wants its session to begin anew.
    pub(super) clean: bool,
    /// For how long to keep the session after the connection; zero for not at all.
    pub(super) keep: Duration,
}

/// A PUBLISH.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// Packet identifier and DUP flag of QoS 1.
    pub(super) repeatable: Option<(u16, bool)>,
}

/// Why we turn a device away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    TakenOver,
    ShuttingDown,
    QosNotSupported,
    TopicInvalid,
    Unkept,
}

/// One connection's protocol.
pub(super) struct Wire {
    codec: Connection<role::Server>,
    out: Vec<u8>,
    keep_alive: Option<Duration>,
    end: Option<String>,
}

impl Wire {
    /// Packets larger than `max_packet` bytes end the connection before they are buffered.
    pub(super) fn new(max_packet: u32) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(max_packet);
        let mut codec = Connection::with_options(Version::Undetermined, options);
        codec.set_auto_ping_response(true);
        Self { codec, out: Vec::new(), keep_alive: None, end: None }
    }

    /// Takes at most one packet from `bytes`. Gives how many bytes were used, and what was said if the
    /// packet is complete. Takes nothing once the connection has [ended](Self::end).
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, Option<Heard>) {
        let mut used = 0;
        let mut heard = None;
        while used < bytes.len() && heard.is_none() && self.end.is_none() {
            let mut cursor = Cursor::new(&bytes[used..]);
            let events = self.codec.recv(&mut cursor);
            used += usize::try_from(cursor.position()).unwrap_or(bytes.len());
            heard = self.absorb(events);
        }
        (used.min(bytes.len()), heard)
    }

    /// What is to be sent; it is taken out.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// How long the device may be silent.
    pub(super) fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// Why the connection has to be closed, once it has.
    pub(super) fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// Accepts the CONNECT.
    pub(super) fn welcome(&mut self, session_present: bool, assigned: Option<&str>, receive_maximum: u16) {
        let packet: Result<Packet, MqttError> = if self.is_v5() {
            let mut properties: Vec<Result<Property, MqttError>> = vec![
                MaximumQos::new(1).map(Into::into),
                ReceiveMaximum::new(receive_maximum).map(Into::into),
                SharedSubscriptionAvailable::new(0).map(Into::into),
                SubscriptionIdentifierAvailable::new(0).map(Into::into),
            ];
            properties.extend(assigned.map(|id| AssignedClientIdentifier::new(id).map(Into::into)));
            properties.into_iter().collect::<Result<Vec<_>, _>>().and_then(|properties| {
                v5_0::Connack::builder()
                    .session_present(session_present)
                    .reason_code(ConnectReasonCode::Success)
                    .props(properties)
                    .build()
                    .map(Into::into)
            })
        } else {
            v3_1_1::Connack::builder()
                .session_present(session_present)
                .return_code(ConnectReturnCode::Accepted)
                .build()
                .map(Into::into)
        };
        self.say(packet);
    }

    /// Refuses the CONNECT: the client identifier will not do.
    pub(super) fn refuse_client_id(&mut self) {
        let packet = if self.is_v5() {
            let refusal = v5_0::Connack::builder().session_present(false);
            refusal.reason_code(ConnectReasonCode::ClientIdentifierNotValid).build().map(Into::into)
        } else {
            let refusal = v3_1_1::Connack::builder().session_present(false);
            refusal.return_code(ConnectReturnCode::IdentifierRejected).build().map(Into::into)
        };
        self.say(packet);
        self.end.get_or_insert_with(|| "the client identifier is empty or too long".to_owned());
    }

    /// Acknowledges a PUBLISH.
    pub(super) fn acknowledge(&mut self, packet: u16) {
        let packet = if self.is_v5() {
            v5_0::Puback::builder().packet_id(packet).build().map(Into::into)
        } else {
            v3_1_1::Puback::builder().packet_id(packet).build().map(Into::into)
        };
        self.say(packet);
    }

    /// Answers a SUBSCRIBE: the QoS granted for each filter, or nothing where it is refused.
    pub(super) fn granted(&mut self, packet: u16, granted: &[Option<u8>]) {
        let packet = if self.is_v5() {
            let codes = granted.iter().map(|granted| match granted {
                Some(0) => SubackReasonCode::GrantedQos0,
                Some(_) => SubackReasonCode::GrantedQos1,
                None => SubackReasonCode::TopicFilterInvalid,
            });
            v5_0::Suback::builder().packet_id(packet).reason_codes(codes.collect()).build().map(Into::into)
        } else {
            let codes = granted.iter().map(|granted| match granted {
                Some(0) => SubackReturnCode::SuccessMaximumQos0,
                Some(_) => SubackReturnCode::SuccessMaximumQos1,
                None => SubackReturnCode::Failure,
            });
            v3_1_1::Suback::builder().packet_id(packet).return_codes(codes.collect()).build().map(Into::into)
        };
        self.say(packet);
    }

    /// Answers an UNSUBSCRIBE: whether each filter had been subscribed to.
    pub(super) fn released(&mut self, packet: u16, existed: &[bool]) {
        let packet = if self.is_v5() {
            let codes = existed.iter().map(|existed| match existed {
                true => UnsubackReasonCode::Success,
                false => UnsubackReasonCode::NoSubscriptionExisted,
            });
            v5_0::Unsuback::builder().packet_id(packet).reason_codes(codes.collect()).build().map(Into::into)
        } else {
            v3_1_1::Unsuback::builder().packet_id(packet).build().map(Into::into)
        };
        self.say(packet);
    }

    /// Whether the device takes another message of QoS 1 now.
    pub(super) fn may_publish(&self) -> bool {
        self.codec.get_receive_maximum_vacancy_for_send() != Some(0)
    }

    /// Publishes to the device. Gives the packet identifier of QoS 1, or why it cannot be sent.
    pub(super) fn publish(&mut self, topic: &str, payload: &[u8], qos: u8) -> Result<Option<u16>, String> {
        let packet_id = match qos {
            0 => None,
            _ => Some(self.codec.acquire_packet_id().map_err(|error| format!("{error:?}"))?),
        };
        let qos = if packet_id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let packet: Result<Packet, MqttError> = if self.is_v5() {
            let publish = v5_0::Publish::builder().topic_name(topic);
            publish.and_then(|publish| {
                publish.qos(qos).packet_id(packet_id).payload(payload.to_vec()).build().map(Into::into)
            })
        } else {
            let publish = v3_1_1::Publish::builder().topic_name(topic);
            publish.and_then(|publish| {
                publish.qos(qos).packet_id(packet_id).payload(payload.to_vec()).build().map(Into::into)
            })
        };
        match packet.and_then(|packet| self.send(packet)) {
            Ok(()) => Ok(packet_id),
            Err(error) => {
                if let Some(packet_id) = packet_id {
                    let events = self.codec.release_packet_id(packet_id);
                    self.absorb(events);
                }
                Err(format!("{error:?}"))
            }
        }
    }

    /// Ends the connection; a device that speaks MQTT 5 is told why.
    pub(super) fn turn_away(&mut self, reason: Reason) {
        let (code, text) = match reason {
            Reason::TakenOver => {
                (DisconnectReasonCode::SessionTakenOver, "the device connected a second time")
            }
            Reason::ShuttingDown => (DisconnectReasonCode::ServerShuttingDown, "the adapter stops"),
            Reason::QosNotSupported => (DisconnectReasonCode::QosNotSupported, "QoS 2 is not supported"),
            Reason::TopicInvalid => (DisconnectReasonCode::TopicNameInvalid, "the topic is not one"),
            Reason::Unkept => (
                DisconnectReasonCode::ImplementationSpecificError,
                "a reading could not be kept; the device has to repeat it",
            ),
        };
        if self.is_v5() {
            self.say(v5_0::Disconnect::builder().reason_code(code).build().map(Into::into));
        }
        self.end.get_or_insert_with(|| text.to_owned());
    }

    /// The device was silent for longer than its keep-alive allows.
    pub(super) fn silent(&mut self) {
        let events = self.codec.notify_timer_fired(TimerKind::PingreqRecv);
        self.absorb(events);
        self.end.get_or_insert_with(|| "the device was silent for too long".to_owned());
    }

    fn is_v5(&self) -> bool {
        self.codec.get_protocol_version() == Version::V5_0
    }

    /// Sends a packet of ours, which the codec takes in the states we send it in.
    fn say(&mut self, packet: Result<Packet, MqttError>) {
        if let Err(error) = packet.and_then(|packet| self.send(packet)) {
            self.end.get_or_insert_with(|| format!("an answer could not be sent: {error:?}"));
        }
    }

    fn send(&mut self, packet: Packet) -> Result<(), MqttError> {
        let events = self.codec.send(packet);
        let error = events.iter().find_map(|event| {
            let Event::NotifyError(error) = event else { return None };
            Some(*error)
        });
        match error {
            Some(error) => Err(error),
            None => {
                self.absorb(events);
                Ok(())
            }
        }
    }

    fn absorb(&mut self, events: Vec<Event>) -> Option<Heard> {
        let mut heard = None;
        for event in events {
            match event {
                Event::RequestSendPacket { packet, .. } => self.out.extend(packet.to_continuous_buffer()),
                Event::NotifyPacketReceived(packet) => heard = self.understand(&packet),
                Event::RequestTimerReset { kind: TimerKind::PingreqRecv, duration_ms } => {
                    self.keep_alive = Some(Duration::from_millis(duration_ms));
                }
                Event::RequestTimerCancel(TimerKind::PingreqRecv) => self.keep_alive = None,
                Event::RequestTimerReset { .. }
                | Event::RequestTimerCancel(_)
                | Event::NotifyPacketIdReleased(_) => {}
                Event::NotifyError(error) => {
                    if error == MqttError::UnsupportedProtocolVersion {
                        self.out.extend(WRONG_VERSION);
                    }
                    self.end = Some(format!("{error:?}"));
                }
                Event::RequestClose => _ = self.end.get_or_insert_with(|| "the protocol ends it".to_owned()),
            }
        }
        heard
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the codec lets only these through to a server")]
    fn understand(&mut self, packet: &Packet) -> Option<Heard> {
        let heard = match packet {
            Packet::V3_1_1Connect(connect) => Heard::Connect(Hello {
                client_id: connect.client_id().to_owned(),
                clean: connect.clean_session(),
                keep: if connect.clean_session() { Duration::ZERO } else { Duration::MAX },
            }),
            Packet::V5_0Connect(connect) => Heard::Connect(Hello {
                client_id: connect.client_id().to_owned(),
                // Who is nameless cannot have had a session.
                clean: connect.clean_start() || connect.client_id().is_empty(),
                keep: session_expiry(connect.props()).unwrap_or_default(),
            }),
            Packet::V3_1_1Publish(publish) => {
                let (qos, packet, dup) = (publish.qos(), publish.packet_id(), publish.dup());
                return self.message(publish.topic_name(), publish.payload().as_slice(), qos, packet, dup);
            }
            Packet::V5_0Publish(publish) => {
                let (qos, packet, dup) = (publish.qos(), publish.packet_id(), publish.dup());
                return self.message(publish.topic_name(), publish.payload().as_slice(), qos, packet, dup);
            }
            Packet::V3_1_1Puback(answer) => Heard::Answered { packet: answer.packet_id(), refused: None },
            Packet::V5_0Puback(answer) => Heard::Answered {
                packet: answer.packet_id(),
                refused: answer.reason_code().filter(|code| code.is_failure()).map(|code| code.to_string()),
            },
            Packet::V3_1_1Subscribe(subscribe) => {
                Heard::Subscribe { packet: subscribe.packet_id(), filters: filters(subscribe.entries()) }
            }
            Packet::V5_0Subscribe(subscribe) => {
                Heard::Subscribe { packet: subscribe.packet_id(), filters: filters(subscribe.entries()) }
            }
            Packet::V3_1_1Unsubscribe(unsubscribe) => Heard::Unsubscribe {
                packet: unsubscribe.packet_id(),
                filters: unsubscribe.entries().iter().map(|filter| filter.as_str().to_owned()).collect(),
            },
            Packet::V5_0Unsubscribe(unsubscribe) => Heard::Unsubscribe {
                packet: unsubscribe.packet_id(),
                filters: unsubscribe.entries().iter().map(|filter| filter.as_str().to_owned()).collect(),
            },
            Packet::V3_1_1Disconnect(_) => Heard::Disconnect { keep: None },
            Packet::V5_0Disconnect(disconnect) => {
                Heard::Disconnect { keep: disconnect.props().as_deref().and_then(session_expiry) }
            }
            _ => Heard::Alive,
        };
        Some(heard)
    }

    /// A PUBLISH; one of QoS 2 ends the connection (MQTT 5.0 §3.2.2.3.4).
    fn message(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        packet: Option<u16>,
        dup: bool,
    ) -> Option<Heard> {
        let repeatable = match (qos, packet) {
            (Qos::AtMostOnce, _) => None,
            (Qos::AtLeastOnce, Some(packet)) => Some((packet, dup)),
            (Qos::AtLeastOnce, None) | (Qos::ExactlyOnce, _) => {
                self.turn_away(Reason::QosNotSupported);
                return None;
            }
        };
        Some(Heard::Publish(Message { topic: topic.to_owned(), payload: payload.to_vec(), repeatable }))
    }
}

fn filters(entries: &[SubEntry]) -> Vec<(String, u8)> {
    let entry = |entry: &SubEntry| {
        let qos = u8::from(entry.sub_opts().qos() != Qos::AtMostOnce);
        (entry.topic_filter().to_owned(), qos)
    };
    entries.iter().map(entry).collect()
}

/// `u32::MAX` seconds stand for ever (MQTT 5.0 §3.1.2.11.2).
fn session_expiry(properties: &[Property]) -> Option<Duration> {
    properties.iter().find_map(|property| {
        let Property::SessionExpiryInterval(expiry) = property else { return None };
        Some(match expiry.val() {
            u32::MAX => Duration::MAX,
            seconds => Duration::from_secs(seconds.into()),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: [&[u8]; 2] = [
        b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02d1",
        b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02d1",
    ];
    const PUBLISH: [&[u8]; 2] = [b"\x32\x06\x00\x01t\x00\x07x", b"\x32\x07\x00\x01t\x00\x07\x00x"];
    const SUBSCRIBE: [&[u8]; 2] =
        [b"\x82\x08\x00\x01\x00\x03c/+\x01", b"\x82\x09\x00\x01\x00\x00\x03c/+\x01"];
    const REST: [&[u8]; 2] = [
        b"\xc0\x00\xa2\x07\x00\x02\x00\x03c/+\x40\x02\x00\x01\xe0\x00",
        b"\xc0\x00\xa2\x08\x00\x02\x00\x00\x03c/+\x40\x02\x00\x01\xe0\x00",
    ];

    /// Hears all of `bytes` and answers as a device task does.
    fn hear(wire: &mut Wire, mut bytes: &[u8]) -> Vec<Heard> {
        let mut all = Vec::new();
        while !bytes.is_empty() && wire.end().is_none() {
            let (used, heard) = wire.take(bytes);
            bytes = &bytes[used..];
            match &heard {
                Some(Heard::Connect(_)) => wire.welcome(false, None, 10),
                Some(Heard::Publish(Message { repeatable: Some((packet, _)), .. })) => {
                    wire.acknowledge(*packet)
                }
                Some(Heard::Subscribe { packet, filters }) => {
                    wire.granted(*packet, &vec![Some(1); filters.len()]);
                    wire.publish("c/x", b"on", 1).unwrap();
                }
                Some(Heard::Unsubscribe { packet, filters }) => {
                    wire.released(*packet, &vec![true; filters.len()]);
                }
                _ => {}
            }
            all.extend(heard);
        }
        all
    }

    #[test]
    fn a_conversation_is_understood_in_both_versions() {
        for version in 0..2 {
            let mut wire = Wire::new(1000);
            let talk = [CONNECT[version], PUBLISH[version], SUBSCRIBE[version], REST[version]].concat();
            let heard = hear(&mut wire, &talk);
            assert_eq!(wire.end(), None);
            assert_eq!(wire.keep_alive(), None, "after DISCONNECT there is nothing to wait for");
            let keep = Duration::ZERO;
            assert_eq!(heard[0], Heard::Connect(Hello { client_id: "d1".into(), clean: true, keep }));
            let message = Message { topic: "t".into(), payload: b"x".into(), repeatable: Some((7, false)) };
            assert_eq!(heard[1], Heard::Publish(message));
            assert_eq!(heard[2], Heard::Subscribe { packet: 1, filters: vec![("c/+".into(), 1)] });
            assert_eq!(heard[3], Heard::Alive);
            assert_eq!(heard[4], Heard::Unsubscribe { packet: 2, filters: vec!["c/+".into()] });
            assert_eq!(heard[5], Heard::Answered { packet: 1, refused: None });
            assert_eq!(heard[6], Heard::Disconnect { keep: None });
        }
    }

    #[test]
    fn no_byte_can_break_it() {
        for version in 0..2 {
            let talk = [CONNECT[version], SUBSCRIBE[version], PUBLISH[version], REST[version]].concat();
            for at in 0..talk.len() {
                for byte in 0..=u8::MAX {
                    let mut broken = talk.clone();
                    broken[at] = byte;
                    hear(&mut Wire::new(1000), &broken);
                    hear(&mut Wire::new(1000), &broken[at..]);
                }
            }
        }
    }

    #[test]
    fn a_device_may_limit_what_it_is_sent() {
        // Maximum packet size 64, receive maximum 1.
        let connect = b"\x10\x17\x00\x04MQTT\x05\x02\x00\x3c\x08\x27\x00\x00\x00\x40\x21\x00\x01\x00\x02d1";
        let mut wire = Wire::new(1000);
        hear(&mut wire, connect);
        assert_eq!(wire.publish("c", &[0; 100], 1), Err("PacketTooLarge".to_owned()));
        assert!(wire.may_publish());
        wire.publish("c", &[0; 10], 1).unwrap();
        assert!(!wire.may_publish());
        assert_eq!(wire.end(), None);
        hear(&mut wire, b"\x40\x02\x00\x01");
        assert!(wire.may_publish());
    }
}
