//! A process of its own: what else runs in it would map more of its code meanwhile.

use atedge_service::give_back_code;

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
