//! How many connections the system allows: each is an open file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are no connections from outside: the store's, listeners, connections to other servers,
/// and some to spare, so that `accept` does not run out.
const OTHERS: u64 = 256;

/// The most connections that fit, up to `wanted`. Raises the process's soft limit as far as it is allowed,
/// and warns if that is too little.
pub(crate) fn fitting(wanted: usize) -> usize {
    let needed = u64::try_from(wanted).unwrap_or(u64::MAX).saturating_add(OTHERS);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = needed.min(maximum.unwrap_or(u64::MAX));
    let mut allowed = current.unwrap_or(u64::MAX);
    if allowed < raised {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
            Ok(()) => allowed = raised,
            Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
        }
    }
    let fits = fits(allowed, wanted);
    if fits < wanted {
        tracing::warn!(
            allowed,
            wanted,
            connections = fits,
            "the limit of open files allows fewer connections than configured; raise LimitNOFILE of the service to {needed}, or lower [limits.node] connections"
        );
    }
    fits
}

/// With very few files, half of them are connections.
fn fits(allowed: u64, wanted: usize) -> usize {
    let room = allowed.saturating_sub(OTHERS).max(allowed / 2);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(fits(1024, 12_000), 768);
        assert_eq!(fits(65_536, 12_000), 12_000);
        assert_eq!(fits(300, 12_000), 150);
        assert_eq!(fits(u64::MAX, 12_000), 12_000);
    }
}
