//! What browsers send to a server's HTTP front, and how it shows binary values.

use at_protocol::base2e15;
use atedge_server::web::{Target, Wanted};

/// A target that is understood names a record that `lookup` could name, and a content type that can stand
/// in a header.
pub(super) fn http_target(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(Target::Record(Wanted { name, content_type, .. })) = Target::parse(text) {
        assert_eq!(name.to_string().parse(), Ok(name));
        let in_header = |byte: u8| (b' '..=b'~').contains(&byte);
        assert!(content_type.bytes().all(in_header), "{content_type:?}");
    }
}

/// Bytes come back from their text, and no text gives more than 15 bits a character.
pub(super) fn base2e15(input: &[u8]) {
    assert_eq!(base2e15::decode(&base2e15::encode(input)), input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert!(base2e15::decode(text).len() * 8 <= text.chars().count() * 15);
}
