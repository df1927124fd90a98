//! The atDirectory: which host and port serve an atSign.
