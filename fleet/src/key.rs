//! Keys as people type them: the owner may be left out.

use at_protocol::key::InvalidKey;
use at_protocol::{AtKey, AtSign};

/// The key that `text` means when `atsign` types it: without `@owner` at its end it is `atsign`'s own.
///
/// # Errors
/// The text is no key.
pub fn typed(atsign: &AtSign, text: &str) -> Result<AtKey, InvalidKey> {
    // `@bob:phone` begins with a reader, it does not end with an owner.
    let owned = text.rsplit_once('@').is_some_and(|(head, owner)| !head.is_empty() && !owner.contains(':'));
    if owned { text.parse() } else { format!("{text}{atsign}").parse() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_who_types_unless_said() {
        let alice = "@alice".parse().unwrap();
        for (text, key) in [
            ("phone.plant7", "phone.plant7@alice"),
            ("public:location.plant7", "public:location.plant7@alice"),
            ("@bob:phone.plant7", "@bob:phone.plant7@alice"),
            ("phone.plant7@bob", "phone.plant7@bob"),
            ("@carol:phone@bob", "@carol:phone@bob"),
            ("public:location@Bob", "public:location@bob"),
        ] {
            assert_eq!(typed(&alice, text).unwrap().to_string(), key);
        }
        assert!(typed(&alice, "public:").is_err() && typed(&alice, "a b:c").is_err());
    }
}
