//! Base2e15: bytes as text with 15 bits in each character, how SDKs put binary values into records whose
//! metadata says `isBinary` (client wire reference §4.5).

/// Characters of 15 bits, as (first value, what is added to a value to give the code point).
const RANGES: [(u32, u32); 3] = [(0, 0x3480), (0x1936, 0x34CA), (0x545C, 0x57A4)];
/// Values of 15 bits end here.
const END: u32 = 0x8000;
/// The last character may hold up to 7 bits: it is one of these 128.
const SHORT: u32 = 0x3400;

/// The text of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(15) * 24 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        if count >= 15 {
            count -= 15;
            text.push(long(bits >> count));
            bits &= (1 << count) - 1;
        }
    }
    match count {
        0 => {}
        1..=7 => text.push(character(SHORT + (bits << (7 - count)))),
        _ => text.push(long(bits << (15 - count))),
    }
    text
}

/// The bytes of `text`. Other characters between are passed over, and the first short one ends it, as in the
/// SDKs; so nothing is invalid, and what was never encoded decodes to little or nothing.
#[must_use]
pub fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 24 * 15);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.chars() {
        let code = u32::from(c);
        let (value, size, is_last) = match (code.checked_sub(SHORT).filter(|short| *short < 128), value(code))
        {
            (Some(short), _) => (short, 7, true),
            (None, Some(value)) => (value, 15, false),
            (None, None) => continue,
        };
        bits = bits << size | value;
        count += size;
        while count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_be_bytes()[3]);
        }
        bits &= (1 << count) - 1;
        if is_last {
            break;
        }
    }
    bytes
}

fn long(value: u32) -> char {
    let (_, offset) = RANGES.into_iter().rev().find(|(first, _)| value >= *first).unwrap_or(RANGES[0]);
    character(value + offset)
}

fn character(code: u32) -> char {
    char::from_u32(code).expect("no range contains a surrogate")
}

fn value(code: u32) -> Option<u32> {
    let ends = [RANGES[1].0, RANGES[2].0, END];
    RANGES.into_iter().zip(ends).find_map(|((first, offset), end)| {
        code.checked_sub(offset).filter(|value| (first..end).contains(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_references_examples_hold() {
        for (bytes, text) in [
            (&[0][..], "\u{3480}"),
            (&[0xde, 0xad, 0xbe, 0xef], "\u{C6FA}\u{C75F}\u{3460}"),
            (b"hello", "\u{68FC}\u{B2BF}\u{4260}"),
            (b"", ""),
        ] {
            assert_eq!(encode(bytes), text);
        }
        assert_eq!(decode("\u{C6FA}\n \u{C75F}\u{3460}x"), [0xde, 0xad, 0xbe, 0xef]);
        assert!(decode("plain text").is_empty());
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), bytes);
        }

        #[test]
        fn any_text_decodes(text: String) {
            prop_assert!(decode(&text).len() <= text.len());
        }
    }
}
