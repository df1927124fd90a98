//! A process of its own: what else runs in it would map more of its code meanwhile.

use atedge_service::{give_back_code, give_back_freed};

#[test]
fn code_is_given_back_and_runs_on() {
    let program = std::env::current_exe().unwrap();
    // Kilobytes of this program's code that are mapped.
    let mapped = || {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let is_code = |line: &str| line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy());
        let (mut lines, mut sum) = (smaps.lines(), 0);
        while lines.by_ref().any(is_code) {
            let size = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
            sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
        sum
    };
    // The first look maps what looking takes.
    mapped();
    let before = mapped();
    assert!(give_back_code().unwrap() > 0);
    let after = mapped();
    assert!(after < before, "{after} of {before} kB are still there");
}

#[cfg(target_env = "gnu")]
#[test]
fn what_was_freed_is_given_back() {
    // Kilobytes that are not of a file.
    let anonymous = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let mut pieces: Vec<Vec<u8>> = (0..32 * 1024).map(|_| vec![1; 1024]).collect();
    // The last stays, so that what lies before it is not at the end of the heap.
    pieces.drain(..32 * 1024 - 1);
    let before = anonymous();
    assert!(give_back_freed());
    let after = anonymous();
    assert!(after + 16 * 1024 < before, "{after} of {before} kB are still there");
}
