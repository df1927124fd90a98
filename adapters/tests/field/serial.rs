//! Serial devices on pseudo terminals.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atedge_adapters::serial::FrameError;
use atedge_adapters::{CommandError, Order, Refusal, Value};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_serial::{SerialPort, SerialStream};

use super::gateway::{Gateway, value, within};

/// A scale on a serial line. Dropping it is pulling its plug.
struct Scale {
    device: SerialStream,
    /// Keeps the line in its raw state while the adapter is away.
    _line: File,
}

impl Scale {
    fn plugged_in(port: &Path) -> Self {
        let (device, mut line) = SerialStream::pair().unwrap();
        line.set_exclusive(false).unwrap();
        if port.symlink_metadata().is_ok() {
            std::fs::remove_file(port).unwrap();
        }
        let name = line.name().unwrap();
        symlink(&name, port).unwrap();
        // `line` itself has a lock that keeps the adapter out.
        Self { device, _line: File::open(name).unwrap() }
    }

    async fn says(&mut self, text: &str) {
        self.device.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, text: &str) {
        let mut heard = vec![0; text.len()];
        within("what the scale should hear", self.device.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, text.as_bytes());
    }
}

fn port() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let port = folder.path().join("port0");
    (folder, port)
}

fn gateway(port: &Path, more: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        type = "serial"
        port = "{}"
        device = "scale1"
        stream = "weights"
        framing = {{ kind = "line", ending = "crlf", max = 16 }}
        decode = {{ as = "regex", pattern = '^(?<gross>[+-][0-9.]+) kg$', types = {{ gross = "f64" }} }}
        {more}
        "#,
        port.display()
    ))
}

const POLL: &str = r#"poll = { send = "P\r\n", every = "50ms", timeout = "60s" }"#;

#[tokio::test]
async fn lines_become_readings() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, POLL);
    scale.hears("P\r\n").await;
    scale.says("+1.5 k").await;
    scale.says("g\r\n").await;
    scale.hears("P\r\n").await;
    scale.says("-2 kg\r\n").await;
    for expected in [1.5, -2.0] {
        let (reading, ack) = gateway.reading().await;
        assert_eq!((reading.device.as_str(), reading.stream.as_str()), ("scale1", "weights"));
        assert_eq!(value(&reading), &Value::Float(expected));
        assert_eq!(reading.delivery, None);
        ack.accept();
    }
    gateway.stop().await;
}

#[tokio::test]
async fn noise_is_refused_and_reading_goes_on() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, POLL);
    scale.hears("P\r\n").await;
    scale.device.write_all(b"\xff\xfe\x00noise\r\n").await.unwrap();
    assert_eq!(gateway.refusal().await.kind(), "decode");
    scale.says(&format!("{}\r\n+1 kg\r\n", "+".repeat(1000))).await;
    assert_eq!(gateway.refusal().await, Refusal::Frame(FrameError::TooLong { max: 16 }));
    assert_eq!(value(&gateway.reading().await.0), &Value::Float(1.0));
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_that_comes_back_is_read_again() {
    let (_folder, port) = port();
    let mut gateway = gateway(&port, POLL);
    let refused = gateway.order(Order::Send { bytes: b"Z".into() }).await;
    assert_eq!(refused, Err(CommandError::NotConnected { peer: port.display().to_string() }));
    for round in 0..3 {
        let mut scale = Scale::plugged_in(&port);
        scale.hears("P\r\n").await;
        scale.says(&format!("+{round} kg\r\n+7")).await;
        assert_eq!(value(&gateway.reading().await.0), &Value::Float(f64::from(round)));
        drop(scale);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn orders_are_sent_as_they_are() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, "");
    gateway.order(Order::Send { bytes: b"T\r\n".into() }).await.unwrap();
    scale.hears("T\r\n").await;
    let published = gateway.publish("a", "b").await;
    assert_eq!(published, Err(CommandError::Unsupported { adapter: "serial", order: "publish" }));
    scale.says("+1 kg\r\n").await;
    gateway.reading().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_counted_and_asked_for_again() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, r#"poll = { send = "P\r\n", every = "200ms", timeout = "100ms" }"#);
    for round in 0..3 {
        scale.hears("P\r\n").await;
        let missing = gateway.refusal().await;
        assert_eq!(missing, Refusal::Unanswered { waited: Duration::from_millis(100) });
        assert_eq!(missing.kind(), "silent");
        scale.hears("P\r\n").await;
        scale.says(&format!("+{round} kg\r\n")).await;
        assert_eq!(value(&gateway.reading().await.0), &Value::Float(f64::from(round)));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_order_waits_for_the_answer_to_a_question_and_is_not_mixed_with_the_next() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, POLL);
    scale.hears("P\r\n").await;
    let ordered = gateway.order(Order::Send { bytes: b"T\r\n".into() });
    let device = async {
        // Nothing but the question is on the line until it is answered.
        let early = timeout(Duration::from_millis(200), scale.device.read_u8()).await;
        assert!(early.is_err(), "the line was spoken on while an answer was awaited");
        scale.says("+1 kg\r\n").await;
        scale.hears("T\r\n").await;
        let early = timeout(Duration::from_millis(200), scale.device.read_u8()).await;
        assert!(early.is_err(), "the line was spoken on while an order's answer was awaited");
        scale.says("+0 kg\r\n").await;
        scale.hears("P\r\n").await;
    };
    let (ordered, ()) = tokio::join!(ordered, device);
    ordered.unwrap();
    for expected in [1.0, 0.0] {
        assert_eq!(value(&gateway.reading().await.0), &Value::Float(expected));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn questions_do_not_drift() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, r#"poll = { send = "P\r\n", every = "100ms" }"#);
    let mut asked = Vec::new();
    for n in 0..20 {
        scale.hears("P\r\n").await;
        asked.push(tokio::time::Instant::now());
        // What an answer takes must not add up.
        tokio::time::sleep(Duration::from_millis(20)).await;
        scale.says(&format!("+{n} kg\r\n")).await;
        gateway.reading().await;
    }
    let mean = (asked[19] - asked[0]) / 19;
    let turns = mean.as_secs_f64() / 0.1;
    assert!((turns - turns.round()).abs() < 0.05 || (1.0..1.1).contains(&turns), "asked every {mean:?}");
    gateway.stop().await;
}

/// A scale whose frames and numbers are told apart as these settings say.
fn framed(port: &Path, settings: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        type = "serial"
        port = "{}"
        device = "scale1"
        stream = "weights"
        poll = {{ send = 'hex:05', every = "60s", timeout = "60s" }}
        {settings}
        "#,
        port.display()
    ))
}

/// Says the frames, with noise before, between and behind them, to an adapter with these settings, which
/// is to read 1, 2 and so on.
async fn reads_among_noise(settings: &str, noise: &[u8], frames: &[&[u8]]) {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = framed(&port, settings);
    scale.hears("\x05").await;
    for (n, frame) in (1..).zip(frames) {
        scale.device.write_all(noise).await.unwrap();
        assert!(matches!(gateway.refusal().await, Refusal::Frame(_)));
        let (early, late) = frame.split_at(frame.len() / 2);
        scale.device.write_all(early).await.unwrap();
        scale.device.flush().await.unwrap();
        tokio::task::yield_now().await;
        scale.device.write_all(late).await.unwrap();
        assert_eq!(value(&gateway.reading().await.0), &Value::Integer(n));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn frames_between_marks_are_read() {
    let settings = r#"
        framing = { kind = "delimiter", start = '\x02', end = '\x03', max = 16 }
        check = { kind = "xor8" }
        decode = { as = "csv", columns = [{ name = "n", at = 1, type = "i64" }] }
    "#;
    let frames: [&[u8]; 2] = [b"\x02\"a,\",1\x50\x03", b"\x02b,2\x7c\x03"];
    reads_among_noise(settings, b"noise", &frames).await;
}

#[tokio::test]
async fn frames_of_one_size_are_read() {
    let settings = r#"
        framing = { kind = "fixed", size = 5, sync = "hex:aa55" }
        check = { kind = "sum8" }
        decode = { as = "binary", fields = [{ name = "n", at = 2, type = "u16be" }] }
    "#;
    reads_among_noise(settings, b"\xaano\xaa", &[b"\xaa\x55\0\x01\0", b"\xaa\x55\0\x02\x01"]).await;
}

#[tokio::test]
async fn frames_that_say_their_length_are_read() {
    let settings = r#"
        framing = { kind = "length", at = 1, size = 1, adds = 2, sync = "hex:7e", max = 32 }
        check = { kind = "xor8" }
        decode = { as = "binary", fields = [{ name = "n", at = 3, type = "i16le" }] }
    "#;
    // A length that no frame has.
    let frames: [&[u8]; 2] = [b"\x7e\x04x\x01\0\x03", b"\x7e\x05x\x02\0y\x78"];
    reads_among_noise(settings, b"\x7e\xff", &frames).await;
}

#[tokio::test]
async fn coded_frames_are_read() {
    let decode = r#"decode = { as = "binary", fields = [{ name = "n", at = 0, type = "u32be" }] }"#;
    let cobs = format!("framing = {{ kind = \"cobs\", max = 16 }}\n{decode}");
    reads_among_noise(&cobs, b"\x09\x01\0", &[b"\x01\x01\x01\x02\x01\0", b"\x01\x01\x01\x02\x02\0"]).await;
    let slip = format!("framing = {{ kind = \"slip\", max = 16 }}\n{decode}");
    reads_among_noise(&slip, b"\xdb\x01\xc0", &[b"\0\0\0\x01\xc0", b"\0\0\0\x02\xc0"]).await;
}

#[tokio::test]
async fn frames_between_silences_are_read() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = framed(
        &port,
        r#"
        framing = { kind = "idle", gap = "150ms", max = 16 }
        check = { kind = "crc16-modbus" }
        decode = { as = "binary", fields = [{ name = "n", at = 3, type = "i16be", scale = 0.1 }] }
        "#,
    );
    scale.hears("\x05").await;
    let silence = || tokio::time::sleep(Duration::from_millis(600));
    silence().await;
    // The answer of a Modbus device, whose 0x1234 is 466.0.
    let answer = [0x01, 0x03, 0x02, 0x12, 0x34, 0xb5, 0x33];
    for _ in 0..2 {
        scale.device.write_all(&answer).await.unwrap();
        assert_eq!(value(&gateway.reading().await.0), &Value::Float(466.0));
        scale.device.write_all(b"noise").await.unwrap();
        assert_eq!(gateway.refusal().await.kind(), "check");
        scale.device.write_all(&[b'x'; 17]).await.unwrap();
        assert_eq!(gateway.refusal().await, Refusal::Frame(FrameError::TooLong { max: 16 }));
        silence().await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_frame_that_stands_still_keeps_no_other_waiting() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = framed(
        &port,
        r#"
        framing = { kind = "fixed", size = 2 }
        decode = { as = "binary", fields = [{ name = "n", at = 0, type = "u16be" }] }
        "#,
    );
    scale.hears("\x05").await;
    scale.device.write_all(b"\x01").await.unwrap();
    assert_eq!(gateway.refusal().await, Refusal::Frame(FrameError::CutOff));
    scale.device.write_all(b"\0\x07").await.unwrap();
    assert_eq!(value(&gateway.reading().await.0), &Value::Integer(7));
    gateway.stop().await;
}
