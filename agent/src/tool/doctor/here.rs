//! What is on this machine.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use atedge_adapters::AdapterConfig;
use atedge_adapters::serial::{Access, Holder, ports as serial_ports};
use atedge_adapters::units::Bytes;
use rustix::fs::{Access as Wanted, access, statvfs};

use super::Finding;
use crate::clock::{Clock as _, SystemClock};
use crate::payload::ClockState;

/// The folder of the queue.
pub(super) fn state_folder(folder: &Path) -> Finding {
    let (what, shown) = ("state folder", folder.display());
    let meta = match folder.metadata() {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => return Finding::bad(what, format_args!("{shown} is no folder"), "move it away"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Finding::note(
                what,
                format_args!("{shown} is not there"),
                "the agent makes it when it starts",
            );
        }
        Err(error) => {
            return Finding::bad(
                what,
                format_args!("{shown}: {error}"),
                "run this as the agent's user or as root",
            );
        }
    };
    let mode = meta.permissions().mode() & 0o777;
    let fix = format_args!("`chmod 700 {shown}`");
    if mode & 0o022 != 0 {
        let why = format_args!("{shown} is open to others (mode {mode:o}): they can take the queue away");
        return Finding::bad(what, why, fix);
    }
    if let Err(error) = access(folder, Wanted::WRITE_OK | Wanted::EXEC_OK) {
        let why = format_args!("{shown} is not writable to this user: {error}");
        return Finding::bad(what, why, "run this as the agent's user, or give the folder to it: `chown`");
    }
    if mode & 0o055 != 0 {
        let says =
            format_args!("others can see what is in {shown} (mode {mode:o}); what is queued is sealed");
        return Finding::note(what, says, fix);
    }
    Finding::good(what, format_args!("{shown} is the owner's alone"))
}

/// The time.
pub(super) fn clock() -> Finding {
    match SystemClock::start().now().state {
        ClockState::Sync => Finding::good("clock", "it is right"),
        ClockState::Free => Finding::bad(
            "clock",
            "it was not set by a time server: times of readings are not to be relied on, certificates may not hold",
            "`timedatectl set-ntp true`, and let UDP port 123 through",
        ),
    }
}

/// Room for the queue.
pub(super) fn disk(state: &Path, most: u64) -> Finding {
    let what = "disk";
    let there = state.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let free = match statvfs(there) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => {
            return Finding::bad(what, format_args!("{}: {error}", there.display()), "mend the disk");
        }
    };
    let used = state.join("outbox.db").metadata().map_or(0, |meta| meta.len());
    let (left, most) = (Bytes::mib(free >> 20), most.saturating_sub(used));
    if free < most {
        let why = format_args!("{left} are free, and the queue may grow by {}", Bytes::mib(most >> 20));
        return Finding::note(
            what,
            why,
            "make room, or lower `[outbox] max`: a full disk stops all adapters",
        );
    }
    Finding::good(what, format_args!("{left} are free"))
}

/// The serial ports that are configured.
pub(super) fn ports(adapters: &BTreeMap<String, AdapterConfig>) -> Vec<Finding> {
    let known = serial_ports(Path::new("/"));
    let configured = adapters.iter().filter_map(|(name, adapter)| Some((name, adapter.port()?)));
    configured
        .map(|(name, port)| {
            let (what, shown) = ("serial port", port.display());
            if !port.exists() {
                let why = format_args!("{shown} is not there; adapter {name} waits for it");
                return Finding::bad(
                    what,
                    why,
                    "plug it in; `atedge-agent ports` shows those that are there",
                );
            }
            if let Some(Access::Denied { group }) =
                known.iter().find(|info| info.is_called(port)).map(|info| &info.access)
            {
                let why = format_args!("{shown} may not be opened by this user");
                let group = group.as_deref().unwrap_or("dialout");
                return Finding::bad(
                    what,
                    why,
                    format_args!("`sudo usermod -aG {group} USER`; the agent's own user is in it"),
                );
            }
            match Holder::of(port) {
                Some(holder) if !holder.is_agent() => Finding::bad(
                    what,
                    format_args!("{holder} has {shown}, which adapter {name} needs"),
                    "end that",
                ),
                Some(_) => Finding::good(what, format_args!("{shown} is the agent's")),
                None => Finding::good(what, format_args!("{shown} is there")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_open_to_others_is_bad_and_the_cure_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert_eq!(state_folder(&state).verdict, Verdict::Note);
        std::fs::create_dir(&state).unwrap();
        chmod(&state, 0o755);
        assert_eq!(state_folder(&state).verdict, Verdict::Note);
        chmod(&state, 0o770);
        let finding = state_folder(&state);
        assert_eq!(finding.verdict, Verdict::Bad);
        assert!(finding.to_string().contains("fix: `chmod 700 "), "{finding}");
        chmod(&state, 0o700);
        assert_eq!(state_folder(&state).verdict, Verdict::Good);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(state_folder(&folder.path().join("file")).verdict, Verdict::Bad);
    }

    #[test]
    fn room_and_ports_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(disk(&folder.path().join("not/there"), 1).verdict, Verdict::Good);
        assert_eq!(disk(folder.path(), u64::MAX).verdict, Verdict::Note);
        let scale = toml::from_str(
            "type = \"serial\"\nport = \"/dev/no-such-port\"\ndevice = \"d\"\nstream = \"s\"\nframing = { kind = \"line\", \
             ending = \"lf\", max = 100 }\ndecode = { as = \"text\" }",
        )
        .unwrap();
        let findings = ports(&BTreeMap::from([("scale".to_owned(), scale)]));
        assert_eq!(findings[0].verdict, Verdict::Bad);
        assert!(findings[0].says.contains("/dev/no-such-port is not there; adapter scale waits"));
    }
}
