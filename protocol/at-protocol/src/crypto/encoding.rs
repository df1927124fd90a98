//! Base64 as the atPlatform writes it, without leaving copies of secrets behind.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use zeroize::Zeroizing;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Standard alphabet, padded, no line breaks.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = vec![0; base64::encoded_len(bytes.len(), true).expect("a slice fits into memory twice")];
    STANDARD.encode_slice(bytes, &mut text).expect("the buffer has the encoded length");
    String::from_utf8(text).expect("base64 is ASCII")
}

/// Reads both alphabets, padded or not, since some clients write the URL-safe one.
pub(super) fn decode(text: impl AsRef<[u8]>) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.as_ref();
    let engine = if text.contains(&b'-') || text.contains(&b'_') { URL_SAFE } else { STANDARD };
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = engine.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_alphabets_with_and_without_padding_are_read() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        assert_eq!(encode(&bytes), "+//+AQ==");
        for text in ["+//+AQ==", "+//+AQ", "-__-AQ==", "-__-AQ"] {
            assert_eq!(decode(text).unwrap().as_slice(), bytes, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["+_AA", "A", "AAA=A", "AA AA", "AAAA\n", "ÄÄÄÄ"] {
            assert!(decode(text).is_none(), "{text:?}");
        }
    }
}
