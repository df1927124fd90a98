//! Bytes that reach a codec only through a running adapter: MQTT packets of devices without a broker, and
//! the noise of a serial line.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{LazyLock, Mutex, PoisonError};

use atedge_adapters::{AdapterConfig, Captured, Reading, Value};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::process::PATIENCE;
use crate::publisher::Publisher;
use crate::town::free_address;

/// How long a word to a serial line is given before it is said again.
const PROBE: std::time::Duration = std::time::Duration::from_millis(200);

/// A running adapter whose readings are all accepted.
struct Bench {
    _runtime: Runtime,
    readings: Receiver<Reading>,
}

impl Bench {
    fn of(config: serde_json::Value) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let config: AdapterConfig = serde_json::from_value(config).expect("a documented adapter");
        let adapter = config.build("fuzzed").expect("a sensible adapter");
        let (intake, mut captured) = mpsc::channel(8);
        let (commands, none) = mpsc::channel(1);
        let (sender, readings) = channel();
        runtime.spawn(adapter.run(intake, none, CancellationToken::new()));
        runtime.spawn(async move {
            while let Some(captured) = captured.recv().await {
                if let Captured::Reading { reading, ack } = captured {
                    ack.accept();
                    sender.send(reading).expect("the bench lives as long as its runtime");
                }
            }
            // An adapter need not go on when nobody can command it.
            drop(commands);
        });
        Self { _runtime: runtime, readings }
    }
}

/// A device that says anything is hung up on when it is done, and others are still served.
pub(super) fn mqtt_listen(input: &[u8]) {
    static BENCH: LazyLock<(SocketAddr, Mutex<Bench>)> = LazyLock::new(|| {
        let address = free_address().expect("a port");
        let route = json!({
            "topic": "t/{dev}", "device": "{dev}", "stream": "process", "decode": { "as": "json" },
        });
        let bench =
            Bench::of(json!({ "type": "mqtt", "listen": address.to_string(), "route": { "all": route } }));
        while TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        (address, Mutex::new(bench))
    });
    let (address, bench) = &*BENCH;
    let mut device = TcpStream::connect(address).expect("the listener listens");
    device.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It may be cut off while it talks.
    if device.write_all(input).is_ok() && device.shutdown(Shutdown::Write).is_ok() {
        let mut heard = Vec::new();
        if let Err(error) = device.read_to_end(&mut heard) {
            assert!(error.kind() != std::io::ErrorKind::WouldBlock, "the device was left hanging");
        }
    }
    if input.first().is_some_and(|byte| byte % 16 == 0) {
        let bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
        let mut honest = Publisher::connect(*address, "honest").expect("a place for an honest device");
        honest.publish(&[("t/boiler".to_owned(), "{\"n\":1}".to_owned())]).expect("an acknowledgement");
        while bench.readings.try_recv().is_ok() {}
    }
}

/// Behind any noise and a line end, the next line is read as it was written.
pub(super) fn serial_line(input: &[u8]) {
    static LINE: LazyLock<Mutex<(File, OwnedFd, Bench, i64)>> = LazyLock::new(|| {
        let scale = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&scale).and_then(|()| unlockpt(&scale)).expect("a pseudo-terminal of ours");
        let path = ptsname(&scale, Vec::new()).expect("its name").into_string().expect("a plain name");
        let kept = File::options().read(true).write(true).open(&path).expect("the other end");
        // As the adapter sets it, but before anything can be written.
        let mut modes = tcgetattr(&kept).expect("a terminal");
        modes.make_raw();
        tcsetattr(&kept, OptionalActions::Now, &modes).expect("a terminal");
        let bench = Bench::of(json!({
            "type": "serial", "port": path, "baud": 115_200, "device": "scale", "stream": "weights",
            "framing": { "kind": "line", "ending": "crlf", "max": 64 },
            "decode": { "as": "regex", "pattern": "^(?<n>[+-][0-9]+) kg$", "types": { "n": "i64" } },
        }));
        let mut scale = File::from(scale);
        // What is said before the adapter has opened the line may be lost: it is said until it is heard.
        loop {
            scale.write_all(b"\r\n+0 kg\r\n").expect("the line is open");
            if bench.readings.recv_timeout(PROBE).is_ok() {
                break;
            }
        }
        Mutex::new((scale, kept.into(), bench, 0))
    });
    let mut line = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    let (scale, _, bench, count) = &mut *line;
    *count += 1;
    scale.write_all(input).expect("the line is open");
    scale.write_all(format!("\r\n+{count} kg\r\n").as_bytes()).expect("the line is open");
    loop {
        let reading = bench.readings.recv_timeout(PATIENCE).expect("the adapter is in step again");
        if reading.points[0].value == Value::Integer(*count) {
            return;
        }
    }
}
