//! What devices say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use atedge_adapters::decode::{Decoder, MAX_ID, MAX_POINTS};

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
    let number = r#"{"as":"text","name":"v","type":"f64"}"#;
    vec![
        picking,
        plain(r#"{"as":"json"}"#),
        plain(pattern),
        plain(number),
        plain(r#"{"as":"text"}"#),
        plain(r#"{"as":"raw"}"#),
    ]
});

/// The first byte says which decoder reads the rest.
pub(super) fn decode(input: &[u8]) {
    let Some((which, payload)) = input.split_first() else { return };
    let decoder = &DECODERS[usize::from(*which) % DECODERS.len()];
    if let Ok(decoded) = decoder.decode(payload) {
        assert!((1..=MAX_POINTS).contains(&decoded.points.len()));
        assert!(decoded.device_id.is_none_or(|id| id.len() <= MAX_ID));
    }
}
