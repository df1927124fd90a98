//! What gateways and readers send each other inside the encryption.

use atedge_agent::payload::{Batch, Receipt, name};

/// A batch that is understood is written so that it is understood again, and as the same.
pub(super) fn batch(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        name::parse_telemetry(text, "plant7");
    }
    let Ok(batch) = Batch::from_json(input) else { return };
    let again = Batch::from_json(batch.to_json().as_bytes()).expect("what was written can be read");
    assert_eq!(again.to_json(), batch.to_json());
}

/// The same for a receipt, whose ranges keep their order.
pub(super) fn receipt(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        name::parse_receipt(text, "plant7");
    }
    let Ok(receipt) = Receipt::from_json(input) else { return };
    assert!(receipt.missing().iter().all(|(first, last)| first <= last));
    let again = Receipt::from_json(receipt.to_json().as_bytes()).expect("what was written can be read");
    assert_eq!(again.to_json(), receipt.to_json());
}
