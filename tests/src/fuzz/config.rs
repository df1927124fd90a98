//! What people write.

use std::sync::LazyLock;

use tempfile::TempDir;

/// A configuration is taken or refused with a complaint that points into the file.
pub(super) fn agent_config(input: &[u8]) {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));
    let file = FOLDER.path().join("agent.toml");
    std::fs::write(&file, input).expect("a file in our folder");
    if let Err(complaint) = atedge_agent::config::load(&[file]) {
        let text = complaint.to_string();
        assert!(text.starts_with("error: ") && text.trim_end().ends_with("unchanged."), "{text}");
    }
}
