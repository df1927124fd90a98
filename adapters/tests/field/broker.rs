//! The client role against Mosquitto.

use std::net::Ipv4Addr;

use atedge_adapters::{CommandError, Order, Value};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::gateway::{Gateway, value, within};
use super::mosquitto::Mosquitto;

const V3: &str = "\"3.1.1\"";
const V5: &str = "5";

fn table(broker: &Mosquitto, version: &str) -> String {
    format!(
        r#"
        type = "mqtt"
        url = "mqtt://127.0.0.1:{}"
        version = {version}
        client_id = "gateway"
        keep_alive = "5s"
        max = "1KiB"
        [route.env]
        topic = "site/{{dev}}/env"
        device = "{{dev}}"
        stream = "process"
        decode = {{ as = "json" }}
        "#,
        broker.port
    )
}

async fn subscribed(broker: &Mosquitto, version: &str) -> Gateway {
    let before = broker.logged("Sending SUBACK to gateway").len();
    let gateway = Gateway::start(&table(broker, version));
    broker.logs_more_than(before, "Sending SUBACK to gateway").await;
    gateway
}

/// Another client of the broker.
pub(crate) struct Peer {
    client: AsyncClient,
    heard: mpsc::UnboundedReceiver<Incoming>,
}

impl Peer {
    pub(crate) fn new(broker: &Mosquitto) -> Self {
        let mut options = MqttOptions::new("peer", "127.0.0.1", broker.port);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 10);
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(packet) = event
                    && tell.send(packet).is_err()
                {
                    break;
                }
            }
        });
        Self { client, heard }
    }

    /// Publishes, and waits until the broker has it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        while !matches!(self.next().await, Incoming::PubAck(_)) {}
    }

    async fn next(&mut self) -> Incoming {
        within("a packet from the broker", self.heard.recv()).await.expect("the broker closed")
    }
}

fn devices_acknowledged(broker: &Mosquitto) -> usize {
    broker.logged("Received PUBACK from gateway").len()
}

#[tokio::test]
async fn stored_copies_are_readings_where_they_are_wanted() {
    for (version, retained, taken) in
        [(V3, "skip", false), (V5, "skip", false), (V3, "take", true), (V5, "take", true)]
    {
        let broker = Mosquitto::start().await;
        let mut peer = Peer::new(&broker);
        peer.client.publish("site/boiler/env", QoS::AtLeastOnce, true, r#"{"n":1}"#).await.unwrap();
        while !matches!(peer.next().await, Incoming::PubAck(_)) {}
        let more = format!("client_id = \"gateway\"\nretained = \"{retained}\"");
        let mut gateway = Gateway::start(&table(&broker, version).replace("client_id = \"gateway\"", &more));
        broker.logs("Sending SUBACK to gateway").await;
        peer.publish("site/boiler/env", r#"{"n":2}"#).await;
        let expected: &[i64] = if taken { &[1, 2] } else { &[2] };
        for n in expected {
            let (reading, ack) = gateway.reading().await;
            assert_eq!(value(&reading), &Value::Integer(*n), "{version} {retained}");
            ack.accept();
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_group_shares_what_is_published() {
    for version in [V3, V5] {
        let broker = Mosquitto::start().await;
        let member = |id: &str| {
            let more = format!("client_id = \"{id}\"\nshare = \"gateways\"");
            Gateway::start(&table(&broker, version).replace("client_id = \"gateway\"", &more))
        };
        let (mut one, mut other) = (member("one"), member("other"));
        broker.logs("Sending SUBACK to one").await;
        broker.logs("Sending SUBACK to other").await;
        let mut peer = Peer::new(&broker);
        for n in 0..20 {
            peer.publish("site/boiler/env", &format!("{{\"n\":{n}}}")).await;
        }
        let mut heard = [0, 0];
        while heard[0] + heard[1] < 20 {
            tokio::select! {
                (_, ack) = one.reading() => { heard[0] += 1; ack.accept(); }
                (_, ack) = other.reading() => { heard[1] += 1; ack.accept(); }
            }
        }
        assert!(heard.iter().all(|count| *count > 0), "{heard:?}");
        one.stop().await;
        other.stop().await;
    }
}

async fn acknowledged_only_after_acceptance(version: &str) {
    let broker = Mosquitto::start().await;
    let mut gateway = subscribed(&broker, version).await;
    let mut peer = Peer::new(&broker);
    peer.publish("site/boiler/env", r#"{"temp":21}"#).await;

    let (reading, ack) = gateway.reading().await;
    assert_eq!(reading.device.as_str(), "boiler");
    assert_eq!(value(&reading), &Value::Integer(21));
    let first = reading.delivery.unwrap();
    assert!(!first.dup);
    assert_eq!(&*first.session, "field/gateway");
    assert_eq!(devices_acknowledged(&broker), 0);
    gateway.kill().await;
    drop(ack);

    let mut gateway = Gateway::start(&table(&broker, version));
    let (reading, ack) = gateway.reading().await;
    let second = reading.delivery.unwrap();
    assert!(second.dup, "the broker says that it has sent this before");
    assert_eq!((&second.session, second.packet, second.digest), (&first.session, first.packet, first.digest));
    assert_eq!(devices_acknowledged(&broker), 0);
    ack.accept();
    broker.logs("Received PUBACK from gateway").await;
    gateway.stop().await;
}

#[tokio::test]
async fn acknowledged_only_after_acceptance_v3() {
    acknowledged_only_after_acceptance(V3).await;
}

#[tokio::test]
async fn acknowledged_only_after_acceptance_v5() {
    acknowledged_only_after_acceptance(V5).await;
}

async fn acknowledged_in_order(version: &str) {
    let broker = Mosquitto::start().await;
    let mut gateway = subscribed(&broker, version).await;
    let mut peer = Peer::new(&broker);
    let mut readings = Vec::new();
    for n in 0..5 {
        peer.publish("site/boiler/env", &format!("{{\"n\":{n}}}")).await;
        readings.push(gateway.reading().await);
    }
    let packets: Vec<_> = readings.iter().map(|(r, _)| r.delivery.as_ref().unwrap().packet).collect();
    let last = packets.last().unwrap();
    for (_, ack) in readings.into_iter().rev() {
        assert_eq!(devices_acknowledged(&broker), 0);
        ack.accept();
    }
    broker.logs(&format!("Received PUBACK from gateway (Mid: {last}")).await;
    let expected: Vec<_> = packets.iter().map(|packet| format!("(Mid: {packet},")).collect();
    let acknowledged = broker.logged("Received PUBACK from gateway");
    assert_eq!(acknowledged.len(), expected.len());
    assert!(acknowledged.iter().zip(&expected).all(|(line, mid)| line.contains(mid)), "{acknowledged:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn acknowledged_in_order_v3() {
    acknowledged_in_order(V3).await;
}

#[tokio::test]
async fn acknowledged_in_order_v5() {
    acknowledged_in_order(V5).await;
}

#[tokio::test]
async fn an_abandoned_reading_is_repeated() {
    let broker = Mosquitto::start().await;
    let mut gateway = subscribed(&broker, V5).await;
    let mut peer = Peer::new(&broker);
    peer.publish("site/boiler/env", r#"{"n":1}"#).await;
    drop(gateway.reading().await);
    let (reading, ack) = gateway.reading().await;
    assert!(reading.delivery.unwrap().dup);
    ack.accept();
    broker.logs("Received PUBACK from gateway").await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_become_a_reading_is_refused_once() {
    let broker = Mosquitto::start().await;
    let mut gateway = subscribed(&broker, V3).await;
    let mut peer = Peer::new(&broker);
    for (topic, payload, kind) in [
        ("site/Boiler 1/env", r#"{"n":1}"#, "name"),
        ("site/boiler/env", r#"{"N":1}"#, "name"),
        ("site/boiler/env", r#"{"n":"#, "decode"),
        ("site/boiler/env", "\u{0}\u{1}garbage", "decode"),
        ("site/boiler/env", &format!("{{\"n\":\"{}\"}}", "x".repeat(2000)), "size"),
    ] {
        peer.publish(topic, payload).await;
        assert_eq!(gateway.refusal().await.kind(), kind, "{topic} {payload}");
    }
    peer.publish("site/boiler/env", r#"{"n":1}"#).await;
    gateway.reading().await.1.accept();
    broker.logs("Received PUBACK from gateway (Mid: 6").await;
    gateway.kill().await;

    let mut gateway = Gateway::start(&table(&broker, V3));
    peer.publish("site/boiler/env", r#"{"n":2}"#).await;
    let (reading, _ack) = gateway.reading().await;
    assert_eq!(value(&reading), &Value::Integer(2), "nothing is repeated");
    gateway.stop().await;
}

#[tokio::test]
async fn what_arrives_at_the_broker_meanwhile_is_read_later() {
    let broker = Mosquitto::start().await;
    subscribed(&broker, V5).await.stop().await;
    let mut peer = Peer::new(&broker);
    for n in 0..30 {
        peer.publish("site/boiler/env", &format!("{{\"n\":{n}}}")).await;
    }
    let mut gateway = Gateway::start(&table(&broker, V5));
    for n in 0..30 {
        let (reading, ack) = gateway.reading().await;
        assert_eq!(value(&reading), &Value::Integer(n));
        ack.accept();
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_stored_copy_is_no_reading() {
    let broker = Mosquitto::start().await;
    let mut peer = Peer::new(&broker);
    peer.client.publish("site/boiler/env", QoS::AtLeastOnce, true, r#"{"n":1}"#).await.unwrap();
    while !matches!(peer.next().await, Incoming::PubAck(_)) {}
    for version in [V3, V5] {
        let mut gateway = subscribed(&broker, version).await;
        peer.publish("site/boiler/env", r#"{"n":2}"#).await;
        let (reading, ack) = gateway.reading().await;
        assert_eq!(value(&reading), &Value::Integer(2));
        ack.accept();
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_restarted_broker_is_found_again() {
    for forget in [false, true] {
        let mut broker = Mosquitto::start().await;
        let mut gateway = subscribed(&broker, V5).await;
        assert_eq!(&*gateway.session_lost().await, "field/gateway", "its session is new");
        broker.stop();
        let peer = format!("127.0.0.1:{}", broker.port);
        let mut refused = gateway.publish("site/boiler/set", "1").await;
        if refused == Err(CommandError::Interrupted { peer: peer.clone() }) {
            // The connection was lost with the order on its way; the next one knows.
            refused = gateway.publish("site/boiler/set", "1").await;
        }
        assert_eq!(refused, Err(CommandError::NotConnected { peer }));
        broker.restart(forget).await;
        if forget {
            assert_eq!(&*gateway.session_lost().await, "field/gateway");
            broker.logs("Sending SUBACK to gateway").await;
        } else {
            broker.logs("Sending CONNACK to gateway").await;
        }
        let mut peer = Peer::new(&broker);
        peer.publish("site/boiler/env", r#"{"n":1}"#).await;
        let (reading, ack) = gateway.reading().await;
        assert_eq!(value(&reading), &Value::Integer(1));
        ack.accept();
        broker.logs("Received PUBACK from gateway").await;
        gateway.stop().await;
    }
}

async fn acknowledgements_are_settled_by_a_ping(version: &str) {
    let broker = Mosquitto::start().await;
    let mut gateway = subscribed(&broker, version).await;
    let mut peer = Peer::new(&broker);
    let mut numbers = Vec::new();
    for n in 0..3 {
        peer.publish("site/boiler/env", &format!("{{\"n\":{n}}}")).await;
        let (reading, ack) = gateway.reading().await;
        numbers.push(reading.delivery.unwrap().number);
        ack.accept();
    }
    assert!(numbers.is_sorted());
    let mut settled = 0;
    while settled < numbers[2] {
        settled = gateway.settled().await;
        assert!(numbers.contains(&settled));
    }
    broker.logs("Sending PINGRESP to gateway").await;
    gateway.stop().await;
}

#[tokio::test]
async fn acknowledgements_are_settled_by_a_ping_v3() {
    acknowledgements_are_settled_by_a_ping(V3).await;
}

#[tokio::test]
async fn acknowledgements_are_settled_by_a_ping_v5() {
    acknowledgements_are_settled_by_a_ping(V5).await;
}

#[tokio::test]
async fn commands_are_published() {
    let broker = Mosquitto::start().await;
    let mut peer = Peer::new(&broker);
    peer.client.subscribe("site/+/set", QoS::AtLeastOnce).await.unwrap();
    while !matches!(peer.next().await, Incoming::SubAck(_)) {}
    for version in [V3, V5] {
        let gateway = subscribed(&broker, version).await;
        for value in ["62", "63", "64"] {
            gateway.publish("site/boiler/set", value).await.unwrap();
            loop {
                if let Incoming::Publish(publish) = peer.next().await {
                    assert_eq!(publish.payload, value);
                    break;
                }
            }
        }
        let topic = "site/+/set".to_owned();
        assert_eq!(gateway.publish(&topic, "1").await, Err(CommandError::InvalidTopic { topic }));
        let large = gateway.publish("site/boiler/set", &"x".repeat(2000)).await;
        assert_eq!(large, Err(CommandError::TooLarge { bytes: 2000, max: 1024 }));
        let serial = gateway.order(Order::Send { bytes: b"x".into() }).await;
        assert!(matches!(serial, Err(CommandError::Unsupported { .. })));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_broker_may_want_a_password() {
    let broker = Mosquitto::start_guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    for version in [V3, V5] {
        let login = format!("username = \"gateway\"\npassword = \"file:{}\"\n", password.display());
        let (head, routes) =
            table(&broker, version).split_once("[route").map(|(h, r)| (h.to_owned(), r.to_owned())).unwrap();
        let table = format!("{head}{login}[route{routes}");

        std::fs::write(&password, "open barley\n").unwrap();
        let before = broker.logged("not authorised").len();
        let gateway = Gateway::start(&table);
        broker.logs_more_than(before, "not authorised").await;
        gateway.stop().await;

        std::fs::write(&password, "open sesame\n").unwrap();
        let before = broker.logged("Sending SUBACK to gateway").len();
        let gateway = Gateway::start(&table);
        broker.logs_more_than(before, "Sending SUBACK to gateway").await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_talks_nonsense_is_tried_again() {
    for (version, accepted) in [(V3, &b"\x20\x02\x00\x00"[..]), (V5, &b"\x20\x03\x00\x00\x00"[..])] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let gateway = Gateway::start(&format!(
            "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\nversion = {version}\n[route.r]\n\
             topic = \"t\"\ndevice = \"d\"\nstream = \"s\"\ndecode = {{ as = \"raw\" }}"
        ));
        for answer in [&b"\xff\xff\xff\xff\xff\xff"[..], b"\x20", &[accepted, b"\x32\x07\x00\x01"].concat()] {
            let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
            let mut connect = [0; 16];
            within("a CONNECT", stream.read_exact(&mut connect)).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
        within("another try", listener.accept()).await.unwrap();
        gateway.stop().await;
    }
}
