//! Memory that a daemon no longer needs, given back to the kernel.

use std::io;
use std::ptr::with_exposed_provenance_mut;

use rustix::mm::{Advice, madvise};

/// What the kernel says of the memory of this process (`proc_pid_maps(5)`).
const MAPS: &str = "/proc/self/maps";

/// Gives the pages of this program's code back to the kernel, which maps those anew that are run from now on. A start
/// runs most of a program once, and what a daemon does all day is a small part of it. Returns how many bytes of
/// code there are.
///
/// The pages stay in the system's cache for as long as it has room, so that next to nothing is read from the disk.
///
/// # Errors
/// When the kernel does not say where the code is, or takes nothing back.
pub fn give_back_code() -> io::Result<usize> {
    let program = std::env::current_exe()?;
    let maps = std::fs::read_to_string(MAPS)?;
    let mut given = 0;
    for code in
        maps.lines().filter_map(Mapping::of).filter(|mapping| mapping.is_code_of(&program.to_string_lossy()))
    {
        give_back(&code)?;
        given += code.bytes;
    }
    Ok(given)
}

/// Gives memory that was freed back to the kernel: the allocator keeps it for what comes next, for a backlog as large as
/// the last, say. Only glibc's can be told so; returns whether there was any.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the one way to tell the allocator so")]
pub fn give_back_freed() -> bool {
    // SAFETY: malloc_trim(3) has no preconditions, and touches nothing that is in use.
    unsafe { libc::malloc_trim(0) == 1 }
}

/// As above, with an allocator that cannot be told so.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_freed() -> bool {
    false
}

#[expect(unsafe_code, reason = "the one way to tell the kernel so")]
fn give_back(code: &Mapping<'_>) -> io::Result<()> {
    // SAFETY: the range is mapped from this program's file, private and not writable, and nothing has been written to
    // it: `is_code_of` has seen that, and code is not relocated on the platforms that we build for. So each page
    // comes back as it was when it is next touched, which madvise(2) promises of MADV_DONTNEED.
    unsafe { madvise(with_exposed_provenance_mut(code.start), code.bytes, Advice::LinuxDontNeed) }?;
    Ok(())
}

/// One line of [`MAPS`].
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    bytes: usize,
    access: &'a str,
    file: &'a str,
}

impl<'a> Mapping<'a> {
    /// Start and end, access, offset, device, inode, and the file.
    fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let bytes = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
        let access = fields.next()?;
        Some(Self { start, bytes, access, file: fields.nth(3)?.trim_start() })
    }

    /// Whether it is code of this file, which nobody can write to.
    fn is_code_of(&self, file: &str) -> bool {
        self.access == "r-xp" && self.file == file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_code() {
        let line = "55d0c0a1b000-55d0c0a1d000 r-xp 00002000 fe:00 1234                       /usr/bin/a name";
        let mapping = Mapping::of(line).unwrap();
        let (start, file) = (0x55d0_c0a1_b000, "/usr/bin/a name");
        assert_eq!(mapping, Mapping { start, bytes: 0x2000, access: "r-xp", file });
        assert!(mapping.is_code_of("/usr/bin/a name") && !mapping.is_code_of("/usr/bin/a"));
        let writable = line.replace("r-xp", "rwxp");
        assert!(!Mapping::of(&writable).unwrap().is_code_of("/usr/bin/a name"));
        for odd in ["", "7f-", "7f-80 r-xp 0 0 0", "zz-80 r-xp 0 fe:00 1 /a", "80-7f r-xp 0 fe:00 1 /a"] {
            assert_eq!(Mapping::of(odd), None, "{odd}");
        }
    }
}
