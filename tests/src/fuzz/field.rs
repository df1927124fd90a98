//! What devices say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use atedge_adapters::decode::{Decoder, MAX_ID, MAX_POINTS};
use atedge_adapters::modbus::pdu::{Request, Response, Table};
use atedge_adapters::modbus::{mbap, rtu};
use atedge_adapters::serial::{Check, FrameError, Framer, Framing};
use atedge_adapters::sim::{Questions, Units};
use serde_json::json;

/// One decoder of each kind, as a configuration makes them.
static DECODERS: LazyLock<Vec<Decoder>> = LazyLock::new(|| {
    let pattern = r#"{"as":"regex","pattern":"^(?<gross>[+-][0-9.]+)\\s*kg","types":{"gross":"f64"}}"#;
    let of = |json: &str| serde_json::from_str(json).expect("a decoder of the documentation");
    let plain = |json: &str| Decoder::plain(of(json), BTreeMap::new());
    let mut picking = plain(r#"{"as":"json"}"#);
    for (name, pointer) in [("temperature", "/temp"), ("humidity", "/a/0/hum")] {
        let name = name.parse().expect("a point's name");
        picking.pick.insert(name, serde_json::from_value(pointer.into()).expect("a pointer"));
    }
    let time = serde_json::json!({ "from": "/ts", "as": "unix_ms" });
    picking.time = Some(serde_json::from_value(time).expect("a time"));
    picking.id = Some(serde_json::from_value(serde_json::json!({ "from": "/seq" })).expect("an id"));
    let mut naming = plain(r#"{"as":"json"}"#);
    naming.device = Some(serde_json::from_value("/dev".into()).expect("a pointer"));
    let fields = json!([
        { "name": "a", "at": 0, "type": "u16le" },
        { "name": "b", "at": 2, "type": "f32be", "scale": 0.1 },
    ]);
    let columns = json!([{ "name": "a", "at": 0 }, { "name": "b", "at": 2, "type": "f64" }]);
    let number = r#"{"as":"text","name":"v","type":"f64"}"#;
    vec![
        picking,
        plain(r#"{"as":"json"}"#),
        plain(pattern),
        plain(number),
        plain(r#"{"as":"text"}"#),
        plain(r#"{"as":"raw"}"#),
        plain(&json!({ "as": "binary", "fields": fields }).to_string()),
        plain(&json!({ "as": "csv", "columns": columns }).to_string()),
        naming,
    ]
});

/// The first byte says which decoder reads the rest.
pub(super) fn decode(input: &[u8]) {
    let Some((which, payload)) = input.split_first() else { return };
    let decoder = &DECODERS[usize::from(*which) % DECODERS.len()];
    if let Ok(decoded) = decoder.decode(payload) {
        assert!((1..=MAX_POINTS).contains(&decoded.points.len()));
        assert_eq!(decoded.device.is_some(), decoder.device.is_some());
        assert!(decoded.device_id.is_none_or(|id| id.len() <= MAX_ID));
    }
}

/// Questions of each shape.
fn questions() -> Vec<Request> {
    let read = |table, count| Request::Read { table, address: 7, count };
    vec![
        read(Table::Holding, 2),
        read(Table::Input, 125),
        read(Table::Coil, 19),
        Request::WriteRegister { address: 7, word: 3 },
        Request::WriteRegisters { address: 7, words: vec![1, 2] },
    ]
}

/// What unit 17 answers is found behind any noise, unless the noise has an answer in it.
pub(super) fn modbus_rtu(input: &[u8]) {
    for question in questions() {
        let mut listener = rtu::Listener::new(17, &question);
        if input.chunks(5).any(|chunk| listener.hear(chunk).is_some()) {
            continue;
        }
        let mut answer = vec![17, question.function()];
        match question.byte_count() {
            Some(bytes) => {
                answer.push(bytes);
                answer.resize(3 + usize::from(bytes), 0x5A);
            }
            None => answer.extend(&question.encode()[1..5]),
        }
        answer.extend(rtu::crc(&answer).to_le_bytes());
        let heard = listener.hear(&answer).expect("the answer is found");
        // Noise may end in the beginning of a frame that the answer completes.
        if input.is_empty() {
            assert!(heard.is_ok() && listener.noise().is_none());
        }
    }
}

/// Whatever a master says to the simulated units, they answer it or refuse it, and a sound question behind it is
/// heard sooner or later.
pub(super) fn modbus_questions(input: &[u8]) {
    let (mut questions, mut units) = (Questions::default(), Units::new(1, 3));
    for chunk in input.chunks(7) {
        questions.hear(chunk, |unit, request| {
            if let Some(answer) = units.answer(unit, request) {
                assert!((2..=253).contains(&answer.len()) && answer[0] & 0x7F == request[0] & 0x7F);
            }
        });
    }
    units.answer(2, input);
    let sound = rtu::frame(2, &Request::Read { table: Table::Holding, address: 0, count: 1 });
    let mut heard = false;
    // The longest frame that noise can promise has 264 bytes.
    for _ in 0..264 / sound.len() + 2 {
        questions.hear(&sound, |unit, _| heard |= unit == 2);
    }
    assert!(heard, "the master is not heard any more");
}

/// However a stream is cut, the same frames come out of it, and none is longer than allowed.
pub(super) fn modbus_tcp(input: &[u8]) {
    let frames = |size: usize| {
        let (mut reader, mut frames) = (mbap::Reader::default(), Vec::new());
        for chunk in input.chunks(size) {
            reader.hear(chunk);
            loop {
                match reader.take() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => return frames,
                }
            }
        }
        frames
    };
    let whole = frames(input.len().max(1));
    assert_eq!(whole, frames(1));
    for frame in whole {
        assert!((1..=253).contains(&frame.pdu.len()));
        for question in questions() {
            let Request::Read { count, .. } = question else { continue };
            let length = match question.read(&frame.pdu) {
                Ok(Response::Registers(words)) => words.len(),
                Ok(Response::Bits(bits)) => bits.len(),
                Ok(Response::Written) => panic!("a read is no write"),
                Err(_) => continue,
            };
            assert_eq!(length, usize::from(count));
        }
    }
}

/// The longest frame of any framing here.
const MAX: usize = 64;

/// One framing of each kind, with a check of each kind.
static FRAMINGS: LazyLock<Vec<(Framing, Check)>> = LazyLock::new(|| {
    [
        (json!({ "kind": "line", "ending": "crlf", "max": MAX }), "none"),
        (json!({ "kind": "delimiter", "start": "\\x02", "end": "\\x03", "max": MAX }), "xor8"),
        (json!({ "kind": "delimiter", "end": ";", "max": MAX }), "sum8"),
        (json!({ "kind": "fixed", "size": 8, "sync": "hex:aa55" }), "sum8"),
        (json!({ "kind": "fixed", "size": 8 }), "crc16-modbus"),
        (json!({ "kind": "idle", "gap": "5ms", "max": MAX }), "crc16-modbus"),
        (json!({ "kind": "length", "at": 1, "size": 1, "adds": 3, "sync": "~", "max": MAX }), "xor8"),
        (json!({ "kind": "length", "at": 0, "size": 4, "endian": "little", "max": MAX }), "none"),
        (json!({ "kind": "cobs", "max": MAX }), "crc16-ccitt"),
        (json!({ "kind": "slip", "max": MAX }), "none"),
    ]
    .into_iter()
    .map(|(framing, check)| {
        let framing = serde_json::from_value(framing).expect("a framing of the documentation");
        let check = serde_json::from_value(json!({ "kind": check })).expect("a check of the documentation");
        (framing, check)
    })
    .collect()
});

/// The first byte says which framing reads the rest. However it is cut, the same comes out, and little is
/// held.
pub(super) fn framing(input: &[u8]) {
    let Some((which, said)) = input.split_first() else { return };
    let (framing, check) = &FRAMINGS[usize::from(*which) % FRAMINGS.len()];
    let whole = heard(framing, *check, said, said.len().max(1));
    assert_eq!(whole, heard(framing, *check, said, 1), "{framing:?}");
    assert!(whole.iter().flatten().all(|frame| frame.len() <= MAX), "{framing:?}");
}

fn heard(framing: &Framing, check: Check, said: &[u8], at_once: usize) -> Vec<Result<Vec<u8>, FrameError>> {
    let mut framer = Framer::new(framing, check.kind);
    let mut heard = Vec::new();
    framer.silence(|frame| heard.push(frame.map(<[u8]>::to_vec)));
    for bytes in said.chunks(at_once) {
        framer.read(bytes, |frame| heard.push(frame.map(<[u8]>::to_vec)));
        assert!(framer.held() <= 2 * MAX + 2, "{} bytes are held", framer.held());
    }
    framer.silence(|frame| heard.push(frame.map(<[u8]>::to_vec)));
    heard
}
