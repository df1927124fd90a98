//! What must not be guessed.

use zeroize::Zeroizing;

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system has randomness");
}

/// A fresh UUID of version 4.
pub(crate) fn uuid() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// A fresh activation secret: 128 hexadecimal characters, as other atServers have it.
pub(crate) fn secret() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 64]);
    fill(bytes.as_mut());
    Zeroizing::new(hex::encode(*bytes))
}

/// A number from 0 to 255.
pub(crate) fn byte() -> u8 {
    let mut bytes = [0];
    fill(&mut bytes);
    bytes[0]
}
