use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Bytes as the configuration writes them: text with the escapes `\r`, `\n`, `\t`, `\0`, `\\` and
/// `\xNN`, or `hex:` and pairs of hexadecimal digits, as in `"hex:aa 55"`.
///
/// TOML takes escapes of its own out of a text in double quotes; in single quotes it leaves them.
#[derive(Clone, PartialEq, Eq)]
pub struct ByteText(Box<[u8]>);

impl ByteText {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ByteText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = match text.strip_prefix("hex:") {
            Some(digits) => from_hex(digits)?,
            None => unescaped(text)?,
        };
        Ok(Self(bytes.into()))
    }
}

fn from_hex(digits: &str) -> Result<Vec<u8>, &'static str> {
    let digits: Vec<_> = digits.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(pair).collect::<Option<_>>().ok_or("after `hex:`, expected pairs of digits 0-9, a-f")
}

fn pair(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn unescaped(text: &str) -> Result<Vec<u8>, &'static str> {
    const EXPECTED: &str = "after a backslash, expected r, n, t, 0, another backslash, or x and two digits";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [b'0', after @ ..]) => (0, after),
            (b'\\', [b'\\', after @ ..]) => (b'\\', after),
            (b'\\', [b'x', high, low, after @ ..]) => (pair(&[*high, *low]).ok_or(EXPECTED)?, after),
            (b'\\', _) => return Err(EXPECTED),
            (plain, after) => (*plain, after),
        };
        bytes.push(byte);
        rest = after;
    }
    Ok(bytes)
}

impl fmt::Debug for ByteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl<'de> Deserialize<'de> for ByteText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_text_or_as_digits() {
        let read = |text: &str| text.parse::<ByteText>().map(|bytes| bytes.as_bytes().to_vec());
        assert_eq!(read("P\r\n").unwrap(), b"P\r\n");
        assert_eq!(read(r"\x02P\r\n\t\0\\").unwrap(), b"\x02P\r\n\t\0\\");
        assert_eq!(read("µ").unwrap(), "µ".as_bytes());
        assert_eq!(read("hex:AA 55ff").unwrap(), [0xaa, 0x55, 0xff]);
        assert_eq!(read("").unwrap(), read("hex:").unwrap());
        for wrong in ["hex:a", "hex:zz", "hex:+1", r"\x", r"\x0", r"\xg0", r"\u0002", r"end\"] {
            assert!(read(wrong).is_err(), "{wrong} was taken");
        }
    }
}
