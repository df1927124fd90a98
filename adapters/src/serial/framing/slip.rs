use super::FrameError;

/// Ends a frame (RFC 1055).
pub(super) const END: u8 = 0xc0;
const ESC: u8 = 0xdb;
const ESC_END: u8 = 0xdc;
const ESC_ESC: u8 = 0xdd;

/// Takes the escapes of RFC 1055 out. What the RFC would keep of a wrong escape is refused here: it is a
/// sign of noise.
pub(super) fn decode(frame: &[u8], plain: &mut Vec<u8>) -> Result<(), FrameError> {
    plain.clear();
    let mut rest = frame;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (*first, after) {
            (ESC, [ESC_END, after @ ..]) => (END, after),
            (ESC, [ESC_ESC, after @ ..]) => (ESC, after),
            (ESC, _) => return Err(FrameError::Coding("a SLIP escape is followed by neither 0xdc nor 0xdd")),
            (byte, after) => (byte, after),
        };
        plain.push(byte);
        rest = after;
    }
    Ok(())
}

/// At most so many bytes stand for `plain` bytes.
pub(super) fn longest(plain: usize) -> usize {
    plain * 2
}

#[cfg(test)]
pub(super) fn encode(plain: &[u8]) -> Vec<u8> {
    let escaped = |byte: &u8| match *byte {
        END => vec![ESC, ESC_END],
        ESC => vec![ESC, ESC_ESC],
        byte => vec![byte],
    };
    plain.iter().flat_map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_the_rfc() {
        let mut plain = Vec::new();
        decode(&[1, 0xdb, 0xdc, 0xdb, 0xdd, 2], &mut plain).unwrap();
        assert_eq!(plain, [1, 0xc0, 0xdb, 2]);
        assert_eq!(encode(&plain), [1, 0xdb, 0xdc, 0xdb, 0xdd, 2]);
        for wrong in [&[0xdb][..], &[0xdb, 1], &[0xdb, 0xdb]] {
            assert!(matches!(decode(wrong, &mut plain), Err(FrameError::Coding(_))), "{wrong:?} was taken");
        }
    }
}
