//! What is said to the agent's sockets.

use atedge_agent::control::Ask;
use atedge_agent::metrics::{Route, route};

/// An ask is taken or refused, and one that is taken is said again the same.
pub(super) fn control_ask(input: &[u8]) {
    let Ok(line) = std::str::from_utf8(input) else { return };
    if let Ok(ask) = Ask::parse(line) {
        let again = serde_json::to_string(&ask).expect("an ask is JSON");
        assert_eq!(Ask::parse(&again).ok(), Some(ask));
    }
}

/// A request is judged when its head is whole, and what follows does not change the judgement.
pub(super) fn metrics_request(input: &[u8]) {
    if let Some(judged) = route(input) {
        assert_eq!(route(&[input, b"more"].concat()), Some(judged));
        assert!(judged != Route::Page || input.starts_with(b"GET /metrics"));
    }
}
