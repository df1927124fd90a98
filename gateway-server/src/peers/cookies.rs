//! The signatures that we show to other servers while they check them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use at_protocol::{AtSign, KeyName};
use tokio::time::Instant;

/// How long a signature is shown (atProtocol wire reference §3.6, step 4).
const SHOWN: Duration = Duration::from_secs(60);
/// Most signatures at a time: one for each connection that is being opened, and room.
const MOST: usize = 10_000;

/// Signatures by the name under which they are looked up.
#[derive(Default)]
pub(crate) struct Cookies {
    shown: Mutex<HashMap<(KeyName, AtSign), (String, Instant)>>,
}

impl Cookies {
    /// Shows `signature` as `<name>@owner` for a minute.
    pub(crate) fn show(&self, name: KeyName, owner: AtSign, signature: String) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        shown.retain(|_, (_, until)| *until > now);
        if shown.len() < MOST {
            shown.insert((name, owner), (signature, now + SHOWN));
        }
    }

    /// The signature that is shown under this name.
    pub(crate) fn find(&self, name: &KeyName, owner: &AtSign) -> Option<String> {
        // All cookies begin so, and hardly anything else that is looked up.
        if !name.as_str().starts_with('_') {
            return None;
        }
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (signature, until) = shown.get(&(name.clone(), owner.clone()))?;
        (*until > Instant::now()).then(|| signature.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_signature_is_shown_under_its_name_only_and_for_a_minute() {
        let cookies = Cookies::default();
        let (name, bob): (KeyName, AtSign) = ("_4a16".parse().unwrap(), "@bob".parse().unwrap());
        cookies.show(name.clone(), bob.clone(), "sig".into());
        assert_eq!(cookies.find(&name, &bob).as_deref(), Some("sig"));
        assert_eq!(cookies.find(&name, &"@carol".parse().unwrap()), None);
        assert_eq!(cookies.find(&"_4a17".parse().unwrap(), &bob), None);
        tokio::time::advance(SHOWN).await;
        assert_eq!(cookies.find(&name, &bob), None);
    }
}
