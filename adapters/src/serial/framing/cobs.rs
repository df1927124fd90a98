use super::FrameError;

/// Consistent Overhead Byte Stuffing (Cheshire and Baker, IEEE/ACM Transactions on Networking 7(2),
/// 1999): a code byte says how far it is to the next zero, which is left out.
pub(super) fn decode(frame: &[u8], plain: &mut Vec<u8>) -> Result<(), FrameError> {
    plain.clear();
    let mut rest = frame;
    while let [code, after @ ..] = rest {
        let code = usize::from(*code);
        let run = code.checked_sub(1).and_then(|run| after.split_at_checked(run));
        let (run, after) = run.ok_or(FrameError::Coding("a COBS code leads beyond the end of the frame"))?;
        plain.extend(run);
        if code < 0xff && !after.is_empty() {
            plain.push(0);
        }
        rest = after;
    }
    Ok(())
}

/// At most so many bytes stand for `plain` bytes.
pub(super) fn longest(plain: usize) -> usize {
    plain + plain / 254 + 1
}

#[cfg(test)]
pub(super) fn encode(plain: &[u8]) -> Vec<u8> {
    let mut coded = vec![0];
    let mut code = 0;
    for (at, byte) in plain.iter().enumerate() {
        if *byte != 0 {
            coded.push(*byte);
        }
        let run = coded.len() - code;
        let last = at + 1 == plain.len();
        if *byte == 0 || (run == 0xff && !last) {
            coded[code] = u8::try_from(run).unwrap();
            code = coded.len();
            coded.push(0);
        }
    }
    coded[code] = u8::try_from(coded.len() - code).unwrap();
    coded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_paper_and_the_edges_of_a_run() {
        let long: Vec<u8> = (1..=254).collect();
        let longer: Vec<u8> = (1..=255).collect();
        let cases: [(&[u8], Vec<u8>); 7] = [
            (b"\0", vec![1, 1]),
            (b"\0\0", vec![1, 1, 1]),
            (&[0x11, 0x22, 0, 0x33], vec![3, 0x11, 0x22, 2, 0x33]),
            (&[0x11, 0, 0, 0], vec![2, 0x11, 1, 1, 1]),
            (&[0x11], vec![2, 0x11]),
            (&long, [&[0xff], &long[..]].concat()),
            (&longer, [&[0xff], &longer[..254], &[2, 255]].concat()),
        ];
        let mut plain = Vec::new();
        for (expected, coded) in cases {
            decode(&coded, &mut plain).unwrap();
            assert_eq!(plain, expected);
            assert_eq!(encode(expected), coded);
            assert!(coded.len() <= longest(expected.len()));
        }
    }

    #[test]
    fn a_code_that_leads_out_of_the_frame_is_refused() {
        let mut plain = Vec::new();
        for wrong in [&[2][..], &[3, 1], &[2, 1, 5, 1], &[0xff], &[0]] {
            assert!(matches!(decode(wrong, &mut plain), Err(FrameError::Coding(_))), "{wrong:?} was taken");
        }
    }
}
