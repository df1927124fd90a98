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

/// A fresh key.
pub(crate) fn key() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    fill(bytes.as_mut());
    bytes
}

/// A fresh connection's number.
pub(crate) fn number<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// A fresh passcode of at least two characters: capital letters without O, digits without 0, and at least
/// one of each (atProtocol wire reference §4.24).
pub(crate) fn code(length: usize) -> Zeroizing<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNPQRSTUVWXYZ123456789";
    // Larger bytes would make the first characters more likely.
    let even = u8::try_from(256 / ALPHABET.len() * ALPHABET.len()).expect("an alphabet is short");
    loop {
        let drawn = std::iter::repeat_with(byte).filter(|drawn| *drawn < even);
        let characters = drawn.map(|drawn| char::from(ALPHABET[usize::from(drawn) % ALPHABET.len()]));
        let code: Zeroizing<String> = Zeroizing::new(characters.take(length).collect());
        let has = |kind: fn(&char) -> bool| code.chars().any(|c| kind(&c));
        if has(char::is_ascii_digit) && has(char::is_ascii_uppercase) {
            return code;
        }
    }
}

/// A number from 0 to 255.
pub(crate) fn byte() -> u8 {
    let mut bytes = [0];
    fill(&mut bytes);
    bytes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passcodes_have_letters_and_digits_and_none_that_look_alike() {
        for _ in 0..500 {
            let code = code(6);
            assert_eq!(code.len(), 6);
            assert!(code.chars().all(|c| matches!(c, 'A'..='N' | 'P'..='Z' | '1'..='9')), "{code:?}");
            assert!(code.chars().any(|c| c.is_ascii_digit()) && code.chars().any(char::is_alphabetic));
        }
    }
}
