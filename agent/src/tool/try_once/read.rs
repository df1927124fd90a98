//! One reading through an adapter, with the bytes it was made of.

use std::cell::RefCell;
use std::time::Duration;

use atedge_adapters::decode::{Decode, Decoder};
use atedge_adapters::mqtt::{Route, Version};
use atedge_adapters::report::ReportConfig;
use atedge_adapters::{AdapterConfig, Captured, Reading, StreamName, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock as _, SystemClock};
use crate::config::AgentConfig;
use crate::normalise::normalise;
use crate::outbox::Capture;

/// How long the adapter may take to end afterwards.
const LEAVE: Duration = Duration::from_secs(10);

/// What was read.
pub(super) struct Tried {
    /// As it came, where the adapter can show that.
    pub(super) raw: Option<Vec<u8>>,
    /// What would go into the queue.
    pub(super) capture: Capture,
}

/// Why there is nothing to show.
#[derive(Debug)]
pub(super) struct Failed {
    /// What came, where it was that.
    pub(super) raw: Option<Vec<u8>>,
    pub(super) why: String,
}

impl Failed {
    fn because(why: impl ToString) -> Self {
        Self { raw: None, why: why.to_string() }
    }
}

/// Reads once; `told` is told while the device or broker is not reached.
pub(super) async fn read(
    name: &str,
    adapter: AdapterConfig,
    config: &AgentConfig,
    patience: Duration,
    told: impl Fn(&str),
) -> Result<Tried, Failed> {
    let (adapter, originals) = undecoded(adapter);
    let adapter = adapter.build(name).map_err(Failed::because)?;
    let (intake, mut captured) = mpsc::channel(1);
    let (_orders, ordered) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let mut running = tokio::spawn(adapter.run(intake, ordered, stop.clone()));
    let unreached = RefCell::new(None);
    let tell = |why: &str| {
        told(why);
        unreached.replace(Some(why.to_owned()));
    };
    let read = timeout(patience, first(&mut captured, tell));
    let read = tokio::select! {
        read = read => read,
        ended = &mut running => {
            return Err(match ended {
                Ok(Err(error)) => Failed::because(format_args!("{error}; does the agent run with this adapter? Then `atedge-agent tap` shows what it reads")),
                Ok(Ok(())) | Err(_) => Failed::because("it ended by itself"),
            });
        }
    };
    // What it still hands on is dropped, and with that not acknowledged.
    drop(captured);
    stop.cancel();
    if timeout(LEAVE, &mut running).await.is_err() {
        running.abort();
    }
    let reading = match read {
        Ok(read) => read?,
        Err(_) => {
            let why = unreached.take().map(|why| format!("; {why}")).unwrap_or_default();
            return Err(Failed::because(format_args!("nothing was read within {patience:?}{why}")));
        }
    };
    let (raw, reading) = originals.decode(reading)?;
    let is_configured = |stream: &StreamName| config.stream.contains_key(stream);
    match normalise(reading, SystemClock::start().now(), is_configured) {
        Ok(capture) => Ok(Tried { raw, capture }),
        Err(unfit) => Err(Failed { raw, why: unfit.to_string() }),
    }
}

/// The first reading or refusal.
async fn first(captured: &mut mpsc::Receiver<Captured>, told: impl Fn(&str)) -> Result<Reading, Failed> {
    loop {
        match captured.recv().await {
            // Its acknowledgement is dropped with it: whoever repeats will.
            Some(Captured::Reading { reading, .. }) => return Ok(reading),
            Some(Captured::Refused { why, .. }) => {
                return Err(Failed::because(format_args!("refused: {why}")));
            }
            Some(Captured::Unreached { why }) => told(&why),
            Some(Captured::Suppressed { .. }) => told("a reading came that the report rules leave out"),
            Some(Captured::Reached | Captured::Settled { .. } | Captured::SessionLost { .. }) => {}
            None => return Err(Failed::because("it ended by itself")),
        }
    }
}

/// How readings are decoded that an adapter was told to leave as they are.
enum Originals {
    /// It decodes by itself.
    None,
    /// All in one way.
    One(Box<Decoder>),
    /// By route: the stream of its readings is the route's number.
    Routes(Vec<(StreamName, Decoder)>),
}

/// The adapter with its decoding taken out where that can be done.
fn undecoded(adapter: AdapterConfig) -> (AdapterConfig, Originals) {
    let raw = || Decode::Raw { name: "raw".parse().expect("`raw` is a name"), content_type: None };
    match adapter {
        AdapterConfig::Serial(mut serial) => {
            serial.report = ReportConfig::default();
            let decode = std::mem::replace(&mut serial.decode, raw());
            let decoder = Decoder::plain(decode, std::mem::take(&mut serial.units));
            (AdapterConfig::Serial(serial), Originals::One(Box::new(decoder)))
        }
        AdapterConfig::Mqtt(mut mqtt) => {
            mqtt.report = ReportConfig::default();
            let mut originals = Vec::new();
            for route in mqtt.route.values_mut() {
                let number = originals.len().to_string().parse().expect("digits are a name");
                let Route { stream, decode, pick, units, time, id, .. } = route;
                let decoder = Decoder {
                    decode: std::mem::replace(decode, raw()),
                    pick: std::mem::take(pick),
                    time: time.take(),
                    id: id.take(),
                    device: None,
                    units: std::mem::take(units),
                };
                originals.push((std::mem::replace(stream, number), decoder));
            }
            // A session of its own, which the broker forgets soon: MQTT 3.1.1 would keep it.
            mqtt.client_id = mqtt.url.is_some().then(|| format!("atedge-try-{}", std::process::id()));
            // Nor does it take anything from a group.
            mqtt.share = None;
            mqtt.version = Version::V5;
            mqtt.session_expiry = atedge_adapters::units::Duration::from_secs(60);
            (AdapterConfig::Mqtt(mqtt), Originals::Routes(originals))
        }
        other @ (AdapterConfig::Process(_) | AdapterConfig::ModbusRtu(_) | AdapterConfig::ModbusTcp(_)) => {
            (other, Originals::None)
        }
    }
}

impl Originals {
    /// What `reading` would have been, and its bytes.
    fn decode(&self, mut reading: Reading) -> Result<(Option<Vec<u8>>, Reading), Failed> {
        let decoder = match self {
            Self::None => return Ok((None, reading)),
            Self::One(decoder) => decoder,
            Self::Routes(routes) => {
                let number = reading.stream.as_str().parse::<usize>().ok();
                let route = number.and_then(|number| routes.get(number));
                let (stream, decoder) = route.ok_or_else(|| Failed::because("it has no route"))?;
                reading.stream = stream.clone();
                decoder
            }
        };
        let Some(Value::Data { bytes, .. }) = reading.points.pop().map(|point| point.value) else {
            return Err(Failed::because("it has no bytes"));
        };
        match decoder.decode(&bytes) {
            Ok(decoded) => {
                (reading.points, reading.time) = (decoded.points, decoded.time);
                reading.device_id = decoded.device_id;
                Ok((Some(bytes), reading))
            }
            Err(error) => Err(Failed { raw: Some(bytes), why: format!("it does not decode: {error}") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn config(adapter: &str) -> AgentConfig {
        toml::from_str(&format!(
            "schema = 1\n[gateway]\natsign = \"@gw\"\nkeys = \"file:k\"\ndirectory = \"d:64\"\nnamespace = \"plant7\"\n\
             [stream.process]\nto = [\"@ops\"]\n[adapter.a]\n{adapter}"
        ))
        .unwrap()
    }

    async fn tried(adapter: &str, patience: u64) -> Result<Tried, Failed> {
        let config = config(adapter);
        read("a", config.adapter["a"].clone(), &config, Duration::from_secs(patience), |_| {}).await
    }

    fn program(says: &str) -> String {
        format!(
            "type = \"process\"\ncommand = [\"/bin/sh\", \"-c\", '{says}; exec sleep 100']\ndevice = \"pump\"\nstream = \"process\"\n"
        )
    }

    #[tokio::test]
    async fn the_first_reading_is_shown_and_the_adapter_ended() {
        let Tried { raw, capture } = tried(&program(r#"echo "{\"rpm\":7}""#), 30).await.unwrap();
        assert_eq!((raw, capture.device.as_str()), (None, "pump"));
        assert_eq!(capture.points[0].value, Value::Integer(7));
        let refused = tried(&program("echo nonsense"), 30).await.err().unwrap();
        assert!(refused.why.starts_with("refused: "), "{}", refused.why);
        let silent = tried(&program("true"), 0).await.err().unwrap();
        assert!(silent.why.contains("nothing was read"), "{}", silent.why);
    }

    #[tokio::test]
    async fn a_device_that_publishes_is_not_acknowledged_and_its_bytes_are_shown() {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (payload, says) in [(r#"{"t":21.5}"#, None), ("21.5", Some("it does not decode"))] {
            let address = free();
            let table = format!(
                "type = \"mqtt\"\nlisten = \"{address}\"\n[adapter.a.route.other]\ntopic = \"b/{{dev}}\"\ndevice = \
                 \"{{dev}}\"\nstream = \"process\"\ndecode = {{ as = \"text\" }}\n[adapter.a.route.env]\ntopic = \
                 \"s/{{dev}}\"\ndevice = \"{{dev}}\"\nstream = \"process\"\ndecode = {{ as = \"json\" }}\n"
            );
            let device = tokio::task::spawn_blocking(move || {
                let mut device = loop {
                    match TcpStream::connect(address) {
                        Ok(device) => break device,
                        Err(_) => std::thread::yield_now(),
                    }
                };
                device.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01d").unwrap();
                device.read_exact(&mut [0; 4]).unwrap();
                let length = u8::try_from(2 + 6 + 2 + payload.len()).unwrap();
                let head = [&[0x32, length, 0, 6][..], b"s/oven", &[0, 9]].concat();
                device.write_all(&[&head, payload.as_bytes()].concat()).unwrap();
                let mut rest = Vec::new();
                device.read_to_end(&mut rest).ok();
                rest
            });
            let shown = tried(&table, 30).await;
            assert!(!device.await.unwrap().starts_with(&[0x40]), "it is not acknowledged");
            match (shown, says) {
                (Ok(Tried { raw, capture }), None) => {
                    assert_eq!(raw.unwrap(), payload.as_bytes());
                    assert_eq!((capture.device.as_str(), capture.stream.as_str()), ("oven", "process"));
                    assert_eq!(capture.points[0].value, Value::Float(21.5));
                }
                (Err(Failed { raw, why }), Some(says)) => {
                    assert_eq!(raw.unwrap(), payload.as_bytes());
                    assert!(why.contains(says), "{why}");
                }
                (shown, says) => panic!("{:?} instead of {says:?}", shown.map(|tried| tried.capture)),
            }
        }
    }
}
