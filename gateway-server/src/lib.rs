//! The fleet's host: many atServers in one process.
