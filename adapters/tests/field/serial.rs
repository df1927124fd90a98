//! Serial devices on pseudo terminals.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use atedge_adapters::serial::FrameError;
use atedge_adapters::{CommandError, Order, Refusal, Value};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

const POLL: &str = r#"poll = { send = "P\r\n", every = "50ms" }"#;

#[tokio::test]
async fn lines_become_readings() {
    let (_folder, port) = port();
    let mut scale = Scale::plugged_in(&port);
    let mut gateway = gateway(&port, POLL);
    scale.hears("P\r\n").await;
    scale.says("+1.5 k").await;
    scale.hears("P\r\n").await;
    scale.says("g\r\n-2 kg\r\n").await;
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
