//! Who has a port open.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A process that has a port open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub process: u32,
    /// Its name, as the kernel has it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (process {})", self.name, self.process)
    }
}

impl Holder {
    /// The process that has `port` open, other than this one. Who has locked it, as the agent does, is seen by
    /// everybody; who has not, by root and its owner.
    pub fn of(port: &Path) -> Option<Self> {
        let device = port.canonicalize().ok()?;
        let process = locked_by(&device).or_else(|| opened_by(&device))?;
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        Some(Self { process, name: name.trim_end().to_owned() })
    }

    /// Whether it is the gateway's daemon.
    pub fn is_agent(&self) -> bool {
        self.name == "atedge-agent"
    }
}

fn locked_by(device: &Path) -> Option<u32> {
    let file = fs::metadata(device).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_of_lock(line, file.dev(), file.ino())).filter(is_another)
}

/// The process in a line of `/proc/locks`, where it locks that file.
fn holder_of_lock(line: &str, device: u64, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let process = words.nth(2)?.parse().ok()?;
    let mut file = words.next()?.split(':');
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let is_it = rustix::fs::makedev(major, minor) == device && file.next()?.parse() == Ok(inode);
    is_it.then_some(process)
}

fn opened_by(device: &Path) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut numbers =
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_another);
    numbers.find(|process| {
        let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        open.filter_map(Result::ok)
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == device))
    })
}

fn is_another(process: &u32) -> bool {
    *process != std::process::id()
}

/// Whether a port that is there could not be opened because another process has locked it.
pub fn is_in_use(port: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy || error.kind() == io::ErrorKind::NotFound && port.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_process() {
        let device = rustix::fs::makedev(0, 0x18);
        let line = "3: FLOCK  ADVISORY  WRITE 4711 00:18:7 0 EOF";
        assert_eq!(holder_of_lock(line, device, 7), Some(4711));
        assert_eq!(holder_of_lock(line, device, 8), None);
        assert_eq!(holder_of_lock(line, device + 1, 7), None);
        for other in
            ["", "3:", "3: POSIX  ADVISORY  WRITE 4711 00:18:7 0 EOF", "3: FLOCK ADVISORY WRITE x y 0 EOF"]
        {
            assert_eq!(holder_of_lock(other, device, 7), None, "{other}");
        }
    }
}
