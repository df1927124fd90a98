//! The listen role, with rumqttc and with handmade packets on the device's side.

use atedge_adapters::{AdapterConfig, AdapterError, Captured, CommandError, Refusal, Value};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, Outgoing, QoS, v5};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gateway::{Gateway, value, within};
use super::mosquitto::free_port;
use super::packet::{Connect, DISCONNECT, Device, PINGREQ, PINGRESP, V3, V5, puback, publish};

const BOTH: [u8; 2] = [V3, V5];

fn table(port: u16) -> String {
    format!(
        r#"
        type = "mqtt"
        listen = "127.0.0.1:{port}"
        max = "1KiB"
        receive_maximum = 3
        connections = 4
        [route.env]
        topic = "site/{{dev}}/env"
        device = "{{dev}}"
        stream = "process"
        decode = {{ as = "text", type = "i64" }}
        "#
    )
}

/// A listener, once it is there.
async fn listening() -> (Gateway, u16) {
    let port = free_port();
    let mut gateway = Gateway::start(&table(port));
    assert!(matches!(gateway.next().await, Captured::Reached), "it says that it listens");
    (gateway, port)
}

fn me(version: u8) -> Connect<'static> {
    Connect { version, client_id: "d1", clean: false, keep_alive: 60 }
}

/// A reading from a device that has just connected shows that the listener serves.
async fn serves(gateway: &mut Gateway, port: u16) {
    let connect = Connect { version: V5, client_id: "honest", clean: true, keep_alive: 60 };
    let (mut honest, _) = Device::connect(port, &connect).await;
    honest.says(&publish(V5, 0, "site/honest/env", 0, b"1")).await;
    assert_eq!(gateway.reading().await.0.device.as_str(), "honest");
    honest.says(&DISCONNECT).await;
    assert_eq!(honest.hears_or_ends().await, None);
}

#[tokio::test]
async fn acknowledged_only_after_acceptance() {
    for version in BOTH {
        let (mut gateway, port) = listening().await;
        let (mut device, session_present) = Device::connect(port, &me(version)).await;
        assert!(!session_present);
        assert_eq!(&*gateway.session_lost().await, "field/d1");
        device.says(&publish(version, 0x02, "site/boiler/env", 7, b"21")).await;
        let (reading, ack) = gateway.reading().await;
        assert_eq!(value(&reading), &Value::Integer(21));
        let delivery = reading.delivery.unwrap();
        assert_eq!((&*delivery.session, delivery.packet, delivery.dup), ("field/d1", 7, false));
        device.says(&PINGREQ).await;
        assert_eq!(device.hears().await, PINGRESP, "and no PUBACK before it");
        ack.accept();
        assert_eq!(device.hears().await, puback(7));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn what_has_not_changed_is_acknowledged_and_not_reported() {
    let port = free_port();
    let report = "max = \"1KiB\"\nreport = { on = \"change\", deadband = 2.0 }";
    let mut gateway = Gateway::start(&table(port).replace("max = \"1KiB\"", report));
    let (mut device, _) = Device::connect(port, &me(V5)).await;
    let mut reported = Vec::new();
    for (packet, payload) in (1..).zip(["20", "21", "22", "23", "21"]) {
        device.says(&publish(V5, 0x02, "site/boiler/env", packet, payload.as_bytes())).await;
        loop {
            match gateway.next().await {
                Captured::Reading { reading, ack } => {
                    reported.push(value(&reading).clone());
                    ack.accept();
                }
                Captured::Suppressed { device } => assert_eq!(device.as_str(), "boiler"),
                Captured::SessionLost { .. } | Captured::Settled { .. } | Captured::Reached => continue,
                other => panic!("{other:?}"),
            }
            break;
        }
        assert_eq!(device.hears().await, puback(packet));
    }
    assert_eq!(reported, [20, 23].map(Value::Integer));
    gateway.stop().await;
}

#[tokio::test]
async fn acknowledged_in_order() {
    let (mut gateway, port) = listening().await;
    let (mut device, _) = Device::connect(port, &me(V3)).await;
    let mut acks = Vec::new();
    for packet in [5, 6, 7] {
        device.says(&publish(V3, 0x02, "site/boiler/env", packet, b"1")).await;
        acks.push(gateway.reading().await.1);
    }
    acks.into_iter().rev().for_each(|ack| ack.accept());
    for packet in [5, 6, 7] {
        assert_eq!(device.hears().await, puback(packet));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_that_comes_back_repeats_itself() {
    for version in BOTH {
        let (mut gateway, port) = listening().await;
        let (mut device, _) = Device::connect(port, &me(version)).await;
        device.says(&publish(version, 0x02, "site/boiler/env", 7, b"21")).await;
        let (first, ack) = gateway.reading().await;
        drop(device);
        ack.accept();
        let (mut device, session_present) = Device::connect(port, &me(version)).await;
        assert!(session_present);
        device.says(&publish(version, 0x0a, "site/boiler/env", 7, b"21")).await;
        let (second, ack) = gateway.reading().await;
        let (first, second) = (first.delivery.unwrap(), second.delivery.unwrap());
        assert!(second.dup);
        assert_eq!(
            (first.session, first.packet, first.digest),
            (second.session, second.packet, second.digest)
        );
        ack.accept();
        assert_eq!(device.hears().await, puback(7));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn an_abandoned_reading_ends_the_connection() {
    let (mut gateway, port) = listening().await;
    let (mut device, _) = Device::connect(port, &me(V3)).await;
    device.says(&publish(V3, 0x02, "site/boiler/env", 7, b"21")).await;
    drop(gateway.reading().await);
    assert_eq!(device.hears_or_ends().await, None);
    gateway.stop().await;
}

#[tokio::test]
async fn acknowledgements_are_settled_by_newer_publications() {
    let (mut gateway, port) = listening().await;
    let (mut device, _) = Device::connect(port, &me(V5)).await;
    let mut first = None;
    for packet in 1..=4 {
        device.says(&publish(V5, 0x02, "site/boiler/env", packet, b"1")).await;
        let (reading, ack) = gateway.reading().await;
        first.get_or_insert(reading.delivery.unwrap().number);
        ack.accept();
        assert_eq!(device.hears().await, puback(packet));
    }
    assert_eq!(Some(gateway.settled().await), first, "the device may have 3 under way");
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_may_not_have_more_under_way_than_allowed() {
    for version in BOTH {
        let (mut gateway, port) = listening().await;
        let (mut device, _) = Device::connect(port, &me(version)).await;
        let mut all = Vec::new();
        for packet in 1..=10 {
            all.extend(publish(version, 0x02, "site/boiler/env", packet, b"1"));
        }
        device.says(&all).await;
        let mut acks = Vec::new();
        for _ in 0..3 {
            acks.push(gateway.reading().await.1);
        }
        // The rest is held back, not refused, until there is room for it.
        for packet in 1..=10 {
            acks.remove(0).accept();
            assert_eq!(device.hears().await, puback(packet));
            if packet <= 7 {
                acks.push(gateway.reading().await.1);
            }
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn rumqttc_publishes_with_3_1_1() {
    let (mut gateway, port) = listening().await;
    let (client, mut events) = AsyncClient::new(MqttOptions::new("d1", "127.0.0.1", port), 10);
    for n in 0..50 {
        let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let send = client.publish("site/boiler/env", qos, false, n.to_string());
        let publishing = async {
            send.await.unwrap();
            loop {
                match events.poll().await.unwrap() {
                    Event::Incoming(Incoming::PubAck(_)) => break,
                    Event::Outgoing(Outgoing::Publish(0)) => break,
                    _ => {}
                }
            }
        };
        let reading = async {
            let (reading, ack) = gateway.reading().await;
            assert_eq!(value(&reading), &Value::Integer(n));
            ack.accept();
        };
        within("a reading and its PUBACK", async { tokio::join!(publishing, reading) }).await;
    }
    client.disconnect().await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn commands_reach_the_devices_that_subscribed() {
    let (gateway, port) = listening().await;
    let nobody = gateway.publish("cmd/boiler", "62").await;
    assert_eq!(nobody, Err(CommandError::NobodySubscribed { topic: "cmd/boiler".into() }));

    let (v3, mut v3_events) = AsyncClient::new(MqttOptions::new("old", "127.0.0.1", port), 10);
    let (v5, mut v5_events) = v5::AsyncClient::new(v5::MqttOptions::new("new", "127.0.0.1", port), 10);
    v3.subscribe("cmd/+", QoS::AtLeastOnce).await.unwrap();
    v5.subscribe("cmd/#", v5::mqttbytes::QoS::AtMostOnce).await.unwrap();
    let (tell, mut heard) = mpsc::unbounded_channel();
    let tell_v5 = tell.clone();
    tokio::spawn(async move {
        while let Ok(event) = v3_events.poll().await {
            match event {
                Event::Incoming(Incoming::SubAck(_)) => tell.send(("old", "subscribed".to_owned())).unwrap(),
                Event::Incoming(Incoming::Publish(publish)) => {
                    let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                    tell.send(("old", payload)).unwrap();
                }
                _ => {}
            }
        }
    });
    tokio::spawn(async move {
        while let Ok(event) = v5_events.poll().await {
            match event {
                v5::Event::Incoming(v5::Incoming::SubAck(_)) => {
                    tell_v5.send(("new", "subscribed".to_owned())).unwrap();
                }
                v5::Event::Incoming(v5::Incoming::Publish(publish)) => {
                    let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                    tell_v5.send(("new", payload)).unwrap();
                }
                _ => {}
            }
        }
    });
    let mut both = async |expected: &str| {
        let mut who = Vec::new();
        for _ in 0..2 {
            let (device, text) = within("both devices", heard.recv()).await.unwrap();
            assert_eq!(text, expected);
            who.push(device);
        }
        who.sort_unstable();
        assert_eq!(who, ["new", "old"]);
    };
    both("subscribed").await;
    for value in ["62", "63"] {
        gateway.publish("cmd/boiler", value).await.unwrap();
        both(value).await;
    }
    v3.unsubscribe("cmd/+").await.unwrap();
    drop((v3, v5));
    gateway.stop().await;
}

#[tokio::test]
async fn a_command_is_done_when_the_device_says_so() {
    let (gateway, port) = listening().await;
    let (mut device, _) = Device::connect(port, &me(V3)).await;
    device.says(b"\x82\x08\x00\x01\x00\x03cmd\x01").await;
    assert_eq!(device.hears().await, [0x90, 3, 0, 1, 1]);
    let answer = async {
        let heard = device.hears().await;
        assert_eq!(heard, publish(V3, 0x02, "cmd", 1, b"62"));
        device.says(&puback(1)).await;
    };
    let (done, ()) = tokio::join!(gateway.publish("cmd", "62"), answer);
    done.unwrap();

    let vanish = async {
        device.hears().await;
        drop(device);
    };
    let (done, ()) = tokio::join!(gateway.publish("cmd", "63"), vanish);
    assert_eq!(done, Err(CommandError::Interrupted { peer: "d1".into() }));
    gateway.stop().await;
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    for version in BOTH {
        let (mut gateway, port) = listening().await;
        let (mut first, _) = Device::connect(port, &me(version)).await;
        let (mut second, session_present) = Device::connect(port, &me(version)).await;
        assert!(session_present);
        let expected = (version == V5).then(|| vec![0xe0, 2, 0x8e, 0]);
        let good_bye = first.hears_or_ends().await;
        assert_eq!(
            good_bye.as_ref().map(|packet| &packet[2..3]),
            expected.as_ref().map(|packet| &packet[2..3])
        );
        second.says(&publish(version, 0, "site/boiler/env", 0, b"1")).await;
        gateway.reading().await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_silent_device_is_given_up() {
    for version in BOTH {
        let (gateway, port) = listening().await;
        let connect = Connect { keep_alive: 1, ..me(version) };
        let (mut device, _) = Device::connect(port, &connect).await;
        match device.hears_or_ends().await {
            Some(packet) => assert_eq!((version, packet[0], packet[2]), (V5, 0xe0, 0x8d)),
            None => assert_eq!(version, V3),
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_supported_ends_the_connection() {
    for (version, bytes, reason) in [
        (V3, publish(V3, 0x04, "site/boiler/env", 7, b"1"), None),
        (V5, publish(V5, 0x04, "site/boiler/env", 7, b"1"), Some(0x9b)),
        (V3, publish(V3, 0, "site/+/env", 0, b"1"), None),
        (V5, publish(V5, 0, "", 0, b"1"), Some(0x94)),
        (V3, me(V3).bytes(), None),
        (V5, me(V5).bytes(), Some(0x82)),
    ] {
        let (mut gateway, port) = listening().await;
        let (mut device, _) = Device::connect(port, &me(version)).await;
        device.says(&bytes).await;
        let heard = device.hears_or_ends().await;
        assert_eq!(heard.as_ref().map(|packet| packet[2]), reason, "{bytes:x?}");
        serves(&mut gateway, port).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_huge_packet_is_cut_off_before_it_is_read() {
    for version in BOTH {
        let (mut gateway, port) = listening().await;
        let (mut device, _) = Device::connect(port, &me(version)).await;
        // A PUBLISH of 256 MiB, of which nothing follows.
        device.says(b"\x30\xff\xff\xff\x7f").await;
        let heard = device.hears_or_ends().await;
        assert_eq!(heard.map(|packet| packet[2]), (version == V5).then_some(0x95));
        serves(&mut gateway, port).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_refused_and_the_device_stays() {
    let (mut gateway, port) = listening().await;
    let (mut device, _) = Device::connect(port, &me(V5)).await;
    device.says(&publish(V5, 0x02, "site/boiler/env", 7, &[b'1'; 2000])).await;
    assert_eq!(gateway.refusal().await, Refusal::TooLarge { bytes: 2000, max: 1024 });
    assert_eq!(device.hears().await, puback(7));
    device.says(&publish(V5, 0x02, "elsewhere", 8, b"1")).await;
    assert_eq!(gateway.refusal().await.kind(), "route");
    assert_eq!(device.hears().await, puback(8));
    gateway.stop().await;
}

#[tokio::test]
async fn packets_may_come_in_any_pieces() {
    for version in BOTH {
        let (mut gateway, port) = listening().await;
        let mut device = Device::open(port).await;
        let mut bytes = me(version).bytes();
        bytes.extend(publish(version, 0x02, "site/boiler/env", 7, b"21"));
        bytes.extend(publish(version, 0x02, "site/boiler/env", 8, b"22"));
        for byte in bytes {
            device.says(&[byte]).await;
        }
        for expected in [21, 22] {
            let (reading, ack) = gateway.reading().await;
            assert_eq!(value(&reading), &Value::Integer(expected));
            ack.accept();
        }
        assert_eq!(device.hears().await[0], 0x20);
        assert_eq!(device.hears().await, puback(7));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn half_a_packet_and_then_nothing_is_nothing() {
    let (mut gateway, port) = listening().await;
    let (mut device, _) = Device::connect(port, &me(V3)).await;
    let bytes = publish(V3, 0x02, "site/boiler/env", 7, b"21");
    device.says(&bytes[..bytes.len() - 1]).await;
    drop(device);
    serves(&mut gateway, port).await;
    gateway.stop().await;
}

/// A small generator of noise, the same at every run.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
}

#[tokio::test]
async fn noise_is_answered_or_cut_off_and_nobody_else_notices() {
    let (mut gateway, port) = listening().await;
    for seed in 0..300 {
        let mut bytes: Vec<u8> = noise(seed).take(64).collect();
        let mut device = Device::open(port).await;
        if seed % 3 != 0 {
            let version = BOTH[usize::try_from(seed % 2).unwrap()];
            let mut connected = me(version).bytes();
            connected.append(&mut bytes);
            bytes = connected;
        }
        device.says(&bytes).await;
    }
    let connect = Connect { client_id: "honest", ..me(V5) };
    // The noisy ones may still hold all places; they go as soon as they are found out.
    let mut honest = loop {
        let mut device = Device::open(port).await;
        device.says(&connect.bytes()).await;
        if let Some(answer) = device.hears_or_ends().await {
            assert_eq!((answer[0], answer[3]), (0x20, 0));
            break device;
        }
    };
    honest.says(&publish(V5, 0x02, "site/honest/env", 7, b"1")).await;
    loop {
        if let atedge_adapters::Captured::Reading { reading, ack } = gateway.next().await {
            assert_eq!(reading.device.as_str(), "honest", "noise became a reading");
            ack.accept();
            break;
        }
    }
    assert_eq!(honest.hears().await, puback(7));
    gateway.stop().await;
}

#[tokio::test]
async fn connections_are_limited() {
    let (mut gateway, port) = listening().await;
    let mut devices = Vec::new();
    for client_id in ["a", "b", "c", "d"] {
        devices.push(Device::connect(port, &Connect { client_id, ..me(V5) }).await.0);
    }
    let mut fifth = Device::open(port).await;
    assert_eq!(fifth.hears_or_ends().await, None);
    let mut last = devices.pop().unwrap();
    last.says(&DISCONNECT).await;
    assert_eq!(last.hears_or_ends().await, None);
    devices[0].says(&publish(V5, 0, "site/boiler/env", 0, b"1")).await;
    gateway.reading().await;
    gateway.stop().await;
}

#[tokio::test]
async fn client_identifiers_are_given_and_judged() {
    let (gateway, port) = listening().await;
    let nameless = |version, clean| Connect { client_id: "", clean, ..me(version) };
    Device::connect(port, &nameless(V3, true)).await;
    let mut given = Device::open(port).await;
    given.says(&nameless(V5, false).bytes()).await;
    let connack = given.hears().await;
    assert!(connack.windows(5).any(|window| window == b"auto-"), "it is told its identifier");
    let mut refused = Device::open(port).await;
    refused.says(&nameless(V3, false).bytes()).await;
    assert_eq!(refused.hears().await, [0x20, 2, 0, 2]);
    let mut long = Device::open(port).await;
    long.says(&Connect { client_id: &"x".repeat(257), ..me(V3) }.bytes()).await;
    assert_eq!(long.hears().await, [0x20, 2, 0, 2]);
    gateway.stop().await;
}

#[tokio::test]
async fn an_unknown_version_is_told_so() {
    let (gateway, port) = listening().await;
    let mut device = Device::open(port).await;
    device.says(&me(6).bytes()).await;
    assert_eq!(device.hears().await, [0x20, 2, 0, 1]);
    assert_eq!(device.hears_or_ends().await, None);
    gateway.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let (mut gateway, port) = listening().await;
    serves(&mut gateway, port).await;
    let config: AdapterConfig = toml::from_str(&table(port)).unwrap();
    let (intake, _captured) = mpsc::channel(1);
    let (_commands, ordered) = mpsc::channel(1);
    let second = config.build("second").unwrap().run(intake, ordered, CancellationToken::new());
    let error = within("the error", second).await.unwrap_err();
    assert!(matches!(&error, AdapterError::Listen { .. }), "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_stranger_has_to_introduce_itself() {
    let (gateway, port) = listening().await;
    let mut stranger = Device::open(port).await;
    assert_eq!(stranger.hears_or_ends().await, None);
    gateway.stop().await;
}
