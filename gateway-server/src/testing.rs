//! Settings that test programs change while the server runs (atProtocol wire reference §4.20).
//!
//! They are here only with `[testing] enabled = true`. Those that nothing here reads are kept and shown:
//! this server has no use for them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// The settings and their values at the start (wire reference §10.1).
const DEFAULTS: [(&str, &str); 11] = [
    ("inboundMaxLimit", "200"),
    ("commitLogCompactionFrequencyMins", "18"),
    ("accessLogCompactionFrequencyMins", "15"),
    ("notificationKeyStoreCompactionFrequencyMins", "5"),
    (AUTO_NOTIFY, "true"),
    ("maxNotificationRetries", "30"),
    ("checkCertificateReload", "false"),
    ("shouldReloadCertificates", "false"),
    ("doCacheRefreshNow", "false"),
    ("maxRequestsPerTimeFrame", "5"),
    ("timeFrameInMills", "3600000"),
];
const AUTO_NOTIFY: &str = "autoNotify";
/// Longest value, in bytes.
const MAX_VALUE: usize = 256;

/// What was changed.
#[derive(Debug, Default)]
pub(crate) struct Testing {
    changed: RwLock<HashMap<&'static str, String>>,
}

fn known(name: &str) -> Option<(&'static str, &'static str)> {
    DEFAULTS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
}

impl Testing {
    /// Changes a setting; `None` if there is none of that name, or the value is too long.
    pub(crate) fn set(&self, name: &str, value: &str) -> Option<()> {
        let (name, _) = known(name)?;
        let value = Some(value).filter(|value| value.len() <= MAX_VALUE)?;
        self.changed.write().unwrap_or_else(PoisonError::into_inner).insert(name, value.to_owned());
        Some(())
    }

    /// Gives a setting back its value at the start; `None` if there is none of that name.
    pub(crate) fn reset(&self, name: &str) -> Option<()> {
        let (name, _) = known(name)?;
        self.changed.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        Some(())
    }

    /// The value of a setting; `None` if there is none of that name.
    pub(crate) fn print(&self, name: &str) -> Option<String> {
        let (name, default) = known(name)?;
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        Some(changed.get(name).map_or(default, String::as_str).to_owned())
    }

    /// Whether changes of shared records are notified to those with whom they are shared.
    pub(crate) fn auto_notify(&self) -> bool {
        self.print(AUTO_NOTIFY).as_deref() != Some("false")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_changed_shown_and_given_back() {
        let testing = Testing::default();
        assert_eq!(testing.print("commitLogCompactionFrequencyMins").as_deref(), Some("18"));
        assert!(testing.auto_notify());
        assert_eq!(testing.set("AUTONOTIFY", "false"), Some(()));
        assert!(!testing.auto_notify());
        assert_eq!(testing.reset("autoNotify"), Some(()));
        assert!(testing.auto_notify());
        assert_eq!(testing.set("autoNotify", &"x".repeat(MAX_VALUE + 1)), None);
        for unknown in [testing.set("x", "1"), testing.reset("x"), testing.print("x").map(drop)] {
            assert_eq!(unknown, None);
        }
    }
}
